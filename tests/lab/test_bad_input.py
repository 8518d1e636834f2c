"""Whatever is written to the store or to a config: it is told of, and touches nobody else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from lab.fabric import Fabric
from lab.process import CommandError
from lab.topology import RECORDS
from tests.lab.observe import metrics, or_else, wait_converged, wait_status, whole
from tests.lab.pings import no_ping_lost

NODES = ("node1", "edge2", "edge3")


@dataclass(frozen=True)
class Wrong:
    """A record, the field that is wrong, and what has to be said of it."""

    key: str
    value: str
    field: str
    reason: str


def node(name: str, field: str, reason: str, **record: object) -> Wrong:
    value = {"role": "edge", "endpoint": "10.20.8.99", "subnets": ["2.9.9.0/27"], **record}
    return Wrong(f"nodes/{name}", json.dumps(value), field, reason)


WRONG = (
    Wrong("nodes/cut-off", '{"role": "edge", "endpo', "", "not a JSON object"),
    Wrong("nodes/empty", "", "", "not a JSON object"),
    Wrong("nodes/not-text", "\x01\udcff\udcfe", "", "not a JSON object"),  # octets ff fe
    Wrong("nodes/list", '["edge"]', "", "not a JSON object"),
    Wrong("nodes/deep", '{"a":' * 5000, "", "not a JSON object"),
    Wrong("nodes/Edge9", "{}", "name", "is no name"),
    Wrong("nodes/a/b", "{}", "name", "is no name"),
    Wrong("nodes/..", "{}", "name", "is no name"),
    Wrong("nodes/" + "x" * 64, "{}", "name", "is no name"),
    Wrong("nodes/nothing", "{}", "subnets", "is required"),
    node("no-subnet", "subnets", "at least one subnet", subnets=[]),
    node("role", "role", "Invalid enum value 'Edge'", role="Edge"),
    node("type", "subnets", "Expected `array`", subnets="2.9.9.0/27"),
    node("cidr", "subnets", "CIDR", subnets=["2.9.9.0"]),
    node("octet", "subnets", "no network", subnets=["2.9.999.0/27"]),
    node("host-bits", "subnets", "the network is 2.9.9.0/27", subnets=["2.9.9.1/27"]),
    node("everything", "subnets", "whole address space", subnets=["0.0.0.0/0"]),
    node("everything6", "subnets", "whole address space", subnets=["::/0"]),
    node("loopback", "subnets", "another purpose", subnets=["127.0.0.0/8"]),
    node("twice", "subnets", "overlap", subnets=["2.9.9.0/27", "2.9.9.16/28"]),
    node("inside", "subnets", "of nodes/edge2", subnets=["2.2.2.16/28"]),
    node("around", "subnets", "overlaps", subnets=["2.2.0.0/16"]),
    # Earlier by name, later by creation: it is the creation that counts.
    node("a", "subnets", "overlaps 2.2.2.0/27 of nodes/edge2", subnets=["2.2.2.0/27"]),
    node("cluster", "subnets", "of nodes/node1", subnets=["10.233.4.0/24"]),
    node("underlay", "subnets", "has to stay reachable", subnets=["10.20.8.0/24"]),
    node("endpoint", "endpoint", "is no IP address", endpoint="10.20.8.4:500"),
    node("host", "endpoint", "neither an IP address nor a DNS name", endpoint="edge 9"),
    node("octet9", "endpoint", "is no IP address", endpoint="10.20.8.400"),
    node("anybody", "endpoint", "not the address of a host", endpoint="0.0.0.0"),
    node("token", "community", "is no token", community="app 1"),
    node("anyone", "identity", "wildcards", identity="C=CN, O=*, CN=edge2"),
    node("edge2-again", "identity", "of nodes/edge2", identity="C=CN, O=StrongSwan, CN=edge2"),
    node("priority", "priority", "Expected `int`", priority="high"),
    Wrong("communities/Wrong", '{"members": []}', "name", "is no name"),
    Wrong("communities/nobody", "{}", "members", "is required"),
    Wrong("communities/app9", '{"members": "edge2"}', "members", "Expected `array`"),
    Wrong("communities/app8", '{"members": ["Edge2"]}', "members", "no node's name"),
)


@pytest.fixture
def wrong_records(fabric: Fabric) -> Iterator[None]:
    """All of them beside the good ones, while every ping goes through."""
    before = whole(fabric)
    with no_ping_lost(fabric, "c1", "c2", "c3"):
        try:
            for wrong in WRONG:
                fabric.etcd.put(f"/fabric/{wrong.key}", wrong.value)
            yield
            assert whole(fabric) == before
        finally:
            for wrong in WRONG:
                fabric.etcd.delete(f"/fabric/{wrong.key}")
        for name in NODES:
            wait_status(fabric, name, "has no rejected record", lambda seen: not seen["rejected"])
    assert whole(fabric) == before


def test_each_wrong_record_is_shown_with_key_field_and_reason(
    fabric: Fabric, wrong_records: None
) -> None:
    keys = {f"/fabric/{wrong.key}" for wrong in WRONG}
    for name in NODES:
        wait_status(
            fabric,
            name,
            "rejects all that is wrong",
            lambda seen: {item["key"] for item in seen["rejected"]} == keys,
        )
        said = {
            (item["key"], item["field"]): item["reason"]
            for item in json.loads(fabric.fabricctl(name, "-o", "json", "status"))["rejected"]
        }
        for wrong in WRONG:
            assert wrong.reason in said[f"/fabric/{wrong.key}", wrong.field]
        assert metrics(fabric, name)["fabricd_records_rejected"] == len(WRONG)
        assert metrics(fabric, name)['fabricd_records{kind="node"}'] == 3
        assert fabric.fabricctl(name, "plan") == "nothing to do\n"


def test_of_a_good_record_that_becomes_wrong_the_good_version_stays_in_force(
    fabric: Fabric,
) -> None:
    before = whole(fabric)
    with or_else(lambda: mend(fabric)), no_ping_lost(fabric, "c1", "c2", "c3"):
        fabric.etcd.put("/fabric/nodes/edge3", {**RECORDS["edge3"], "subnets": ["2.2.2.33/27"]})
        for name in NODES:
            seen = wait_status(fabric, name, "rejects it", lambda seen: seen["rejected"])
            [item] = seen["rejected"]
            assert (item["key"], item["field"]) == ("/fabric/nodes/edge3", "subnets")
            assert "the network is 2.2.2.32/27; an earlier version stays in force" in item["reason"]
        assert whole(fabric) == before

        # Nor does it help to claim what another has.
        fabric.etcd.put("/fabric/nodes/edge3", {**RECORDS["edge3"], "subnets": ["2.2.2.0/26"]})
        for name in NODES:
            wait_status(
                fabric,
                name,
                "rejects this as well",
                lambda seen: [
                    item for item in seen["rejected"] if "overlaps 2.2.2.0/27" in item["reason"]
                ],
            )
        assert whole(fabric) == before

        fabric.put_record("edge3", RECORDS["edge3"])
        for name in NODES:
            wait_status(fabric, name, "has no rejected record", lambda seen: not seen["rejected"])
    wait_converged(fabric)
    assert whole(fabric) == before


def mend(fabric: Fabric) -> None:
    fabric.put_record("edge3", RECORDS["edge3"])


def test_a_field_that_nobody_knows_is_a_warning(fabric: Fabric) -> None:
    before = whole(fabric)
    with or_else(lambda: mend(fabric)):
        fabric.put_record("edge3", {**RECORDS["edge3"], "color": "blue"})
        for name in NODES:
            seen = wait_status(
                fabric, name, "warns", lambda seen: "color" in "".join(seen["warnings"])
            )
            assert seen["warnings"] == ["nodes/edge3: unknown field 'color' is ignored"]
            assert seen["rejected"] == []
        assert whole(fabric) == before
        assert json.loads(fabric.etcd.get("/fabric/nodes/edge3"))["color"] == "blue"
    fabric.put_record("edge3", RECORDS["edge3"])
    for name in NODES:
        wait_status(fabric, name, "warns no more", lambda seen: not seen["warnings"])


@pytest.mark.parametrize(
    ("line", "other", "faults"),
    [
        ("[node]", "[nodes]", ["[nodes]: unknown section, did you mean node?"]),
        ('type = "etcd"', 'type = "etc"', ["store.type: 'etc' is not supported"]),
        ('bridge = "br-edge"', 'bridge = "far-too-long-name"', ["kernel.bridge: "]),
        (
            'bridge = "br-edge"',
            "bridge = 1\nmasqerade = 2",
            ["kernel.bridge: ", "kernel.masqerade: unknown key, did you mean masquerade?"],
        ),
        (
            'networks = ["2.0.0.0/8"]',
            'networks = ["2.0.0.1/8", "0.0.0.0/0"]',
            ["fabric.networks: '2.0.0.1/8'", "fabric.networks: 0.0.0.0/0"],
        ),
        ('listen = "127.0.0.1:9815"', 'listen = "9815"', ["http.listen: '9815'"]),
        ("[kernel]", "[kernel", ["not TOML"]),
    ],
)
def test_a_wrong_config_ends_it_at_once_with_one_line_a_fault(
    fabric: Fabric, line: str, other: str, faults: list[str]
) -> None:
    edge2 = fabric.nodes["edge2"]
    good = edge2.config.read_text()
    assert line in good
    config = fabric.run / "wrong.toml"
    config.write_text(good.replace(line, other))
    for check in ((), ("--check-config",)):
        with pytest.raises(CommandError) as ended:
            edge2.namespace.run(*fabric.programs["fabricd"], "--config", config, *check)
        assert ended.value.status == 2
        said = ended.value.errors.splitlines()
        assert len(said) == len(faults)
        for fault, reason in zip(said, faults, strict=True):
            assert fault.startswith(f"fabricd: {config}: {reason}")


def test_a_config_that_is_not_there_is_told_of_as_well(fabric: Fabric) -> None:
    with pytest.raises(CommandError) as ended:
        fabric.nodes["edge2"].namespace.run(
            *fabric.programs["fabricd"], "--config", "/nowhere/fabricd.toml"
        )
    assert ended.value.status == 2
    assert ended.value.errors == (
        "fabricd: /nowhere/fabricd.toml: cannot be read: No such file or directory\n"
    )
