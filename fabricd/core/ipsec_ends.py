"""The connections of an ipsec.conf that become tunnels, and who is at their ends.

Every one is a line between two ends, whichever of them is left; an end is known by its identity,
by its certificate or by its address.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fabricd.core.ipsec_conf import Conn
from fabricd.model import NAME_PATTERN, Prefix, address, prefix

SubjectOf = Callable[[str], str | None]
"""Subject of a certificate by the file that `leftcert` names; None: it can't be read."""

ENDS: Final = ("left", "right")

CARRIED: Final = frozenset(
    {"auto", "keyexchange", "type", "authby"}
    | {f"{end}{key}" for end in ENDS for key in ("", "subnet", "id", "cert", "sendcert", "ca")}
)
"""What becomes part of a record, or what fabricd does anyway."""

PLACELESS: Final = ("%any", "%any4", "%any6", "%defaultroute", "0.0.0.0", "::")  # noqa: S104
"""Instead of an address: the end is anywhere, or wherever this machine is."""


@dataclass(frozen=True, slots=True)
class End:
    """One side of a connection."""

    conn: Conn
    host: str | None
    """Address or DNS name."""
    identity: str
    """Empty: not said."""
    cert: str
    subnets: tuple[Prefix, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A connection whose ends are known."""

    conn: Conn
    ends: tuple[End, End]
    names: tuple[str, str]


# ---------------------------------------------------------------- connections


def tunnels(conns: Sequence[Conn], warnings: list[str]) -> Iterator[tuple[End, End]]:
    """The connections that become tunnels. `warnings` gets the others, and what these lose."""
    dropped: dict[str, list[str]] = defaultdict(list)
    for conn in conns:
        values = conn.values
        if not any(values.get(end) for end in ENDS) and values.get("auto", "ignore") == "ignore":
            continue  # only there for others' `also`
        if refused := _refused(values):
            warnings.append(f"{conn}: {refused}: left out")
            continue
        if values.get("authby") in {"secret", "psk"}:
            warnings.append(
                f"{conn}: authenticates with a shared secret: fabricd's nodes need certificates"
            )
        if values.get("auto") == "route":
            warnings.append(f"{conn}: auto=route: fabricd brings every tunnel up, and keeps it up")
        for key in values.keys() - CARRIED:
            dropped[key].append(conn.name)
        try:
            yield _end(conn, "left"), _end(conn, "right")
        except ValueError as error:
            warnings.append(f"{conn}: {error}: left out")
    for key, where in sorted(dropped.items()):
        warnings.append(f"{key} is not carried over (conn {', '.join(where)})")


def _refused(values: Mapping[str, str]) -> str:
    """Why a connection has no place in a fabric; empty: it has."""
    kind, version = values.get("type", "tunnel"), values.get("keyexchange", "ike")
    if kind != "tunnel":
        return f"type={kind}"
    if version not in {"ike", "ikev2"}:
        return f"keyexchange={version}: fabricd speaks IKEv2 only"
    return ""


def _end(conn: Conn, side: str) -> End:
    """One side. Raises ValueError."""
    values = conn.values
    host = values.get(side, "%any").split(",")[0].strip()
    identity = values.get(f"{side}id", "").removeprefix("@").strip()
    subnets = values.get(f"{side}subnet", "")
    if not subnets:
        raise ValueError(f"{side}subnet is missing: a fabric joins the subnets behind nodes")
    return End(
        conn,
        None if host in PLACELESS or "/" in host else host.lower(),
        "" if identity.startswith("%") else identity,
        values.get(f"{side}cert", ""),
        tuple(_subnet(side, text.strip()) for text in subnets.split(",")),
    )


def _subnet(side: str, text: str) -> Prefix:
    try:
        return prefix(text)
    except ValueError as error:
        raise ValueError(f"{side}subnet={text}: {error}") from error


# ---------------------------------------------------------------- who is who


def identify(
    ends: Sequence[tuple[End, End]],
    names: Mapping[str, str],
    subject_of: SubjectOf,
    faults: list[str],
    warnings: list[str],
) -> list[Line]:
    """The connections with the names of their nodes. One may show a node's identity and another its
    address only: what is known of an address from one holds for all. `names`: a node's name by its
    address, where nothing tells.
    """
    everything = [end for pair in ends for end in pair]
    known = {end.host: end.identity for end in everything if end.host and end.identity}
    guessed: dict[str, str] = {}

    def name_of(end: End) -> str:
        identity = end.identity or subject(end, subject_of) or known.get(end.host or "", "")
        if name := names.get(end.host or "") or _name_in(identity):
            return name
        if name := _name_of_file(end.cert):
            guessed[end.cert] = name
            return name
        faults.append(
            f"{end.conn}: who is {end.host or end.identity or 'the end without an address'}? Say "
            "--name ADDRESS=NAME, or import the other side's file as well"
        )
        return ""

    lines = [Line(pair[0].conn, pair, (name_of(pair[0]), name_of(pair[1]))) for pair in ends]
    for cert, name in guessed.items():
        warnings.append(
            f"the node with the certificate {cert} is taken for {name}: if that is wrong, --name "
            "ADDRESS=NAME"
        )
    return lines


def subject(end: End, subject_of: SubjectOf) -> str:
    """Of an end's certificate; empty: it has none that can be read."""
    return (subject_of(end.cert) or "") if end.cert else ""


def _name_in(identity: str) -> str:
    """The node's name in an identity: the common name of a distinguished one, or all of it."""
    found = re.search(r"(?:^|[,/])\s*CN\s*=\s*([^,/]+)", identity)
    if found is None and ("=" in identity or _is_address(identity)):
        return ""
    return _name(found[1] if found else identity)


def _is_address(text: str) -> bool:
    try:
        address(text)
    except ValueError:
        return False
    return True


def _name_of_file(cert: str) -> str:
    """`edge2` for `edge2Cert.pem`, as the first proof of concept called its files."""
    stem = cert.rpartition("/")[2].partition(".")[0]
    return _name(re.sub(r"[-_]?[Cc]ert(ificate)?$", "", stem))


def _name(text: str) -> str:
    """As a record's name; empty: it can't be one."""
    lowered = text.strip().lower().replace("_", "-")
    return lowered if re.fullmatch(NAME_PATTERN, lowered) else ""
