"""ip(8), as far as hands use it here, on a kernel in memory: the same words as on a real one."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fabricd.core.ownership import NUMBER
from fabricd.core.state import IfAddress, Link, Route, RouteKind, Rule
from fabricd.model import Address, Prefix, family, prefix
from tests.property.world import Kernel

PROTOCOLS: Final = {"kernel": 2, "boot": 3, "static": 4, "bird": 12}
"""rt_protos of iproute2."""

TABLES: Final = {"main": 254}


class Refused(Exception):
    """What ip(8) says on standard error."""


def ip(kernel: Kernel, command: str) -> list[str]:
    """Carry a command out; returns what `fabricd.kernel` passes on of what the kernel tells."""
    words = command.split()
    number = 4
    if words[0] in {"-4", "-6"}:
        number = int(words.pop(0)[1:])
    what, verb, *rest = words
    match what, verb:
        case "link", _:
            return _link(kernel, verb, rest)
        case "address", _:
            return _address(kernel, verb, rest)
        case "route", _:
            return _route(kernel, verb, rest)
        case "rule", _:
            return _rule(kernel, verb, rest, number)
    raise ValueError(command)


def _link(kernel: Kernel, verb: str, rest: list[str]) -> list[str]:
    name, *words = rest
    found = kernel.links.get(name)
    if verb == "add":
        if found is not None:
            raise Refused("File exists")
        kernel.set_link(Link(name, words[words.index("type") + 1], up=False))
        return [f"link {name}"]
    if found is None:
        raise Refused(f'Cannot find device "{name}"')
    match verb, words:
        case "delete", []:
            kernel.remove_link(name)
        case "set", ["up" | "down" as state]:
            kernel.set_link(replace(found, up=state == "up"))
        case "set", ["alias", alias]:
            kernel.set_link(replace(found, alias=alias))
        case _:
            raise ValueError(f"link {verb} {rest}")
    return [f"link {name}"]


def _address(kernel: Kernel, verb: str, rest: list[str]) -> list[str]:
    text, options = rest[0], _options(rest[1:])
    link = options["dev"]
    if link not in kernel.links:
        raise Refused(f'Cannot find device "{link}"')
    there = (link, text) in kernel.addresses
    if verb == "delete":
        if not there:
            raise Refused("Cannot assign requested address")
        kernel.remove_address(link, text)
    elif there:
        raise Refused("File exists")
    else:
        kernel.addresses[link, text] = IfAddress(link, text, _number(options, "0"))
    return [f"address {text}"]


def _route(kernel: Kernel, verb: str, rest: list[str]) -> list[str]:
    kind = RouteKind.UNICAST
    if rest[0] in set(RouteKind):
        kind = RouteKind(rest.pop(0))
    target, options = prefix(rest[0]), _options(rest[1:])
    table = options.get("table", "main")
    route = Route(
        TABLES.get(table) or int(table),
        target,
        kind,
        options.get("dev"),
        Address(options["src"]) if "src" in options else None,
        int(options.get("metric", "1024" if family(target) == 6 else "0")),
    )
    if verb == "delete":
        return _delete_route(kernel, route, options)
    owner, _ = there = kernel.routes.get(route.key, (-1, None))
    if verb == "add" and there[1] is not None:
        raise Refused("File exists")
    error = kernel.set_route(_number(options, "boot"), route)
    if error:
        raise Refused(error)
    ours = NUMBER in {owner, _number(options, "boot")}
    return [f"route {target}"] if ours or verb == "replace" else []


def _delete_route(kernel: Kernel, route: Route, options: dict[str, str]) -> list[str]:
    """Without a metric, the first of those to the prefix."""
    for key, (owner, other) in sorted(kernel.routes.items(), key=lambda item: item[0][2]):
        fits = key == route.key if "metric" in options else key[:2] == route.key[:2]
        if fits and options.get("protocol") in {None, str(owner)}:
            del kernel.routes[key]
            return [f"route {other.prefix}"] if owner == NUMBER else []
    raise Refused("No such process")


def _rule(kernel: Kernel, verb: str, rest: list[str], number: int) -> list[str]:
    options = _options(rest)
    priority = int(options["priority"])
    if verb == "delete":
        found = [
            item
            for item in kernel.rules
            if (item[1].family, item[1].priority) == (number, priority)
        ]
        if not found:
            raise Refused("No such file or directory")
        first = min(found, key=lambda item: (item[0], str(item[1])))
        kernel.rules = kernel.rules - {first}
        return [f"rule {priority}"] if first[0] == NUMBER else []
    owner = _number(options, "boot")
    table = options["table"]
    rule = Rule(
        number,
        priority,
        TABLES.get(table) or int(table),
        Prefix(options["to"]) if "to" in options else None,
        int(options["suppress_prefixlength"]) if "suppress_prefixlength" in options else None,
    )
    if (owner, rule) in kernel.rules:
        raise Refused("File exists")
    kernel.rules = kernel.rules | {(owner, rule)}
    return [f"rule {priority}"] if owner == NUMBER else []


def _options(words: list[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))


def _number(options: dict[str, str], default: str) -> int:
    text = options.get("protocol", options.get("proto", default))
    return PROTOCOLS.get(text) or int(text)
