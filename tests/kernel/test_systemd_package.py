"""The Debian package on a Debian that has booted: installed, upgraded, removed, purged.

Two edges in one guest, with real ESP between them. The tests are steps of one story, in this
order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import debian, page, rundir
from lab.edges import EVERYTHING, OURS, Edges, boot
from lab.guest import SHARE
from lab.process import command

pytestmark = pytest.mark.packaging

DOCS = "docs/install.md"


@pytest.fixture(scope="module")
def edges() -> Iterator[Edges]:
    run = rundir.make("uml-", Path("/tmp"))
    try:
        guest = boot(run)
        # Built on the host, which is faster, and of the same release. Nothing but its version is
        # new in the second one.
        build, _ = page.commands(DOCS, "As a Debian package")[0].splitlines()
        wheels = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(debian.wheels())}
        sources = guest.share / "fabricd"
        command("bash", "-ec", f"cd {sources}\n{build}", env=wheels, timeout=900)
        (package,) = (sources / "build").glob("fabricd_*.deb")
        tree = run / "tree"
        command("dpkg-deb", "-R", package, tree)
        control = tree / "DEBIAN/control"
        control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 1:"))
        command("dpkg-deb", "-Znone", "-b", tree, guest.share / "next.deb")
        yield Edges(guest)
    finally:
        rundir.remove(run)


@pytest.fixture(scope="module")
def before(edges: Edges) -> tuple[str, str]:
    """The machine before anything was installed."""
    return edges.run(EVERYTHING), edges.run(OURS)


def test_installed_and_configured_it_makes_a_tunnel(edges: Edges, before: tuple[str, str]) -> None:
    _, install = page.commands(DOCS, "As a Debian package")[0].splitlines()
    _, certificates, start = page.commands(DOCS, "Configure and start")

    edges.run(f"cd /usr/src/fabricd\n{install}", timeout=600)
    assert edges.run("systemctl is-enabled fabricd").strip() == "enabled"
    assert edges.main_pid() == 0  # it has no config
    edges.run("cp /usr/share/doc/fabricd/examples/fabricd.toml /etc/fabricd/")
    edges.configure_edge2()
    edges.issue_certificates()
    edges.run(f"cd /srv/ca\n{certificates}")
    edges.run(start, timeout=300)

    edges.start_edge3()
    edges.attach_pods()
    edges.wait_up()
    assert edges.pods_talk()


def test_an_upgrade_restarts_the_service_and_leaves_the_tunnel_alone(edges: Edges) -> None:
    tunnel, pid = edges.tunnel(), edges.main_pid()
    charon = edges.run("systemctl show -P MainPID strongswan")

    edges.run(f"dpkg -i {SHARE}/next.deb", timeout=600)

    edges.wait_restarted(pid)
    edges.wait_up()
    assert edges.run("systemctl show -P MainPID strongswan") == charon
    assert edges.tunnel() == tunnel
    assert edges.pods_talk()


def test_an_upgrade_starts_no_service_that_was_stopped(edges: Edges) -> None:
    tunnel = edges.tunnel()
    edges.run("systemctl stop fabricd")

    edges.run(f"dpkg -i {SHARE}/next.deb", timeout=600)

    assert edges.main_pid() == 0
    assert edges.tunnel() == tunnel
    assert edges.pods_talk()
    edges.run("systemctl start fabricd")


def test_removed_it_leaves_config_and_keys_and_nothing_in_kernel_and_charon(
    edges: Edges, before: tuple[str, str]
) -> None:
    edges.stop_edge3()
    edges.remove_pods()

    edges.run("apt-get -y remove fabricd", timeout=600)

    edges.run("test -e /etc/fabricd/pki/node.key -a ! -e /opt/fabricd")
    lists = "passwd group"  # users are removed when the package is purged
    for name in lists.split():
        edges.run(f"getent {name} fabricd")
    there = [line for line in edges.run(OURS).splitlines() if not line.startswith("fabricd:")]
    assert there == before[1].splitlines()


def test_purged_it_leaves_nothing(edges: Edges, before: tuple[str, str]) -> None:
    edges.run("apt-get -y purge fabricd", timeout=600)

    assert edges.run(EVERYTHING).splitlines() == before[0].splitlines()
    assert edges.run(OURS).splitlines() == before[1].splitlines()
