"""`fabricctl pod`: what is asked of the daemon, and what an operator sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fabricd.cli.control import ask as real
from tests.unit.cli.conftest import Ctl, Daemon


def pod(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "state": "attached",
        "reason": "",
        "addresses": ["2.2.2.2/27"],
        "netns": "/run/netns/ns1",
        "ifname": "eth0",
        "port": "pod0123456789",
        "network": "",
        **fields,
    }


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What goes along with the requests."""
    wishes: list[dict[str, Any]] = []

    def ask(socket: Path, method: str, path: str, body: Any = None) -> dict[str, Any]:
        wishes.append(body)
        return real(socket, method, path, body)

    monkeypatch.setattr("fabricd.cli.pod.ask", ask)
    return wishes


def test_attach(ctl: Ctl, daemon: Daemon, asked: list[dict[str, Any]]) -> None:
    daemon.answer("POST /pods/attach", pod("pod1"))
    result = ctl("pod", "attach", "pod1", "--netns", "ns1")
    assert (result.exit_code, result.output) == (
        0,
        "pod pod1: 2.2.2.2/27 on eth0 in /run/netns/ns1\n",
    )
    assert asked == [{"name": "pod1", "netns": "/run/netns/ns1", "ifname": "eth0", "addresses": ()}]


def test_attach_with_all_that_can_be_said(
    ctl: Ctl, daemon: Daemon, asked: list[dict[str, Any]]
) -> None:
    document = pod("pod1", addresses=["2.2.2.9/27", "fd00:2::9/64"], ifname="net1")
    daemon.answer("POST /pods/attach", document)
    words = "--netns /proc/7/ns/net --address 2.2.2.9 --address fd00:2::9/64 --ifname net1 -o json"
    result = ctl("pod", "attach", "pod1", *words.split())
    assert result.exit_code == 0
    assert json.loads(result.output) == document
    assert asked == [
        {
            "name": "pod1",
            "netns": "/proc/7/ns/net",
            "ifname": "net1",
            "addresses": ("2.2.2.9", "fd00:2::9/64"),
        }
    ]


def test_a_path_from_here(
    ctl: Ctl,
    daemon: Daemon,
    asked: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    daemon.answer("POST /pods/attach", pod("pod1"))
    assert ctl("pod", "attach", "pod1", "--netns", "./ns1").exit_code == 0
    assert asked[0]["netns"] == str(tmp_path / "ns1")


def test_why_it_is_refused(ctl: Ctl, daemon: Daemon) -> None:
    why = "no address is free in 2.2.2.0/27: detach pods, or add a subnet"
    daemon.answer("POST /pods/attach", {"error": why}, 409)
    result = ctl("pod", "attach", "pod1", "--netns", "ns1")
    assert result.exit_code == 1
    assert result.stderr.strip().endswith(why)


def test_where_it_goes_has_to_be_said(ctl: Ctl, daemon: Daemon) -> None:
    result = ctl("pod", "attach", "pod1")
    assert result.exit_code == 2
    assert "--netns" in result.stderr
    assert daemon.asked == []


def test_detach(ctl: Ctl, daemon: Daemon) -> None:
    daemon.answer("POST /pods/detach", {"name": "pod1", "detached": True})
    result = ctl("pod", "detach", "pod1")
    assert (result.exit_code, result.output) == (0, "")
    daemon.answer("POST /pods/detach", {"name": "pod1", "detached": False})
    result = ctl("pod", "detach", "pod1")
    assert result.exit_code == 1
    assert "there is no pod pod1 here: see fabricctl pod list" in result.stderr


def test_list(ctl: Ctl, daemon: Daemon) -> None:
    gone = pod(
        "c0ffee.eth0",
        state="gone",
        reason="no namespace there",
        addresses=["2.2.2.3/27", "fd00:2::3/64"],
        netns="/run/netns/ns2",
        network="fabric",
    )
    daemon.answer("GET /pods", {"pods": [gone, pod("pod1")], "faults": []})
    assert (
        ctl("pod", "list").output
        == """\
POD          STATE     ADDRESSES                 INTERFACE  NAMESPACE       REASON
c0ffee.eth0  gone      2.2.2.3/27, fd00:2::3/64  eth0       /run/netns/ns2  no namespace there
pod1         attached  2.2.2.2/27                eth0       /run/netns/ns1
"""
    )
    wide = ctl("pod", "list", "-o", "wide").output.splitlines()
    assert wide[0].split()[-2:] == ["PORT", "NETWORK"]
    assert wide[1].split()[-2:] == ["pod0123456789", "fabric"]
    assert json.loads(ctl("pod", "list", "-o", "json").output)["pods"] == [gone, pod("pod1")]


def test_list_of_none(ctl: Ctl, daemon: Daemon) -> None:
    daemon.answer("GET /pods", {"pods": [], "faults": []})
    result = ctl("pod", "list")
    assert (result.exit_code, result.output) == (0, "no pods\n")


def test_list_tells_of_files_that_cannot_be_read(ctl: Ctl, daemon: Daemon) -> None:
    daemon.answer("GET /pods", {"pods": [], "faults": ["/var/lib/fabricd/pods/x.json: bad"]})
    result = ctl("pod", "list")
    assert result.exit_code == 0
    assert "/var/lib/fabricd/pods/x.json: bad" in result.stderr
