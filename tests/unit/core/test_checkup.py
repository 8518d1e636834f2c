"""`core.checkup`: a machine on which all is well, and each thing that can be wrong with one."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from fabricd.core.charon_settings import Settings, given_up, settings_warnings
from fabricd.core.checkup import checkup, document
from fabricd.core.facts import Records
from fabricd.core.hop import Hop
from fabricd.core.machine import Charon, Credentials, Door, KernelSa, Machine
from fabricd.core.state import IfAddress, KernelState, Link
from fabricd.model import Node, Prefix, Rejection, Role
from tests.docs import ROOT

EDGE2 = Node("edge2", Role.EDGE, (Prefix("2.2.2.0/27"),), "CN=edge2", "10.20.8.4")

SETTINGS = {
    "install_routes": "no",
    "retransmit_timeout": "1.0",
    "retransmit_base": "1.4",
    "retransmit_tries": "4",
    "make_before_break": "yes",
}

KERNEL = KernelState(
    links={
        "eth0": Link("eth0", "", up=True, mtu=1500),
        "br-edge": Link("br-edge", "bridge", up=True, alias="fabricd"),
    },
    addresses={
        ("eth0", "10.20.8.4/24"): IfAddress("eth0", "10.20.8.4/24"),
        ("br-edge", "2.2.2.1/27"): IfAddress("br-edge", "2.2.2.1/27"),
    },
)

WELL = Machine(
    config="/etc/fabricd/fabricd.toml",
    config_faults=(),
    name="edge2",
    networks=(Prefix("2.0.0.0/8"),),
    bridge="br-edge",
    now=1.75e9,
    synchronised=True,
    service_user=True,
    release="6.1.0-18-amd64",
    kernel=KERNEL,
    switches={"net/ipv4/ip_forward": "1"},
    writable=True,
    charon=Charon("strongSwan 5.9.8", frozenset({"addrblock", "revocation", "vici"})),
    door=Door("fabricd", 0o770),
    socket="/run/charon.vici",
    settings=Settings("/etc/strongswan.conf", SETTINGS),
    sas=frozenset(),
    spis=frozenset(),
    ports={500: ("charon-systemd",), 4500: ("charon-systemd",)},
    links_out={"eth0": 1500},
    credentials=Credentials(
        subject="CN=edge2", expiry=1.8e9, key="/etc/fabricd/pki/node.key", key_owner="fabricd"
    ),
    store="etcd at http://10.20.8.141:2379",
    records=Records({"edge2": EDGE2}),
)


def rows(**changed: Any) -> dict[str, Hop]:
    """By name, of a machine that is well but for what is changed."""
    return {row.name: row for row in checkup(replace(WELL, **changed))}


def said(name: str, **changed: Any) -> tuple[str, str]:
    """Verdict and detail of one row; one that is broken or a warning says what to do."""
    row = rows(**changed)[name]
    assert row.do or row.verdict in {"ok", "unknown"}
    return row.verdict.value, row.detail


def userspace(*more: str) -> Charon:
    return Charon("strongSwan 5.9.8", frozenset({"addrblock", "revocation", *more}))


def test_all_is_well() -> None:
    found = checkup(WELL)
    assert {row.verdict.value for row in found} == {"ok"}
    assert [row.name for row in found] == [
        *("config", "kernel", "bridge", "policy routing", "nftables"),
        *("charon", "ESP", "plugins", "VICI socket"),
        *("install_routes", "retransmission", "make_before_break", "orphaned SAs"),
        *("UDP 500", "UDP 4500"),
        *("clock", "credentials", "store", "record"),
        *("networks", "forwarding", "rp_filter", "MTU", "fabricd"),
    ]
    assert document(found, "edge2")["fit"]


def test_one_broken_row_makes_it_unfit_and_warnings_do_not() -> None:
    assert document(checkup(replace(WELL, synchronised=False)), "edge2")["fit"]
    unfit = document(checkup(replace(WELL, charon=None, charon_fault="no socket")), "edge2")
    assert not unfit["fit"]
    assert {"name": "charon", "ok": False}.items() <= unfit["checks"][5].items()


def test_without_a_config_the_machine_is_looked_at_all_the_same() -> None:
    fault = "/etc/fabricd/fabricd.toml: cannot be read: No such file or directory"
    found = rows(config_faults=(fault,), credentials=None, records=None)
    assert (found["config"].verdict.value, found["config"].detail) == ("broken", fault)
    assert {"charon", "UDP 500", "MTU"} <= found.keys()
    assert not {"credentials", "store", "record"} & found.keys()


def test_the_page_has_every_row() -> None:
    found = {row.name for row in checkup(WELL)}
    found |= set(rows(trials_fault="x", ports_fault="x", settings=None))
    found |= set(rows(credentials=credentials(key_owner="root", other_identity="CN=other")))
    found |= set(rows(records=with_edges(2000), name="node1"))
    section = (ROOT / "docs/doctor.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert {name for line in lines for name in re.findall("`([^`]+)`", line)} == found


# ---------------------------------------------------------------- kernel


def test_features_that_are_missing() -> None:
    refused = {"bridge": "Unknown device type.", "nftables": "nft: not found"}
    assert said("bridge", trials=refused)[0] == "broken"
    assert said("nftables", trials=refused) == (
        "warning",
        "nft: not found: fabricd can't masquerade",
    )
    assert said("policy routing", trials=refused) == ("ok", "works")


def test_features_that_cannot_be_tried() -> None:
    found = rows(trials_fault="Operation not permitted")
    assert found["features"].verdict == "unknown"
    assert not {"bridge", "ESP"} & found.keys()


@pytest.mark.parametrize(
    ("release", "verdict"),
    [("5.10.0-28-amd64", "warning"), ("5.18.0", "ok"), ("6.1", "ok"), ("4.19.0", "warning")],
)
def test_a_kernel_that_keeps_no_mark(release: str, verdict: str) -> None:
    assert said("kernel", release=release)[0] == verdict


def test_nobody_encrypts() -> None:
    refused = {"ESP": "Requested AEAD algorithm not found."}
    verdict, detail = said("ESP", trials=refused)
    assert (verdict, detail) == ("broken", f"the kernel has none: {refused['ESP']}")


def test_charon_encrypts_by_itself() -> None:
    charon, tun = userspace("kernel-libipsec"), Link("ipsec0", "tun", up=True)
    with_tun = replace(KERNEL, links={**KERNEL.links, "ipsec0": tun})
    refused = {"ESP": "no"}
    assert said("ESP", charon=charon, kernel=with_tun, trials=refused)[0] == "ok"
    assert said("ESP", charon=charon, kernel=with_tun)[0] == "warning"
    assert said("ESP", charon=charon, trials=refused)[0] == "broken"


# ---------------------------------------------------------------- charon


def test_charon_does_not_answer() -> None:
    assert said("charon", charon=None, charon_fault="no socket") == ("broken", "no socket")
    elsewhere = Settings("/etc/strongswan.conf", {"plugins.vici.socket": "unix:///run/other.vici"})
    found = rows(charon=None, charon_fault="no socket", settings=elsewhere)["charon"]
    assert found.do == 'socket = "unix:///run/other.vici" under [ike] in the config'


def test_plugins_that_are_missing() -> None:
    charon = Charon("strongSwan 5.9.8", frozenset({"revocation"}))
    verdict, detail = said("plugins", charon=charon)
    assert verdict == "broken"
    assert detail.startswith("addrblock is not loaded: who can write records gets traffic")


@pytest.mark.parametrize(
    ("door", "verdict"),
    [
        (Door("root", 0o770), "broken"),
        (Door("fabricd", 0o700), "broken"),
        (Door("root", 0o777), "ok"),
        (Door("fabricd", 0o770), "ok"),
    ],
)
def test_the_service_has_to_get_in_to_charon(door: Door, verdict: str) -> None:
    assert said("VICI socket", door=door)[0] == verdict
    assert "VICI socket" not in rows(door=door, service_user=False)


def settings(**changed: str) -> Settings:
    values = {name: value for name, value in (SETTINGS | changed).items() if value}
    return Settings("/etc/strongswan.conf", values)


def test_routes_of_charons_own() -> None:
    assert said("install_routes", settings=settings(install_routes=""))[0] == "warning"
    assert said("install_routes", settings=settings(install_routes="yes"))[0] == "warning"
    verdict, detail = said("install_routes", table_220=True)
    assert (verdict, "other settings" in detail) == ("warning", True)
    assert said("install_routes", table_220=True, charon=userspace("kernel-libipsec"))[0] == "ok"


def test_how_long_a_dead_peer_is_waited_for() -> None:
    assert said("retransmission") == ("ok", "a dead peer is given up after 11 s")
    default = settings(retransmit_timeout="", retransmit_base="", retransmit_tries="")
    # as strongswan.conf(5) says of its defaults
    assert said("retransmission", settings=default) == (
        "warning",
        "a dead peer is given up after 165 s",
    )
    for wrong in ("many", "nan", "inf"):
        assert said("retransmission", settings=settings(retransmit_tries=wrong))[0] == "unknown"
    assert given_up({"retransmit_tries": "0"}) == 4.0


@pytest.mark.parametrize(
    ("version", "given", "verdict"),
    [
        ("5.9.8", "", "warning"),
        ("5.9.8", "yes", "ok"),
        ("6.0.1", "", "ok"),
        ("6.0.1", "no", "warning"),
    ],
)
def test_reauthentication(version: str, given: str, verdict: str) -> None:
    charon = replace(userspace(), version=f"strongSwan {version}")
    changed = {"charon": charon, "settings": settings(make_before_break=given)}
    assert said("make_before_break", **changed)[0] == verdict


def with_edges(number: int) -> Records:
    """The records of a fabric with one gateway."""
    nodes = [Node("node1", Role.CLOUD, (Prefix("10.233.0.0/16"),), "CN=node1", "10.20.8.141")]
    nodes += [
        Node(f"e{i}", Role.EDGE, (Prefix(f"2.{i // 256}.{i % 256}.0/27"),), f"CN=e{i}")
        for i in range(number)
    ]
    return Records({node.name: node for node in nodes})


LARGE = ("ikesa_table_size", "ikesa_table_segments", "cookie_threshold", "block_threshold")


def test_what_only_many_peers_need() -> None:
    def large(number: int, node: str) -> dict[str, Hop]:
        found = rows(records=with_edges(number), name=node)
        return {name: row for name, row in found.items() if name in LARGE}

    assert large(250, "node1") == {}
    assert large(251, "e7") == {}, "an edge has the gateway alone"
    found = large(251, "node1")
    assert tuple(found) == LARGE
    assert {row.verdict.value for row in found.values()} == {"warning"}
    assert {"large-gateway.conf" in row.do for row in found.values()} == {True}
    assert found["cookie_threshold"].detail.startswith("30, for 251 peers: when more peers")


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("ikesa_table_size", "0", "warning"),
        ("ikesa_table_size", "499", "warning"),
        ("ikesa_table_size", "500", "ok"),
        ("ikesa_table_segments", "2", "ok"),
        ("cookie_threshold", "1999", "warning"),
        ("cookie_threshold", "2000", "ok"),
        ("cookie_threshold", "0", "ok"),
        ("block_threshold", "5", "warning"),
        ("block_threshold", "6", "ok"),
        ("block_threshold", "0", "ok"),
        ("block_threshold", "many", "unknown"),
    ],
)
def test_settings_for_2000_peers(name: str, value: str, verdict: str) -> None:
    found = rows(records=with_edges(2000), name="node1", settings=settings(**{name: value}))
    assert found[name].verdict == verdict


def test_warnings_for_which_the_same_has_to_be_done_are_one() -> None:
    bare = settings(install_routes="", make_before_break="")
    [few] = settings_warnings(bare, "5.9.8", 10)
    assert few == (
        "charon's settings: install_routes: yes: charon makes routes of its own, beside "
        "fabricd's; make_before_break: no: each reauthentication interrupts its tunnel. fabricd's "
        "strongswan/fabricd.conf belongs into /etc/strongswan.d; restart charon"
    )
    [unknown] = settings_warnings(bare, "", 10)
    assert "make_before_break" not in unknown, "its default depends on the version"
    _, many = settings_warnings(bare, "5.9.8", 2000)
    assert [name for name in LARGE if f"{name}: " in many] == list(LARGE)
    assert settings_warnings(settings(), "5.9.8", 10) == []


def test_settings_that_cannot_be_read() -> None:
    assert said("settings", settings=None, settings_fault="/etc/strongswan.conf: no such file") == (
        "unknown",
        "charon's can't be read: /etc/strongswan.conf: no such file",
    )


ORPHANS = tuple(KernelSa("10.20.8.12", "10.20.8.4", "esp", number) for number in range(1, 6))


def test_sas_that_charon_does_not_list() -> None:
    def orphans(count: int, *spis: int, **changed: Any) -> tuple[str, str]:
        changed = {"sas": frozenset(ORPHANS[:count]), "spis": frozenset(spis)} | changed
        return said("orphaned SAs", **changed)

    assert orphans(2, 1, 2, 77) == ("ok", "none")
    first = "src 10.20.8.12 dst 10.20.8.4 proto esp spi 0x00000001"
    whose = "left by one that was killed, or another program's"
    assert orphans(2, 2) == ("warning", f"charon does not list {first}: {whose}")
    verdict, detail = orphans(5)
    assert (verdict, detail.count("spi")) == ("warning", 3)
    assert detail.endswith(f" spi 0x00000003 and 2 more: {whose}")
    assert orphans(5, spis=None)[0] == "unknown"
    assert orphans(0, spis=None)[0] == "ok"
    assert orphans(0, sas=None, sas_fault="Operation not permitted") == (
        "unknown",
        "the kernel's can't be listed: Operation not permitted",
    )


def test_a_kernel_without_esp_has_no_sas() -> None:
    assert "orphaned SAs" not in rows(trials={"ESP": "no"}, sas=None, sas_fault="no")


def test_who_listens_on_ikes_ports() -> None:
    def port(*holders: str, **changed: Any) -> str:
        return said("UDP 500", ports={500: holders}, **changed)[0]

    assert port("charon") == "ok"
    assert port("pluto") == "broken"
    assert port("charon", "iked") == "broken"
    assert port("?") == "unknown"
    assert port() == "broken"
    assert port(charon=None) == "warning"
    assert said("ports", ports_fault="ss is not installed")[0] == "unknown"


# ---------------------------------------------------------------- clock, credentials, records


def test_a_clock_that_nobody_sets() -> None:
    verdict, detail = said("clock", synchronised=False)
    assert (verdict, detail[:20]) == ("warning", "2025-06-15 15:06:40 ")
    assert said("clock", synchronised=None)[0] == "unknown"


def test_credentials_that_cannot_be_used() -> None:
    found = Credentials(faults=("node.key: belongs to another certificate",))
    assert said("credentials", credentials=found) == ("broken", found.faults[0])


def credentials(**changed: Any) -> Credentials:
    assert WELL.credentials
    return replace(WELL.credentials, **changed)


def test_credentials_that_will_not_do_for_long() -> None:
    worn = credentials(warnings=("node.crt: the certificate expires in 3 days: renew it",))
    assert said("credentials", credentials=worn)[0] == "warning"
    assert said("key", credentials=credentials(key_owner="root")) == (
        "broken",
        "/etc/fabricd/pki/node.key belongs to root, and the service runs as fabricd",
    )
    assert "key" not in rows(credentials=credentials(key_owner="root"), service_user=False)


def test_a_certificate_that_is_for_something_else() -> None:
    narrow = credentials(uncovered=(Prefix("2.2.2.64/27"),))
    assert said("certificate", credentials=narrow)[0] == "broken"
    other = credentials(other_identity="CN=edge9")
    assert said("certificate", credentials=other) == (
        "broken",
        "it is for CN=edge2, and this node's record is for CN=edge9",
    )


def test_the_store_and_this_nodes_record() -> None:
    silent = Records({}, fault="no connection")
    assert said("store", records=silent) == (
        "broken",
        "etcd at http://10.20.8.141:2379: no connection",
    )
    kept = Records({"edge2": EDGE2}, fault="no connection")
    assert said("store", records=kept)[0] == "warning"
    assert said("record", records=Records({}))[0] == "warning"
    fault = Rejection("nodes/edge2", "subnets", "is required")
    assert said("record", records=Records({}, rejected=(fault,))) == ("broken", str(fault))


# ---------------------------------------------------------------- network


def with_address(text: str, link: str = "eth1", **changed: Any) -> tuple[str, str]:
    item = IfAddress(link, text)
    addresses = {**KERNEL.addresses, (link, text): item}
    return said("networks", kernel=replace(KERNEL, addresses=addresses), **changed)


def test_a_link_in_the_fabrics_networks() -> None:
    assert with_address("2.3.0.5/16") == (
        "broken",
        "eth1 has 2.3.0.5/16, in 2.0.0.0/8: nothing there goes into a tunnel",
    )
    assert with_address("0.0.0.1/1")[0] == "broken"
    assert with_address("2.2.2.9/32", "br-edge")[0] == "ok"
    assert with_address("192.168.1.1/24")[0] == "ok"
    assert with_address("fd00::1/64", networks=(Prefix("fd00::/8"),))[0] == "broken"


def test_the_pods_of_a_gateway_are_in_its_subnets() -> None:
    node1 = Node("edge2", Role.CLOUD, (Prefix("2.64.0.0/16"),), "CN=node1", "10.20.8.141")
    records = Records({"edge2": node1})
    assert with_address("2.64.96.1/24", "cni0", records=records)[0] == "ok"
    assert with_address("2.64.96.1/24", "cni0")[0] == "broken"
    assert "fabricctl calico check" in said("fabricd", records=records)[1]


def test_forwarding() -> None:
    off = {"net/ipv4/ip_forward": "0"}
    assert said("forwarding", switches=off)[0] == "ok"
    assert said("forwarding", switches=off, writable=False)[0] == "broken"


@pytest.mark.parametrize(
    ("everywhere", "here", "verdict"),
    [("0", "0", "ok"), ("1", "0", "warning"), ("0", "1", "warning"), ("1", "2", "ok")],
)
def test_reverse_path_filters(everywhere: str, here: str, verdict: str) -> None:
    switches = {
        "net/ipv4/ip_forward": "1",
        "net/ipv4/conf/all/rp_filter": everywhere,
        "net/ipv4/conf/eth0/rp_filter": here,
        "net/ipv4/conf/br-edge/rp_filter": "2",
    }
    assert said("rp_filter", switches=switches)[0] == verdict


def test_the_mtu_of_the_underlay() -> None:
    assert said("MTU", links_out={"eth0": 1500, "wwan0": 1364}) == ("ok", "eth0 1500, wwan0 1364")
    assert said("MTU", links_out={"eth0": 1500, "wwan0": 1363})[0] == "warning"
    assert said("MTU", links_out={})[0] == "unknown"


def test_the_daemon() -> None:
    assert said("fabricd", daemon_fault="it does not run") == ("warning", "it does not run")
