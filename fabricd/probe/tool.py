"""The node's own tools, run to their end."""

from __future__ import annotations

from typing import Final

import trio

from fabricd.errors import Unavailable

TIMEOUT: Final = 10.0
"""Seconds for one tool."""

PACKAGES: Final = {
    "ip": "iproute2",
    "nft": "nftables",
    "ss": "iproute2",
    "unshare": "util-linux",
}
"""Debian's names."""


async def run(*argv: str) -> str:
    """What a tool prints. Raises Unavailable."""
    said, refused = await try_run(*argv)
    if refused:
        raise Unavailable("kernel", f"{' '.join(argv)}: {refused}")
    return said


async def try_run(*argv: str) -> tuple[str, str]:
    """What a tool prints, and in what words it refuses; one of the two is empty.

    Raises Unavailable when it can't be run at all.
    """
    try:
        with trio.fail_after(TIMEOUT):
            done = await trio.run_process(
                argv, capture_stdout=True, capture_stderr=True, check=False
            )
    except FileNotFoundError as error:
        reason = f"{argv[0]} is not installed: apt install {PACKAGES[argv[0]]}"
        raise Unavailable("kernel", reason) from error
    except trio.TooSlowError as error:
        raise Unavailable("kernel", f"{argv[0]}: no answer within {TIMEOUT:g} s") from error
    if done.returncode:
        return "", " ".join(done.stderr.decode(errors="replace").split()) or "refused"
    return done.stdout.decode(errors="replace"), ""
