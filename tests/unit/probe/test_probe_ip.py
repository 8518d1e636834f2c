"""XFRM policies and SAs as `ip xfrm` of iproute2 6 prints them."""

from __future__ import annotations

import pytest

from fabricd.core.facts import Policy
from fabricd.core.machine import KernelSa
from fabricd.probe.ip import read_policies, read_sas

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
    assert read_sas(text) == []


SAS = """\
src 10.20.8.4 dst 10.20.8.141
\tproto esp spi 0xc12c73a0 reqid 2 mode tunnel
\treplay-window 0 flag af-unspec
\taead rfc4106(gcm(aes)) <<Keys hidden>> 128
\tanti-replay context: seq 0x0, oseq 0x1, bitmap 0x00000000
src 10.20.8.141 dst 10.20.8.4
\tproto esp spi 0x0ea0e7fe reqid 2 mode tunnel
\treplay-window 0 
\tsel src 10.20.8.141/32 dst 10.20.8.4/32 
src 10.20.8.141 dst 10.20.8.4
\tproto comp spi 0x00000002 reqid 0 mode transport
\tcomp deflate <<Keys hidden>>
src fd00::4 dst fd00::c
\tproto ah spi 0x00000100 reqid 0 mode transport
\tauth-trunc hmac(sha256) <<Keys hidden>> 96
"""  # noqa: W291 - as it is printed


def test_sas_that_are_more_than_an_spi() -> None:
    assert read_sas(SAS) == [
        KernelSa("10.20.8.4", "10.20.8.141", "esp", 0xC12C73A0),
        KernelSa("fd00::4", "fd00::c", "ah", 0x100),
    ]
    assert str(read_sas(SAS)[0]) == "src 10.20.8.4 dst 10.20.8.141 proto esp spi 0xc12c73a0"
