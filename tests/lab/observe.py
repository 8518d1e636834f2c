"""What a test sees of a fabric from outside: kernel and charon as they are, what the daemon says
over HTTP, on its control socket and in its log.

By iproute2 and strongSwan's own client: it must not stand on the code that it judges.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import vici

from lab import rundir
from lab.charon import Charon
from lab.fabric import Fabric, FabricNode
from lab.netns import Namespace
from lab.pki import Authority, FirstAuthority
from lab.process import CommandError, wait_until
from lab.topology import FIRST, Layout
from tests.lab.purged import purged_at_the_end

SOON: Final = 120
"""Seconds in which anything happens that a test waits for, however slow the machine is."""

# ---------------------------------------------------------------- kernel


def kernel(namespace: Namespace, *, indexes: bool = True) -> dict[str, Any]:
    """Links, addresses, routes and rules of a namespace, to be compared with ==.

    `indexes`: tell a link from one of the same name that was made anew. Left out are tables and
    addresses that the kernel fills in by itself.
    """
    ip = namespace.ip
    described = json.loads(ip("-j", "-d", "address"))
    return {
        "links": {
            link["ifname"]: {
                "kind": link.get("linkinfo", {}).get("info_kind", ""),
                "up": "UP" in link["flags"],
                "alias": link.get("ifalias", ""),
                "master": link.get("master", ""),
                "index": link["ifindex"] if indexes else None,
            }
            for link in described
        },
        "addresses": sorted(
            (link["ifname"], f"{a['local']}/{a['prefixlen']}", a.get("protocol", ""))
            for link in described
            for a in link["addr_info"]
            if not a["local"].startswith("fe80:")
        ),
        "routes": _lines(ip("-d", "-4", "route", "show", "table", "all"), without=" table local ")
        + _lines(ip("-d", "-6", "route", "show", "table", "all"), without=" proto kernel "),
        "rules": _lines(ip("-d", "-4", "rule")) + _lines(ip("-d", "-6", "rule")),
    }


def _lines(text: str, without: str = "\0") -> list[str]:
    return sorted(line.strip() for line in text.splitlines() if without not in line)


# ---------------------------------------------------------------- charon


@contextmanager
def session(charon: Charon) -> Iterator[Any]:
    """charon's control interface: a `vici.Session`."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(charon.socket_path))
        yield vici.Session(sock)


def ike(charon: Charon) -> dict[str, Any]:
    """Authorities, keys and connections of a charon, to be compared with ==."""
    with session(charon) as asked:
        return {
            "authorities": sorted(_text(asked.get_authorities()).get("authorities", [])),
            "keys": sorted(_text(asked.get_keys()).get("keys", [])),
            "conns": {k: v for item in asked.list_conns() for k, v in _text(item).items()},
        }


def sas(charon: Charon) -> dict[str, list[str]]:
    """SAs by their unique ids: `{"fabric-edge3 #6": ["2.2.2.0/27-… #3"]}`, without those that are
    being made or taken away.
    """
    found: dict[str, list[str]] = {}
    with session(charon) as asked:
        for item in asked.list_sas():
            for name, sa in _text(item).items():
                if sa["state"] == "ESTABLISHED":
                    found[f"{name} #{sa['uniqueid']}"] = sorted(
                        f"{child['name']} #{child['uniqueid']}"
                        for child in sa.get("child-sas", {}).values()
                        if child["state"] == "INSTALLED"
                    )
    return found


def _text(value: Any) -> Any:
    """What charon said, with str for bytes."""
    match value:
        case bytes():
            return value.decode(errors="replace")
        case dict():
            return {key: _text(item) for key, item in value.items()}
        case list():
            return [_text(item) for item in value]
    return value


def wait_sas(
    fabric: Fabric, name: str, what: str, condition: Callable[[dict[str, list[str]]], object]
) -> None:
    """Wait until a node's SAs fulfil a condition, which `what` says in words."""
    charon = fabric.nodes[name].charon
    wait_until(lambda: condition(sas(charon)), f"{name}: {what}", SOON)


def whole(fabric: Fabric) -> dict[str, Any]:
    """All that fabricd looks after, on every node, to be compared with ==."""
    return {
        name: {
            "kernel": kernel(node.namespace),
            "charon": ike(node.charon),
            "sas": sas(node.charon),
        }
        for name, node in fabric.nodes.items()
    }


def look(node: FabricNode) -> dict[str, Any]:
    """The same of one node, but for the ids of what was made anew; a charon that does not run holds
    nothing.
    """
    found: dict[str, Any] = {"kernel": kernel(node.namespace, indexes=False)}
    if node.charon.answers():
        counts = {sa.split()[0]: len(kids) for sa, kids in sas(node.charon).items()}
        found |= {"charon": ike(node.charon), "sas": counts}
    return found


# ---------------------------------------------------------------- the daemon


def get(fabric: Fabric, name: str, path: str) -> tuple[int, str]:
    """HTTP status and body of what a node's daemon serves. Raises CommandError when it is broken
    off.
    """
    script = (
        'exec 3<>/dev/tcp/127.0.0.1/9815; printf "GET %s HTTP/1.0\\r\\n\\r\\n" "$0" >&3; cat <&3'
    )
    answer = fabric.nodes[name].namespace.run("bash", "-c", script, path)
    head, _, body = answer.replace("\r\n", "\n").partition("\n\n")
    if not head:
        raise CommandError((name, path), "none", "", "no answer")
    return int(head.split()[1]), body


def metrics(fabric: Fabric, name: str) -> dict[str, float]:
    """A node's metrics: `fabricd_tunnel_up{peer="edge3"}` → 1.0."""
    _, body = get(fabric, name, "/metrics")
    lines = (line.rpartition(" ") for line in body.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, _, value in lines}


def wait_growth(fabric: Fabric, name: str, series: str, above: float) -> None:
    """Wait until a metric exceeds a value."""
    wait_until(lambda: metrics(fabric, name).get(series, 0) > above, f"{series} > {above}", SOON)


def status(fabric: Fabric, name: str) -> dict[str, Any]:
    """The status document."""
    return fabric.ask(name, "/status")


def wait_status(
    fabric: Fabric,
    name: str,
    what: str,
    condition: Callable[[dict[str, Any]], object],
    timeout: float = SOON,
) -> dict[str, Any]:
    """Wait until a node's status fulfils a condition, which `what` says in words; return it."""

    seen: dict[str, Any] = {}

    def fulfilled() -> object:
        seen.update(status(fabric, name))
        return condition(seen)

    wait_until(fulfilled, f"{name}: {what}", timeout)
    return seen


def wait_peers(fabric: Fabric, name: str, *peers: str, timeout: float = SOON) -> None:
    """Wait until a node has exactly these peers, all up."""
    wanted = dict.fromkeys(peers, True)
    wait_status(
        fabric,
        name,
        f"has its tunnels to {', '.join(peers)}",
        lambda seen: {peer["name"]: peer["up"] for peer in seen["peers"]} == wanted,
        timeout,
    )


def wait_unready(fabric: Fabric, name: str, part: str) -> str:
    """Wait until a node is not ready because of its `store` or its `charon`, in the words of its
    status, which may change: return them.
    """

    def told() -> str:
        seen = status(fabric, name)["source" if part == "store" else part]
        code, reasons = get(fabric, name, "/readyz")
        lines = reasons.splitlines()
        return seen["reason"] if code == 503 and f"{part}: {seen['reason']}" in lines else ""

    return wait_until(told, f"{name} is not ready, for want of its {part}", SOON)


def wait_converged(fabric: Fabric, timeout: float = SOON) -> None:
    """Wait until every node is in sync, has exactly its tunnels, all up, and nothing to do, and the
    cluster's other nodes know the way to the edges.
    """
    for name in fabric.nodes:
        wait_status(fabric, name, "is in sync", lambda seen: seen["synced"], timeout)
    for name in fabric.nodes:
        wait_peers(fabric, name, *fabric.expected_peers(name), timeout=timeout)
    wait_until(
        lambda: not any(fabric.ask(name, "/plan")["actions"] for name in fabric.nodes),
        "nobody has anything to do",
        timeout,
    )
    if any(record["role"] == "cloud" for record in fabric.records.values()):
        for name in fabric.layout.blocks.keys() - fabric.nodes.keys():
            fabric.birds[name].wait_learned("2.0.0.0/8", timeout=timeout)


def look_again(fabric: Fabric, name: str) -> None:
    """SIGHUP, as `systemctl reload` sends it: look at everything now, not at the next sweep."""
    fabricd = fabric.nodes[name].fabricd
    assert fabricd is not None
    fabricd.signal(signal.SIGHUP)


class Log:
    """What a node's daemon logs from here on."""

    def __init__(self, fabric: Fabric, name: str) -> None:
        self._path = fabric.run / f"{name}-fabricd.log"
        self._start = self._path.stat().st_size if self._path.exists() else 0

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """Its lines, or those of one event; the last one only once it is whole."""
        with self._path.open("rb") as file:
            file.seek(self._start)
            whole, _, _ = file.read().rpartition(b"\n")
        documents = [json.loads(line) for line in whole.splitlines()]
        return [d for d in documents if not event or d["event"] == event]

    def wait(self, event: str) -> dict[str, Any]:
        """Wait for the first line of an event."""
        [first, *_] = wait_until(lambda: self.lines(event), f"a line {event!r}", SOON)
        return first


# ---------------------------------------------------------------- when a test fails


@contextmanager
def or_else(undo: Callable[[], object]) -> Iterator[None]:
    """What is taken away in this block is given back if it fails, for the tests that follow."""
    try:
        yield
    except BaseException:
        undo()
        raise


def revive(fabric: Fabric, *names: str) -> None:
    """Start the daemons of these nodes, or of all, that don't run."""
    for name in names or fabric.nodes:
        process = fabric.nodes[name].fabricd
        if process is None or not process.alive:
            fabric.start_fabricd(name)


# ---------------------------------------------------------------- fabrics of a test's own


@contextmanager
def whole_fabric(
    layout: Layout = FIRST,
    *,
    authority: Callable[[Path], Authority | FirstAuthority] = Authority,
    before_fabricd: Callable[[Fabric], object] = lambda fabric: None,
) -> Iterator[Fabric]:
    """A fabric, converged, and purged in the end. `before_fabricd` is done when all else runs."""
    run = rundir.make("lt-")
    try:
        fabric = Fabric(f"{run.name}-", run, layout, authority=authority)
        with purged_at_the_end(fabric, look):
            fabric.build()
            fabric.start_services()
            before_fabricd(fabric)
            for name, record in layout.records.items():
                fabric.put_record(name, record)
            fabric.start_daemons()
            fabric.wait_converged()
            wait_converged(fabric)
            yield fabric
    finally:
        rundir.remove(run)


@contextmanager
def own_fabric(layout: Layout = FIRST) -> Iterator[Fabric]:
    """A fabric with networks, certificates and configs, in which nothing runs yet; purged in the
    end. Its charons give up a silent peer after 4.5 seconds instead of 9.
    """
    run = rundir.make("lt-")
    try:
        fabric = Fabric(f"{run.name}-", run, layout)
        fabric.build()
        for node in fabric.nodes.values():
            conf = node.charon.conf.read_text(encoding="utf-8")
            patient, impatient = "retransmit_timeout = 0.7\n", "retransmit_timeout = 0.35\n"
            assert patient in conf
            node.charon.conf.write_text(conf.replace(patient, impatient), encoding="utf-8")
        with purged_at_the_end(fabric, look):
            yield fabric
    finally:
        rundir.remove(run)
