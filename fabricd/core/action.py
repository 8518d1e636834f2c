"""What can be done to the kernel and to charon: the vocabulary between plan and effectors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from fabricd.core.state import (
    ChildSa,
    Conn,
    Filter,
    IfAddress,
    IkeSa,
    Link,
    Pod,
    Route,
    Rule,
    Sysctl,
)


class Disruption(StrEnum):
    """What an action does to traffic that flows now."""

    NONE = "none"
    REKEY = "rekey"
    """A new SA takes over from an old one; nothing is lost."""
    DROP = "drop"
    """Traffic that flowed stops."""


class Part(StrEnum):
    """The two parts of a node that are reconciled."""

    KERNEL = "kernel"
    CHARON = "charon"


class Kind(StrEnum):
    """One a verb of an effector. The comment says what `Action.item` is."""

    SYSCTL_SET = "sysctl.set"  # Sysctl
    LINK_ADD = "link.add"  # Link: create with alias, set up
    LINK_SET = "link.set"  # Link, exists: set its administrative state, and its MTU if it has one
    LINK_REMOVE = "link.remove"  # Link
    ADDRESS_ADD = "address.add"  # IfAddress
    ADDRESS_REMOVE = "address.remove"  # IfAddress
    POD_SET = "pod.set"  # Pod: make its veth pair, or put right what is wrong with it
    FILTER_SET = "filter.set"  # Filter: load our table of nftables in place of what it holds
    FILTER_REMOVE = "filter.remove"  # Filter
    ROUTE_SET = "route.set"  # Route: create, or replace the one with the same key
    ROUTE_REMOVE = "route.remove"  # Route
    RULE_ADD = "rule.add"  # Rule: create, in place of one of ours with the same priority
    RULE_REMOVE = "rule.remove"  # Rule
    AUTHORITY_LOAD = "authority.load"  # str, the name
    AUTHORITY_UNLOAD = "authority.unload"  # str, the name
    CRL_LOAD = "crl.load"  # str, the issuer
    KEY_LOAD = "key.load"  # str, the identifier
    KEY_UNLOAD = "key.unload"  # str, the identifier
    CONN_LOAD = "conn.load"  # Conn: create, update or replace
    CONN_TURN = "conn.turn"  # Conn, loaded: its next CHILD_SAs are of another turn
    CONN_UNLOAD = "conn.unload"  # Conn; live SAs stay
    CHILD_INITIATE = "child.initiate"  # Tunnel
    CHILD_REKEY = "child.rekey"  # ChildSa, by its id: another takes over from it
    CHILD_TERMINATE = "child.terminate"  # ChildSa, by its id
    IKE_TERMINATE = "ike.terminate"  # IkeSa, by its id, its CHILD_SAs with it

    @property
    def drift(self) -> str:
        """The kind of object, as `drift_repairs_total` counts it: `route`, `conn` …"""
        return self.value.partition(".")[0]

    @property
    def part(self) -> Part:
        """Who carries it out; what is to be initiated is charon's too, in its own time."""
        return Part.KERNEL if self in KERNEL_KINDS else Part.CHARON


KERNEL_KINDS = frozenset(
    kind
    for kind in Kind
    if kind.drift in {"sysctl", "link", "address", "route", "rule", "pod", "filter"}
)
"""The others are charon's."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A CHILD_SA that this node has to initiate."""

    conn: str
    child: str
    """The child's name in charon; empty: an IKE_SA alone."""
    beside: bool = field(default=False, compare=False)
    """An older CHILD_SA carries the same pair until this one takes over."""


Item = (
    Sysctl | Link | IfAddress | Route | Rule | Pod | Filter | Conn | Tunnel | ChildSa | IkeSa | str
)


@dataclass(frozen=True, slots=True)
class Action:
    """One step of a plan."""

    kind: Kind
    target: str
    """The object, as an operator would name it: `2.2.2.32/27 dev fabric0 table 198`."""
    disruption: Disruption
    reason: str
    item: Item

    @property
    def name(self) -> str:
        """Kind and target: what tells an action from the others of its plan."""
        return f"{self.kind.value} {self.target}"


WANTED: Final = "the records ask for it"
UNWANTED: Final = "no record asks for it"
"""How a reason begins."""


def act(
    kind: Kind, target: str, item: Item, reason: str, disruption: Disruption = Disruption.NONE
) -> Action:
    """An action; most disturb nothing."""
    return Action(kind, target, disruption, reason, item)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an action: `error` is one line that says what was refused and why, or None."""

    action: Action
    error: str | None = None


def action_document(action: Action) -> dict[str, str]:
    """An action as it is shown and logged: `{"kind", "target", "disruption", "reason"}`."""
    return {
        "kind": action.kind.value,
        "target": action.target,
        "disruption": action.disruption.value,
        "reason": action.reason,
    }


def plan_document(actions: Iterable[Action]) -> dict[str, list[dict[str, str]]]:
    """The document in which a plan is shown: `{"actions": [{"kind", "target", …}]}`."""
    return {"actions": list(map(action_document, actions))}
