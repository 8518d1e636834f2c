"""The README and the quick start, typed: each command on the machine where it belongs, one after
the other, and what they print is what the pages say.

Machines are namespaces with files of their own, without systemd and without apt: installing by
these words is for tests/kernel/test_systemd.py.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from fabricd.config import load
from lab.fabric import RECORDS, Fabric
from lab.machine import Machine
from lab.netns import Namespace, veth
from lab.pki import Authority
from lab.process import CommandError, LabError, wait_until
from lab.topology import FIRST
from tests.docs import Command, blocks, commands
from tests.lab.observe import SOON, whole_fabric
from tests.unit.test_docs import table

README, QUICKSTART = "README.md", "docs/quickstart.md"

INSTALLS = ("apt-get ", "make install")
"""How a line begins that is tried elsewhere."""


def bring(name: str, source: Machine, target: Machine, folder: str = "/root") -> None:
    """Carry a file of the CA's to another machine."""
    found = source.file(f"/etc/fabricd/pki/{name}")
    shutil.copy(found, target.file(f"{folder}/{name}"))


# ---------------------------------------------------------------- typing


def shown(text: str, wanted: str) -> bool:
    """Whether a command printed what a page shows: `…` stands for anything, alone on a line for any
    number of lines; blanks count once.
    """
    said = [" ".join(line.split()) for line in text.splitlines()]
    lines = [" ".join(line.split()) for line in wanted.splitlines()]
    return _shown([line for line in said if line], [line for line in lines if line])


def _shown(said: list[str], wanted: list[str]) -> bool:
    if not wanted:
        return not said
    if wanted[0] == "…":
        return any(_shown(said[skip:], wanted[1:]) for skip in range(len(said) + 1))
    pattern = re.sub(r"([*?[])", r"[\1]", wanted[0]).replace("…", "*")
    return bool(said) and fnmatchcase(said[0], pattern) and _shown(said[1:], wanted[1:])


def test_what_is_shown_is_compared_line_by_line() -> None:
    assert shown("edge3  up   2\n", "edge3 up …")
    assert shown("a\nb\nc\n", "…\nc")
    assert shown("", "…")
    assert shown("[default: 1]*\n", "[default: 1]*")
    assert not shown("edge3 down\n", "edge3 up …")
    assert not shown("a\nb\n", "a")
    assert not shown("a\n", "a\nb")
    assert not shown("anything\n", "")


def type_in(machine: Machine, command: Command, wanted: str) -> None:
    """Until it prints what is wanted: tunnels take a moment. If nothing is, it has to succeed."""
    seen = []

    def fits() -> bool:
        try:
            text = machine.run(command.line)
        except CommandError as error:
            if not wanted:
                raise
            text = error.output  # such as `why`, which says with 1 that they cannot talk
            seen.append(f"{text}{error.errors}")
        else:
            seen.append(text)
        return shown(text, wanted)

    if not wanted:
        said = machine.run(command.line)
        assert not said, f"{command}: the page shows nothing, it says\n{said}"
        return
    try:
        wait_until(fits, str(command), SOON, interval=0.5)
    except LabError as error:
        raise AssertionError(
            f"{command}\n{seen[0]}\nlater:\n{seen[-1]}\n{machine.logs()}"
        ) from error


def sessions(page: str) -> Iterator[tuple[Command, str]]:
    """The commands of a page's `console` blocks, and what each is shown to print."""
    for block in blocks(page):
        if block.info == "console":
            text = block.text.replace("\\\n", " ")
            typed = list(commands(block))
            parts = re.split(r"^[a-z0-9]*[#$] .*\n", text, flags=re.MULTILINE)[1:]
            yield from zip(typed, parts, strict=True)


# ---------------------------------------------------------------- docs/quickstart.md


@pytest.fixture
def two(run_dir: Path) -> dict[str, Machine]:
    """edge2 and edge3, which reach each other."""
    spaces = {
        name: Namespace.create(f"{run_dir.name}-{name}", run_dir) for name in ("edge2", "edge3")
    }
    veth(spaces["edge2"], "eth0", spaces["edge3"], "eth0")
    spaces["edge2"].add_address("eth0", "10.20.8.4/24")
    spaces["edge3"].add_address("eth0", "10.20.8.12/24")
    return {name: Machine(space, run_dir, name) for name, space in spaces.items()}


def test_the_quick_start_leads_to_two_pods_that_talk(two: dict[str, Machine]) -> None:
    edge2, edge3 = two["edge2"], two["edge3"]
    for machine in two.values():
        machine.run("systemctl restart strongswan")
    [config] = [block.text for block in blocks(QUICKSTART) if block.info == "toml"]
    assert '"edge2"' in config
    for name, machine in two.items():
        written = machine.file("/etc/fabricd/fabricd.toml")
        written.write_text(config.replace('"edge2"', f'"{name}"'), encoding="utf-8")
    typed = []

    for command, wanted in sessions(QUICKSTART):
        if command.host == "edge3" and "install" in command.line:  # "Bring …"
            for file in ("ca.crt", "edge3.crt", "edge3.key"):
                bring(file, edge2, edge3)
        type_in(two[command.host], command, wanted)
        typed.append(command.line)

    assert typed[-1] == "fabricctl why 2.2.2.2 2.2.2.34"
    assert "ip netns exec pod ping -c 3 2.2.2.34" in typed


# ---------------------------------------------------------------- README.md


def on_a_node() -> Iterator[Command]:
    """What the README has under "On a node", but installing."""
    for block in blocks(README):
        if block.heading == "On a node":
            for command in commands(block):
                if not command.line.startswith(INSTALLS):
                    yield command


@pytest.fixture
def fabric(run_dir: Path) -> Fabric:
    """node1 and edge3 run; edge2 is somebody's to set up. The CA is `ca`'s."""
    ca = run_dir / "ca.machine/etc/fabricd/pki"
    others = {name: record for name, record in RECORDS.items() if name != "edge2"}
    layout = replace(FIRST, records=others, pods=())
    return Fabric(f"{run_dir.name}-", run_dir, layout, authority=lambda _: Authority(ca))


def test_the_readme_leads_to_a_node_of_the_fabric(fabric: Fabric, run_dir: Path) -> None:
    ca = Machine(Namespace.create(f"{run_dir.name}-ca", run_dir), run_dir, "ca")
    todo = on_a_node()

    def expect(begin: str) -> str:
        command = next(todo)
        assert command.line.startswith(begin), f"{command}: not {begin}"
        return command.line.partition(" # ")[0]

    configure = expect("cp ")
    ca.run(expect("fabricctl pki init"))
    fabric.build()
    fabric.start_services()
    edge2 = Machine(fabric.namespaces["edge2"], run_dir, "edge2")
    fabric.start_daemons()

    edge2.run(configure)
    example = edge2.file("/etc/fabricd/fabricd.toml")
    assert load(example).node.name == "edge2"
    assert load(example).store.endpoints == (fabric.etcd.endpoint,)

    edge2.run(expect("fabricctl pki request"))
    shutil.copy(edge2.file("/root/new/edge2.csr"), ca.file("/root/edge2.csr"))
    ca.run(expect("fabricctl pki sign"))
    for file in ("edge2.crt", "ca.crt"):
        bring(file, ca, edge2, "/root/new")
    assert "good" in edge2.run(expect("fabricctl pki verify"))
    for _ in range(3):
        edge2.run(expect("install -m "))
    edge2.run(expect("systemctl restart strongswan"))
    edge2.run(expect("fabricd --check-config"))

    for name in ("node1", "edge2", "edge3"):
        put = expect(f"etcdctl put /fabric/nodes/{name} ")
        env = {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": fabric.etcd.endpoint}
        fabric.namespaces["node1"].run("bash", "-c", put, env=env)
        fabric.records[name] = json.loads(put.split("'")[1])

    status, plan, metrics = expect("fabricctl status"), expect("fabricctl plan"), expect("curl ")
    wait_until(
        lambda: edge2.run(status).count(" up ") == 2 and "nothing to do" in edge2.run(plan),
        "edge2's tunnels are up",
        SOON,
    )
    said = edge2.run(metrics)
    assert 'fabricd_tunnel_up{peer="edge3"} 1.0' in said
    assert 'fabricd_tunnel_up{peer="node1"} 1.0' in said
    assert not list(todo)


def test_what_is_left_out_here_is_typed_elsewhere() -> None:
    """Installing, as README and quick start have it, is what docs/install.md has."""
    [install] = [
        [command.line for command in commands(block)]
        for block in blocks("docs/install.md")
        if block.heading == "From a checkout" and block.info == "sh"
    ]
    for page, heading in ((README, "On a node"), (QUICKSTART, "Install")):
        typed = [c.line for b in blocks(page) if b.heading == heading for c in commands(b)]
        assert typed[: len(install)] == install, page
    assert all(line.startswith(INSTALLS) for line in install)


# ---------------------------------------------------------------- docs/reference/json.md


def keys(document: Any, page: str, heading: str) -> None:
    missing = table(page, heading).keys() - document.keys()
    assert not missing, f"{heading}: {missing}"


def test_documents_have_the_fields_that_the_reference_names(module_fabric: Fabric) -> None:
    page = "docs/reference/json.md"
    status = module_fabric.status("edge2")
    [peer] = [peer for peer in status["peers"] if peer["name"] == "edge3"]
    keys({**status, **peer}, page, "status")
    why = json.loads(module_fabric.fabricctl("edge2", "why", "2.2.2.2", "2.2.2.34", "-o", "json"))
    keys(why, page, "why")
    doctor = json.loads(module_fabric.fabricctl("edge2", "doctor", "-o", "json"))
    text = Path(page).read_text(encoding="utf-8")
    assert set(re.findall(r'"(\w+)"', text)) <= {
        *status["records"],
        *status["source"],
        *peer["certificate"],
        *peer["children"][0],
        *why["hops"][0],
        *doctor,
        *doctor["checks"][0],
        *("key", "field", "reason", "at"),
        *("actions", "kind", "target", "disruption"),
    }


@pytest.fixture(scope="module")
def module_fabric() -> Iterator[Fabric]:
    """The whole fabric, converged."""
    with whole_fabric() as whole:
        yield whole
