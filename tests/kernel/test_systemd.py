"""fabricd as a service, on a Debian that has booted: installed, killed, frozen, removed.

Two edges in one guest, with real ESP between them; every command that docs/install.md tells an
operator to type is typed here. The tests are steps of one story, in this order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabricd.core.pods import port_name
from lab import page, rundir
from lab.edges import EVERYTHING, OURS, Edges, boot
from lab.process import CommandError, wait_until

DOCS = "docs/install.md"


@pytest.fixture(scope="module")
def edges() -> Iterator[Edges]:
    run = rundir.make("uml-", Path("/tmp"))
    try:
        yield Edges(boot(run))
    finally:
        rundir.remove(run)


@pytest.fixture(scope="module")
def before(edges: Edges) -> tuple[str, str]:
    """The machine before anything was installed."""
    return edges.run(EVERYTHING), edges.run(OURS)


def test_installed_by_the_words_of_the_docs_it_gets_ready(
    edges: Edges, before: tuple[str, str]
) -> None:
    for block in page.commands(DOCS, "From a checkout"):
        edges.run(f"cd /usr/src/fabricd\n{block}", timeout=1800)
    assert edges.guest.status("systemctl start fabricd") == 0
    said = edges.run("systemctl status fabricd || true")
    assert "unmet condition check" in said
    assert "ConditionPathExists=/etc/fabricd/fabricd.toml" in said
    edges.issue_certificates()

    example, certificates, start = page.commands(DOCS, "Configure and start")
    edges.run(example)
    edges.configure_edge2()
    edges.run(f"cd /srv/ca\n{certificates}")
    said = edges.run(start, timeout=300)

    assert "Active: active (running)" in said
    completion = "/usr/local/share/bash-completion/completions/fabricctl"
    assert "fabricctl" in edges.run(f"bash -c '. {completion} && complete -p fabricctl'")
    assert re.search(r"Status: .* of 1 tunnels up", said), said
    edges.start_edge3()
    edges.attach_pods()
    edges.wait_up()
    assert edges.pods_talk()


def test_it_runs_without_root(edges: Edges) -> None:
    process = edges.run("cat /proc/$(systemctl show -P MainPID fabricd)/status")
    uid = edges.run("id -u fabricd").strip()

    values = dict(line.split(":\t", 1) for line in process.splitlines() if ":\t" in line)
    assert values["Uid"].split() == [uid] * 4 != ["0"] * 4
    assert values["CapEff"] == values["CapBnd"] == f"{1 << 12:016x}"  # CAP_NET_ADMIN
    assert values["NoNewPrivs"] == "1"
    edges.run("systemd-analyze security --threshold=14 fabricd")
    # Of the file system it sees what it needs.
    inside = "/proc/$(systemctl show -P MainPID fabricd)/root"
    assert {"etc", "opt", "run", "usr"} <= set(edges.run(f"ls {inside}").split())
    assert edges.guest.status(f"test -e {inside}/etc/fabricd/fabricd.toml") == 0
    assert edges.guest.status(f"test -e {inside}/srv") == 1
    # What it must not be able to read and what it has to be.
    as_it = "setpriv --reuid fabricd --regid fabricd --init-groups"
    assert edges.guest.status(f"{as_it} cat /srv/ca/ca.key") == 1
    edges.run(f"{as_it} cat /etc/fabricd/pki/node.key")


def test_a_pod_is_put_right_without_root(edges: Edges) -> None:
    """What it may not do itself, fabricd-netns does for it."""
    assert edges.run("systemctl is-active fabricd-netns.socket").strip() == "active"
    for damage in (
        "ip -n pod2 address del 2.2.2.2/27 dev eth0",
        "ip -n pod2 link set eth0 down",
        f"ip link set {port_name('pod2')} nomaster",
    ):
        edges.run(damage)
        wait_until(edges.pods_talk, f"pods talk again after: {damage}", timeout=120)
    assert "pod.set" not in edges.run("fabricctl plan || true")


def test_it_switches_forwarding_on_by_itself(edges: Edges) -> None:
    edges.run("sysctl -qw net.ipv4.ip_forward=0")

    wait_until(
        lambda: edges.run("sysctl -n net.ipv4.ip_forward").strip() == "1",
        "forwarding is on again",
        timeout=120,
    )


def test_killed_it_starts_again_and_touches_nothing(edges: Edges) -> None:
    tunnel, pid = edges.tunnel(), edges.main_pid()
    watch = "systemd-run -q --unit watch-{0} -p StandardOutput=append:/srv/changes ip {1}"
    edges.run(watch.format("routes", "monitor address route rule"))
    edges.run(watch.format("tunnels", "xfrm monitor SA policy"))

    edges.run("systemctl kill -s KILL fabricd")
    edges.wait_restarted(pid)
    edges.wait_up()

    edges.run("systemctl stop watch-routes watch-tunnels")
    assert edges.run("cat /srv/changes") == ""
    assert edges.tunnel() == tunnel
    assert len(tunnel.spis) == 2
    assert edges.pods_talk()
    # This kernel has no nftables for IP, which is tried once after each start.
    journal = _journal(edges, edges.main_pid()).splitlines()
    assert "action" not in "\n".join(line for line in journal if "nftables" not in line)


def test_frozen_it_is_ended_by_the_watchdog_and_touches_nothing(edges: Edges) -> None:
    edges.guest.write(
        "/etc/systemd/system/fabricd.service.d/watchdog.conf", "[Service]\nWatchdogSec=5\n"
    )
    edges.run("systemctl daemon-reload && systemctl restart fabricd", timeout=300)
    tunnel, pid = edges.tunnel(), edges.main_pid()

    edges.run(f"kill -STOP {pid}")
    edges.wait_restarted(pid)
    edges.wait_up()

    assert "Watchdog timeout" in edges.run("journalctl -u fabricd -o cat")
    assert edges.tunnel() == tunnel
    assert edges.pods_talk()
    edges.run("rm -r /etc/systemd/system/fabricd.service.d && systemctl daemon-reload")


def test_a_reload_reads_the_credentials_anew(edges: Edges) -> None:
    tunnel, pid = edges.tunnel(), edges.main_pid()

    edges.run("systemctl reload fabricd")

    assert edges.main_pid() == pid
    assert edges.status()["peers"][0]["up"]
    assert edges.tunnel() == tunnel


def test_a_wrong_config_is_named_in_the_journal_and_not_tried_for_ever(edges: Edges) -> None:
    tunnel = edges.tunnel()
    good = edges.run("cat /etc/fabricd/fabricd.toml")
    edges.guest.write("/etc/fabricd/fabricd.toml", good.replace("type =", "typ ="))

    assert edges.guest.status("systemctl restart fabricd", timeout=120) == 1

    assert edges.run("systemctl show -P ExecMainStatus fabricd").strip() == "2"
    assert edges.run("systemctl is-failed fabricd").strip() == "failed"
    journal = edges.run("journalctl -u fabricd -o cat")
    assert "/etc/fabricd/fabricd.toml: store.typ: unknown key, did you mean type?" in journal
    assert edges.tunnel() == tunnel
    edges.guest.write("/etc/fabricd/fabricd.toml", good)
    edges.run("systemctl restart fabricd", timeout=300)
    edges.wait_up()
    assert edges.tunnel() == tunnel


def test_uninstalled_it_leaves_nothing(edges: Edges, before: tuple[str, str]) -> None:
    edges.stop_edge3()
    edges.remove_pods()
    some, everything = page.commands(DOCS, "Uninstall")

    edges.run(f"cd /usr/src/fabricd\n{some}", timeout=300)
    left = edges.run("cd /etc/fabricd && find -type f -not -path './records/*'").split()
    edges.run(f"cd /usr/src/fabricd\n{everything}", timeout=300)

    assert set(left) == {"./fabricd.toml", "./pki/ca.crt", "./pki/node.crt", "./pki/node.key"}
    files, objects = edges.run(EVERYTHING), edges.run(OURS)
    assert files.splitlines() == before[0].splitlines()
    assert objects.splitlines() == before[1].splitlines()
    with pytest.raises(CommandError, match="could not be found"):
        edges.run("systemctl status fabricd")


def _journal(edges: Edges, pid: int) -> str:
    """What one process of the service has said."""
    lines = edges.run(f"journalctl -u fabricd _PID={pid} -o json").splitlines()
    return "\n".join(str(json.loads(line)["MESSAGE"]) for line in lines)
