"""`fabricctl doctor` on a fabric that is well, and on one where each thing is broken in its turn.

Each test breaks one thing, asks, and mends it: the next finds the fabric whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab.charon import Charon
from lab.fabric import RECORDS, Fabric
from lab.process import CommandError, spawn, wait_until
from tests.lab.observe import ike, kernel, wait_converged, wait_status

Row = dict[str, Any]

LISTEN = """
import socket
bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
bound.bind(("0.0.0.0", 500))
print("bound", flush=True)
import time
time.sleep(600)
"""

READ_ONLY = """
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
exec "$0" "$@"
"""
"""As in a container."""


def doctor(fabric: Fabric, node: str) -> dict[str, Row]:
    """The rows by name, the worst of several; the exit status fits."""
    status: int | str = 0
    try:
        text = fabric.fabricctl(node, "doctor", "-o", "json")
    except CommandError as error:
        text, status = error.output, error.status
    document = json.loads(text)
    found = document["checks"]
    assert document["fit"] == all(row["ok"] is not False for row in found)
    assert status == (0 if document["fit"] else 1)
    assert all(row["do"] for row in found if row["verdict"] in {"broken", "warning"})
    return {row["name"]: row for row in sorted(found, key=lambda row: row["ok"] is False)}


def said(fabric: Fabric, node: str, name: str) -> tuple[str, str]:
    row = doctor(fabric, node)[name]
    return row["verdict"], row["detail"]


@pytest.fixture(autouse=True)
def whole(fabric: Fabric) -> Iterator[None]:
    """After each test everything is well."""
    yield
    wait_converged(fabric)


@contextmanager
def set_up(charon: Charon, change: Callable[[str], str]) -> Iterator[None]:
    """charon started again with other settings."""
    before = charon.conf.read_text(encoding="utf-8")
    changed = change(before)
    assert changed != before
    charon.conf.write_text(changed, encoding="utf-8")
    charon.restart()
    try:
        yield
    finally:
        charon.conf.write_text(before, encoding="utf-8")
        charon.restart()


def test_on_a_node_that_works_nothing_is_broken(fabric: Fabric) -> None:
    for node in fabric.nodes:
        rows = doctor(fabric, node)
        assert [row for row in rows.values() if row["ok"] is False] == []
        # What the lab's machine has is not the fabric's affair, nor what it does not keep up.
        warned = {name for name, row in rows.items() if row["verdict"] != "ok"}
        assert warned <= {"clock", "make_before_break", "kernel", "ESP"}
        assert rows["UDP 500"]["detail"] == "charon-systemd listens"
        assert rows["MTU"]["detail"] == "eth0 1500"
        assert rows["store"]["detail"] == f"etcd at {fabric.etcd.endpoint}: 3 nodes"
    assert doctor(fabric, "node1")["record"]["detail"] == "cloud, 10.233.0.0/16"


def test_it_changes_nothing(fabric: Fabric) -> None:
    node = fabric.nodes["edge2"]
    before = kernel(node.namespace), ike(node.charon), fabric.kernel_sas("edge2")
    doctor(fabric, "edge2")
    assert before == (kernel(node.namespace), ike(node.charon), fabric.kernel_sas("edge2"))


# ---------------------------------------------------------------- charon


def test_without_charon(fabric: Fabric) -> None:
    charon = fabric.nodes["edge2"].charon
    charon.stop()
    try:
        assert said(fabric, "edge2", "charon")[0] == "broken"
        assert said(fabric, "edge2", "UDP 500")[0] == "warning"
    finally:
        charon.start()


def test_somebody_else_on_ikes_port(fabric: Fabric) -> None:
    node = fabric.nodes["edge2"]
    node.charon.stop()
    argv = node.namespace.inside("python3", "-c", LISTEN)
    stranger = spawn(*argv, run=fabric.run, name="stranger")
    try:
        wait_until(lambda: "bound" in stranger.tail(), "the port is taken", watch=[stranger])
        verdict, detail = said(fabric, "edge2", "UDP 500")
        assert verdict == "broken"
        assert detail.endswith("listens, not charon")
    finally:
        stranger.stop()
        node.charon.start()


def test_charon_on_other_ports(fabric: Fabric) -> None:
    other = "charon-systemd {\n  port = 1500\n  port_nat_t = 14500\n"
    with set_up(fabric.nodes["edge2"].charon, lambda t: t.replace("charon-systemd {\n", other, 1)):
        assert said(fabric, "edge2", "UDP 4500") == (
            "broken",
            "nobody listens: charon uses another port, where peers don't look for it",
        )


def test_charon_without_a_plugin_and_with_settings_of_its_own(fabric: Fabric) -> None:
    def change(text: str) -> str:
        for old, new in (
            (" addrblock", ""),
            ("install_routes = no", "install_routes = yes"),
            ("retransmit_timeout = ", "retransmit_timeout = 100\n  other = "),
        ):
            assert old in text
            text = text.replace(old, new)
        return text

    with set_up(fabric.nodes["edge2"].charon, change):
        rows = doctor(fabric, "edge2")
    assert rows["plugins"]["verdict"] == "broken"
    assert rows["plugins"]["detail"].startswith("addrblock is not loaded")
    assert rows["install_routes"]["verdict"] == "warning"
    assert rows["retransmission"]["verdict"] == "warning"


def test_a_socket_elsewhere(fabric: Fabric) -> None:
    config = fabric.nodes["edge2"].config
    before = config.read_text(encoding="utf-8")
    charon = fabric.nodes["edge2"].charon
    config.write_text(before.replace(charon.socket, "unix:///run/nowhere.vici"), encoding="utf-8")
    try:
        row = doctor(fabric, "edge2")["charon"]
    finally:
        config.write_text(before, encoding="utf-8")
    assert row["ok"] is False
    assert row["do"] == f'socket = "{charon.socket}" under [ike] in the config'


# ---------------------------------------------------------------- config, credentials, records


def test_without_a_config(fabric: Fabric) -> None:
    config = fabric.nodes["edge2"].config
    away = config.rename(config.with_suffix(".away"))
    try:
        rows = doctor(fabric, "edge2")
    finally:
        away.rename(config)
    assert rows["config"]["verdict"] == "broken"
    assert "No such file" in rows["config"]["detail"]
    assert rows["UDP 500"]["verdict"] == "ok"
    assert "store" not in rows


def test_a_key_that_others_can_read(fabric: Fabric) -> None:
    key = fabric.nodes["edge2"].pki / "node.key"
    key.chmod(0o644)
    try:
        verdict, detail = said(fabric, "edge2", "credentials")
    finally:
        key.chmod(0o600)
    assert verdict == "broken"
    assert str(key) in detail


def test_a_key_of_another_certificate(fabric: Fabric) -> None:
    node = fabric.nodes["edge2"]
    right = (node.pki / "node.key").read_bytes()
    node.install("node.key", fabric.authority.issue("edge9").key.read_bytes())
    try:
        assert said(fabric, "edge2", "credentials")[0] == "broken"
    finally:
        node.install("node.key", right)


def test_a_record_that_the_certificate_is_not_for(fabric: Fabric) -> None:
    fabric.put_record("edge2", {**RECORDS["edge2"], "subnets": ["2.2.2.0/27", "2.2.2.64/27"]})
    try:
        verdict, detail = said(fabric, "edge2", "certificate")
        assert (verdict, detail.partition(",")[0]) == ("broken", "it is not for 2.2.2.64/27")
        fabric.put_record("edge2", {**RECORDS["edge2"], "identity": "CN=other"})
        verdict, detail = said(fabric, "edge2", "certificate")
        assert (verdict, detail.rpartition(" ")[2]) == ("broken", "CN=other")
    finally:
        fabric.put_record("edge2", RECORDS["edge2"])


def test_a_record_that_is_missing_or_wrong(fabric: Fabric) -> None:
    fabric.delete_record("edge2")
    try:
        wait_status(fabric, "edge2", "has no record", lambda seen: seen["role"] is None)
        wait_until(lambda: said(fabric, "edge2", "record")[0] == "warning", "no record is found")
        fabric.etcd.put("/fabric/nodes/edge2", {"subnets": ["2.2.2.1/27"]})
        wait_until(lambda: said(fabric, "edge2", "record")[0] == "broken", "a wrong one is found")
    finally:
        fabric.put_record("edge2", RECORDS["edge2"])


def test_without_the_store(fabric: Fabric) -> None:
    fabric.etcd.stop()
    try:
        verdict, detail = said(fabric, "edge2", "store")
        assert verdict == "warning"
        assert "the last good records are kept here" in detail
    finally:
        fabric.etcd.start()


def test_without_fabricd(fabric: Fabric) -> None:
    fabric.stop_fabricd("edge2")
    try:
        assert said(fabric, "edge2", "fabricd")[0] == "warning"
    finally:
        fabric.start_fabricd("edge2")


# ---------------------------------------------------------------- network


def test_another_link_in_the_fabrics_networks(fabric: Fabric) -> None:
    ip = fabric.namespaces["edge3"].ip
    ip("address", "add", "2.9.0.1/16", "dev", "eth0")
    try:
        assert said(fabric, "edge3", "networks") == (
            "broken",
            "eth0 has 2.9.0.1/16, in 2.0.0.0/8: nothing there goes into a tunnel",
        )
    finally:
        ip("address", "delete", "2.9.0.1/16", "dev", "eth0")


def test_a_narrow_underlay(fabric: Fabric) -> None:
    ip = fabric.namespaces["edge3"].ip
    ip("link", "set", "eth0", "mtu", "1300")
    try:
        verdict, detail = said(fabric, "edge3", "MTU")
        assert (verdict, detail.partition(":")[0]) == ("warning", "eth0 1300")
    finally:
        ip("link", "set", "eth0", "mtu", "1500")


def test_a_strict_reverse_path_filter_and_no_forwarding(fabric: Fabric) -> None:
    run = fabric.namespaces["edge3"].run
    fabric.stop_fabricd("edge3")
    run("sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=1", "net.ipv4.ip_forward=0")
    try:
        rows = doctor(fabric, "edge3")
        program, command = fabric.programs["fabricctl"], ("doctor", "-o", "json", "--config")
        config = fabric.nodes["edge3"].config
        with pytest.raises(CommandError, match="exit 1") as inside:
            run("unshare", "--mount", "sh", "-ec", READ_ONLY, *program, *command, config)
    finally:
        run("sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=0")
        fabric.start_fabricd("edge3")
    assert rows["rp_filter"]["verdict"] == "warning"
    assert rows["rp_filter"]["detail"].startswith("strict on eth0:")
    assert rows["forwarding"]["detail"] == "net.ipv4.ip_forward = 0: fabricd switches it on"
    assert "and /proc/sys can't be written here" in inside.value.output
