"""Source NAT by iptables, out of `iptables-save` and `ipset save` (iptables-extensions(8)).

What is not understood is kept as a condition that can't be judged.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from typing import Final

from fabricd.calico.snat import (
    UNREADABLE,
    Addresses,
    Always,
    Condition,
    Holds,
    Net,
    OutLink,
    Rule,
    Table,
    Verdict,
)

VERDICTS: Final = {
    "MASQUERADE": Verdict.SNAT,
    "SNAT": Verdict.SNAT,
    "NETMAP": Verdict.SNAT,
    "ACCEPT": Verdict.END,
    "DROP": Verdict.END,
    "RETURN": Verdict.RETURN,
    "LOG": Verdict.NEXT,
    "MARK": Verdict.NEXT,
    "CONNMARK": Verdict.NEXT,
}

Sets = Mapping[str, tuple[Net, ...]]
"""The members of IP sets, by name."""

SOME: Final = Always(Holds.SOME)


def read_sets(text: str) -> Sets:
    """The sets of addresses and networks in `ipset save`; others are left out."""
    found: dict[str, list[Net]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and words[0] == "create" and words[2] in {"hash:net", "hash:ip"}:
            found[words[1]] = []
        elif len(words) >= 3 and words[0] == "add" and words[1] in found:
            if "nomatch" in words:
                del found[words[1]]
            else:
                found[words[1]].append(ip_network(words[2]))
    return {name: tuple(networks) for name, networks in found.items()}


def read_rules(text: str, sets: Sets, *, version: int, program: str) -> list[Table]:
    """The nat table of `iptables-save`; `program` is how to call it. Raises ValueError."""
    chains: dict[str, list[Rule]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif table == "nat" and line.startswith(":"):
            chains.setdefault(line[1:].split()[0], [])
        elif table == "nat" and line.startswith("-A "):
            words = shlex.split(line)
            chains.setdefault(words[1], []).append(_rule(line, words[2:], sets))
    if "POSTROUTING" not in chains:
        return []
    return [Table(f"{program} -t nat", frozenset({version}), chains, ("POSTROUTING",))]


def _rule(line: str, words: list[str], sets: Sets) -> Rule:
    conditions: list[Condition] = []
    verdict, target = Verdict.NEXT, ""
    while words:
        word = words.pop(0)
        negated = word == "!"
        if negated:
            word = words.pop(0)
        if word in {"-m", "--comment"}:  # a comment may look like an option
            words.pop(0)
            continue
        arguments = _take_arguments(words)
        if word in {"-j", "-g"}:
            target = arguments[0]
            jump = Verdict.JUMP if word == "-j" else Verdict.GOTO
            verdict = VERDICTS.get(target, jump)
            break  # what follows belongs to the target
        conditions.append(_condition(word, arguments, negated, sets))
    return Rule(line, tuple(conditions), verdict, target)


def _condition(word: str, arguments: list[str], negated: bool, sets: Sets) -> Condition:
    reader = _READERS.get(word)
    if reader is None:
        return UNREADABLE
    try:
        return reader(arguments, negated, sets)
    except (ValueError, IndexError):
        return UNREADABLE


def _take_arguments(words: list[str]) -> list[str]:
    taken = []
    while words and words[0] != "!" and not re.match(r"--?[a-z]", words[0]):
        taken.append(words.pop(0))
    return taken


def _address(destination: bool) -> Callable[[list[str], bool, Sets], Condition]:
    def read(arguments: list[str], negated: bool, _: Sets) -> Condition:
        networks = tuple(ip_network(text) for text in arguments[0].split(","))
        return Addresses(destination, networks, negated)

    return read


def _out_link(arguments: list[str], negated: bool, _: Sets) -> Condition:
    return OutLink((re.sub(r"\+$", "*", arguments[0]),), negated)


def _set(arguments: list[str], negated: bool, sets: Sets) -> Condition:
    name, directions = arguments
    if name not in sets or directions not in {"src", "dst"}:
        return UNREADABLE
    return Addresses(directions == "dst", sets[name], negated)


def _mark(arguments: list[str], negated: bool, _: Sets) -> Condition:
    """What comes straight from a pod has no mark."""
    wanted = int(arguments[0].partition("/")[0], 0)
    return Always(Holds.ALL if (wanted == 0) is not negated else Holds.NONE)


def _source_type(arguments: list[str], negated: bool, _: Sets) -> Condition:
    """A pod's address is never one of the node's own."""
    if arguments != ["LOCAL"]:
        return UNREADABLE
    return Always(Holds.ALL if negated else Holds.NONE)


def _part(_: list[str], __: bool, ___: Sets) -> Condition:
    return SOME


_READERS: Final[Mapping[str, Callable[[list[str], bool, Sets], Condition]]] = {
    "-s": _address(destination=False),
    "-d": _address(destination=True),
    "-o": _out_link,
    "-p": _part,
    "--dport": _part,
    "--sport": _part,
    "--dports": _part,
    "--sports": _part,
    "--match-set": _set,
    "--mark": _mark,
    "--src-type": _source_type,
}
