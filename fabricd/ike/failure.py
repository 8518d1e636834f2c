"""Why an attempt to initiate failed: charon's log of it, distilled into one line. Pure.

Charon's answer says only that it failed. Its log says why, in lines whose wording is that of
strongSwan 5.9 and 6.0 alike (libcharon/sa/ikev2, libstrongswan/credentials); one that is not
known here costs clarity and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

OURS: Final = tuple(
    map(
        re.compile,
        (
            r"no private key found for .*",
            r"unable to resolve .*(?=, initiate aborted)",
            r"received IDr .*, but require .*",
            r"\w+ certificate invalid .*",
            r".*certificate was revoked.*",
            r"constraint check failed: .*",
            r"no issuer certificate found for .*",
            r"no trusted .*public key found for .*",
            r"authentication of .* failed",
            r".*authentication failed",
            r"no acceptable .* found",
            r"no matching .*",
            r"error installing .*",
            r"unable to (?:install|allocate) .*",
            r"traffic selectors .* unacceptable",
            r"peer does not support .*",
        ),
    )
)
"""What this side found wrong, from the cause to its consequences."""

NOTIFY: Final = re.compile(
    r"received (\w+) notify(?: error.*|, no CHILD_SA built|, will retry later)"
)
"""What the peer found wrong; it tells no more than that, by design (RFC 7296, 2.21)."""

HINTS: Final = {
    "NO_PROPOSAL_CHOSEN": "it has no connection for this node's address, or other proposals",
    "AUTHENTICATION_FAILED": "it does not accept this node's identity or certificate",
    "TS_UNACCEPTABLE": "it does not agree to these subnets",
}

REQUEST: Final = re.compile(r"generating (\w+) request \d+")
SENT: Final = re.compile(r"sending packet: from \S+ to (.+)\[\d+\] ")
RECEIVED: Final = "received packet: "
GIVEN_UP: Final = re.compile(r"giving up after (\d+) retransmits")


def explain(log: Sequence[str], error: str, patience: float) -> str:
    """The most telling line: what we found, what the peer said, or that it said nothing.

    `log`: messages of charon's `control-log` in their order; `error`: its answer, for want of
    anything better; `patience`: seconds that the attempt was given.
    """
    lines = [line.strip() for line in log]
    for pattern in OURS:
        for line in lines:
            if found := pattern.match(line):
                return found[0]
    for line in lines:
        if found := NOTIFY.fullmatch(line):
            hint = HINTS.get(found[1])
            return f"peer answered {found[1]}" + (f": {hint}" if hint else "")
    return _silence(lines, patience) or error


def _silence(lines: Sequence[str], patience: float) -> str | None:
    """Who did not answer to what, if the last thing that happened is a packet of ours."""
    exchange, peer, end = "", "", f"within {patience:g} s"
    for line in lines:
        if found := REQUEST.match(line):
            exchange = found[1]
        elif found := SENT.match(line):
            peer = found[1]
        elif line.startswith(RECEIVED):
            peer = ""
        elif found := GIVEN_UP.match(line):
            end = f"after {found[1]} retransmissions"
    return f"no answer from {peer} to {exchange} {end}" if peer else None
