"""Turns: how a new CHILD_SA takes over from an old one without a lost packet.

Who responds to CREATE_CHILD_SA can send into the new CHILD_SA before who initiates can receive. So
the responder has each further one give way to the one that is up: the priority of its policies is
a step behind (`ike.codec`). The initiator sends into the new one as soon as it is ready, ends the
old one when nothing depends on it, and thereby moves the responder. (charon's libipsec knows no
priorities: there the newest counts, and turns would change nothing.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fabricd.core.state import Conn, IkeSa, parse_child_name
from fabricd.core.tunnels import UP


def next_turn(conn: Conn, observed: Conn | None, sas: Iterable[IkeSa]) -> Conn:
    """A desired connection with the turn that is behind all CHILD_SAs that are up.

    `sas` are the IKE_SAs of this connection. What charon has already is kept as long as it serves.
    """
    if conn.turn is None:
        return conn
    names = [parse_child_name(c.name) for sa in sas for c in sa.children if c.state in UP]
    taken = [name.turn for name in names if name and name.turn is not None]
    had = observed.turn if observed and observed.turn is not None else 0
    return replace(conn, turn=max([had, *(turn + 1 for turn in taken)]))
