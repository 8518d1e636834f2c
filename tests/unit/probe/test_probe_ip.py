"""XFRM policies as `ip xfrm policy` of iproute2 6 prints them."""

from __future__ import annotations

import pytest

from fabricd.core.facts import Policy
from fabricd.probe.ip import read_policies

TEXT = """\
src 2.2.2.0/27 dst 2.2.2.32/27 
\tdir out action block priority 5 ptype main 
src 2.2.2.0/27 dst 2.2.2.32/27 
\tdir out priority 371327 ptype main 
\ttmpl src 10.20.8.4 dst 10.20.8.12
\t\tproto esp spi 0xc1a2b3c4 reqid 1 mode tunnel
src 2.2.2.32/27 dst 2.2.2.0/27 
\tdir fwd priority 371327 ptype main 
\ttmpl src 10.20.8.12 dst 10.20.8.4
\t\tproto esp reqid 1 mode tunnel
src 2.2.2.0/27 dst 2.2.2.32/27 proto tcp dport 22 
\tdir out priority 1 ptype main 
src 2.2.2.0/27 dst 2.2.2.32/27 
\tdir out priority 1 ptype main 
\tmark 0x7/0xffffffff 
src 0.0.0.0/0 dst 0.0.0.0/0 
\tsocket in priority 0 ptype main 
"""  # noqa: W291 - as it is printed


def test_policies_that_addresses_alone_decide() -> None:
    assert read_policies(TEXT) == [
        Policy("out", "2.2.2.0/27 to 2.2.2.32/27", 5, block=True),
        Policy("out", "2.2.2.0/27 to 2.2.2.32/27", 371327, template="10.20.8.4 to 10.20.8.12"),
        Policy("fwd", "2.2.2.32/27 to 2.2.2.0/27", 371327, template="10.20.8.12 to 10.20.8.4"),
    ]


@pytest.mark.parametrize("text", ["", "\n", "Nothing.\n"])
def test_none(text: str) -> None:
    assert read_policies(text) == []
