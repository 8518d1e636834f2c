"""ipsec.conf: how its text is read."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from fabricd.core.ipsec_conf import Conf, ConfError, parse

FILES = {
    "more.conf": "conn c\n  right=10.0.0.3\n",
    "loop.conf": "include loop.conf\n",
    "nothing/*.conf": "",
}


def include(pattern: str, within: str) -> Mapping[str, str]:
    assert within in {"ipsec.conf", "loop.conf"}
    text = FILES[pattern]
    return {pattern: text} if text else {}


def read(text: str) -> Conf:
    return parse(text, "ipsec.conf", include)


def values(text: str, name: str = "a") -> Mapping[str, str]:
    [found] = [conn.values for conn in read(text).conns if conn.name == name]
    return found


def test_sections_and_parameters() -> None:
    conf = read(
        """\
# a comment
version 2.0
config setup
    uniqueids = yes

conn a   # another one
\tleft=10.0.0.1      # and one more
    leftid = "C=CN, O=Org, CN=edge # 2"
  LeftSubnet=2.2.2.0/27,2.2.3.0/27
    rightid=CN=edge3# and no blank before it
    ifid=@#0a0b

ca section
    cacert=x.pem
conn b
"""
    )
    assert [(str(conn), dict(conn.values)) for conn in conf.conns] == [
        (
            "ipsec.conf: conn a",
            {
                "left": "10.0.0.1",
                "leftid": "C=CN, O=Org, CN=edge # 2",
                "leftsubnet": "2.2.2.0/27,2.2.3.0/27",
                "rightid": "CN=edge3",
                "ifid": "@#0a0b",
            },
        ),
        ("ipsec.conf: conn b", {}),
    ]
    assert conf.others == ["ipsec.conf: config setup", "ipsec.conf: ca section"]


def test_its_own_before_also_before_default() -> None:
    text = """\
conn a
    left=own
    also=b
conn %default
    left=default
    right=default
    ike=default
conn b
    left=b
    right=b
    also=deeper
conn deeper
    esp=deeper
"""
    assert values(text) == {"left": "own", "right": "b", "ike": "default", "esp": "deeper"}
    assert values(text, "deeper")["ike"] == "default"
    assert [conn.name for conn in read(text).conns] == ["a", "b", "deeper"]


def test_a_default_is_not_taken_for_what_also_brings() -> None:
    text = "conn %default\n left=default\nconn a\n also=b\n also=c\nconn b\n left=b\nconn c\n"
    assert values(text) == {"left": "b"}


def test_a_section_that_comes_again_adds_to_the_first() -> None:
    assert values("conn a\n left=1\n auto=add\nconn b\nconn a\n left=2\n") == {
        "left": "2",
        "auto": "add",
    }


def test_includes() -> None:
    conf = read("conn a\n left=1\ninclude more.conf\ninclude nothing/*.conf\n")
    assert [str(conn) for conn in conf.conns] == ["ipsec.conf: conn a", "more.conf: conn c"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (" left=1\n", "ipsec.conf:1: a parameter outside of a section"),
        ("conn a\nleft=1\n", "ipsec.conf:2: neither a section nor an indented key=value: left=1"),
        ("conn a\n left\n", "ipsec.conf:2: neither a section nor an indented key=value: left"),
        ('conn a\n leftid="x\n', "ipsec.conf:2: a quote is not closed"),
        ("conn a\n also=b\n", "ipsec.conf: conn a: also=b: there is no such conn"),
        (
            "conn a\n also=b\nconn b\n also=a\n",
            "ipsec.conf: conn b: also=a leads back to itself",
        ),
        ("include loop.conf\n", "loop.conf: files include one another without an end"),
    ],
)
def test_what_is_no_ipsec_conf_is_told_with_its_place(text: str, fault: str) -> None:
    with pytest.raises(ConfError, match=re.escape(fault)):
        read(text)
