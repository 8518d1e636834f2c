"""From differences to ordered actions: the one place that knows order and disruption.

Additions come first, each thing after what it stands on; removals follow. So a route, a
connection or an SA is replaced by making the new before breaking the old. The plan of a state
that a plan has led to is empty, or tidies up the SAs that were replaced and is empty then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from fabricd.core.action import Action, Disruption, Item, Kind
from fabricd.core.desired import DesiredState
from fabricd.core.kept import Kept
from fabricd.core.plan_ike import IkePlanner
from fabricd.core.plan_kernel import kernel_actions
from fabricd.core.pods import is_port
from fabricd.core.routing import MAIN_TABLE
from fabricd.core.sas import rekey_actions, terminate
from fabricd.core.specifics import beside_doors
from fabricd.core.state import IkeState, KernelState, Link, Route, RouteKind

ORDER: Final = (
    # What should be there.
    Kind.SYSCTL_SET,
    Kind.LINK_ADD,
    Kind.LINK_SET,
    Kind.ADDRESS_ADD,  # before the routes that take it as their source
    Kind.FILTER_SET,
    Kind.POD_SET,  # after the bridge and its addresses
    Kind.ROUTE_SET,
    Kind.RULE_ADD,  # switches the whole table on at once
    Kind.AUTHORITY_LOAD,
    Kind.CRL_LOAD,
    Kind.KEY_LOAD,
    Kind.CONN_LOAD,
    Kind.CONN_TURN,
    Kind.CHILD_INITIATE,
    Kind.CHILD_REKEY,
    # What should not. A connection goes before its SAs: the peer can't bring them back then.
    Kind.CONN_UNLOAD,
    Kind.CHILD_TERMINATE,
    Kind.IKE_TERMINATE,
    Kind.KEY_UNLOAD,
    Kind.AUTHORITY_UNLOAD,
    Kind.RULE_REMOVE,
    Kind.ROUTE_REMOVE,
    Kind.ADDRESS_REMOVE,
    Kind.FILTER_REMOVE,
    Kind.LINK_REMOVE,
)

REMOVALS: Final = frozenset(ORDER[ORDER.index(Kind.CONN_UNLOAD) :])

_RANK: Final = {kind: rank for rank, kind in enumerate(ORDER)}

_ROUTE_RANK: Final = {
    # What lets traffic pass before what refuses it, and the reverse when they go.
    RouteKind.THROW: 0,
    RouteKind.UNICAST: 1,
    RouteKind.UNREACHABLE: 2,
    RouteKind.BLACKHOLE: 3,
}

LAST_RESORT: Final = -1
"""Rank of what refuses in the main table whatever our own table lets through to it: it is there
before that is, and stays until that is gone."""


class Planner:
    """Makes plans; what has not changed since the last one is not gone through again."""

    def __init__(self) -> None:
        self._kernel = Kept(_of_kernel)
        self._ike = IkePlanner()

    def plan(
        self,
        desired: DesiredState,
        kernel: KernelState | None,
        ike: IkeState | None,
        *,
        removals: bool = True,
        distrusted: Mapping[int, str] = MappingProxyType({}),
        silent: Mapping[int, str] = MappingProxyType({}),
    ) -> tuple[Action, ...]:
        """The actions that lead from what is observed to what is desired, in order.

        A part that could not be observed is None and left alone. `removals=False` while the source
        of records is not in sync: nothing that is there is taken away then, but for what has
        nothing to do with records: doors, pods, and the IKE_SAs whose peers' certificates are not
        valid (any more): `distrusted`, unique id to reason. `silent`: CHILD_SAs to be made anew, by
        id as well.
        """
        actions: list[Action] = []
        if kernel is not None:
            actions += self._kernel.of(desired, kernel)
        if ike is not None and desired.ike:
            trusted = ike
            if distrusted:
                sas = tuple(sa for sa in ike.sas if sa.id not in distrusted)
                trusted = replace(ike, sas=sas)
            actions += self._ike.actions(desired, trusted)
        if ike is not None and silent:
            actions += rekey_actions(desired, ike, silent)
        if not removals:
            actions = _without_removals(actions, desired)
        if ike is not None and distrusted:
            actions += [
                terminate(sa, Disruption.DROP, distrusted[sa.id])
                for sa in ike.sas
                if sa.id in distrusted
            ]
        return tuple(sorted(actions, key=_position))


def plan(
    desired: DesiredState,
    kernel: KernelState | None,
    ike: IkeState | None,
    *,
    removals: bool = True,
) -> tuple[Action, ...]:
    """One plan, as `Planner.plan` makes it."""
    return Planner().plan(desired, kernel, ike, removals=removals)


def _of_kernel(desired: DesiredState, kernel: KernelState) -> tuple[Action, ...]:
    return tuple(kernel_actions(desired, kernel))


def _without_removals(actions: list[Action], desired: DesiredState) -> list[Action]:
    """A door is closed, a pod detached whatever the source does."""
    if not any(action.kind in REMOVALS for action in actions):
        return actions
    doors = {route for ways in desired.doors.values() for route in ways}
    doors |= beside_doors(desired.doors, (a.item for a in actions if isinstance(a.item, Route)))
    return [a for a in actions if a.kind not in REMOVALS or a.item in doors or _is_port(a.item)]


def _is_port(item: Item) -> bool:
    return isinstance(item, Link) and is_port(item)


def _position(action: Action) -> tuple[int, int, str]:
    detail = 0
    if isinstance(action.item, Route):
        detail = _ROUTE_RANK[action.item.kind]
        if action.item.table == MAIN_TABLE and action.item.kind is RouteKind.UNREACHABLE:
            detail = LAST_RESORT
        if action.kind is Kind.ROUTE_REMOVE:
            detail = -detail
    return _RANK[action.kind], detail, action.target
