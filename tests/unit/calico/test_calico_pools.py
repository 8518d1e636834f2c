"""The fabric's IPPools: what is written, what is refused, what is left alone."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from fabricd.calico.pools import Options, Refused, differences, manifests, to_store
from fabricd.model import Prefix

UID = "11111111-2222-4333-8444-555555555555"
NOW = "2026-01-02T03:04:05Z"

STORED: dict[str, Any] = {
    "kind": "IPPool",
    "apiVersion": "projectcalico.org/v3",
    "metadata": {"name": "fabric-pool", "uid": "old", "creationTimestamp": "2021-04-27T08:31:16Z"},
    "spec": {
        "cidr": "2.0.0.0/8",
        "ipipMode": "Always",
        "disabled": True,
        "blockSize": 24,
        "assignmentMode": "Automatic",
    },
}
"""As libcalico-go stores one: what is false or empty is left out."""


def wanted(*networks: str, **options: Any) -> list[dict[str, Any]]:
    return manifests([Prefix(text) for text in networks or ("2.0.0.0/8",)], Options(**options))


def store(*pools: dict[str, Any], force: bool = False) -> dict[str, Any] | None:
    there = {pool["metadata"]["name"]: pool for pool in pools}
    return to_store(wanted()[0], there, force=force, uid=UID, now=NOW)


def pool(name: str, cidr: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"cidr": cidr, **spec}}


def test_one_pool_for_each_network() -> None:
    found = wanted("2.0.0.0/8", "100.64.0.0/10", "fd00:2::/32", ipip_mode="CrossSubnet")
    assert [(p["metadata"]["name"], p["spec"]["cidr"]) for p in found] == [
        ("fabric-pool", "2.0.0.0/8"),
        ("fabric-pool-2", "100.64.0.0/10"),
        ("fabric-pool-3", "fd00:2::/32"),
    ]
    assert [(p["spec"]["ipipMode"], p["spec"]["blockSize"]) for p in found] == [
        ("CrossSubnet", 24),
        ("CrossSubnet", 24),
        ("Never", 122),
    ]


MODES = {"Never", "Always", "CrossSubnet"}
SPEC: dict[str, Any] = {
    "cidr": lambda value: ip_network(value, strict=True),
    "blockSize": lambda value: type(value) is int,
    "disabled": lambda value: type(value) is bool,
    "natOutgoing": lambda value: type(value) is bool,
    "nodeSelector": lambda value: type(value) is str,
    "ipipMode": MODES.__contains__,
    "vxlanMode": MODES.__contains__,
}
"""The fields that we set, as Calico's schema has them (crd.projectcalico.org_ippools.yaml of
projectcalico/calico, whose one required field is `cidr`)."""

BLOCK_SIZES = {4: range(20, 33), 6: range(116, 129)}
"""What Calico's reference of IPPool allows; and a block has to fit into the pool."""


@pytest.mark.parametrize("network", ["2.0.0.0/8", "2.2.2.0/27", "fd00:2::/32", "fd00:2::/124"])
@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_manifest_is_as_calico_s_schema_has_it(network: str, mode: str) -> None:
    [manifest] = wanted(network, ipip_mode=mode)
    assert manifest.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert manifest["metadata"].keys() == {"name"}
    spec = manifest["spec"]
    assert "cidr" in spec
    assert all(SPEC[name](value) for name, value in spec.items())
    ours = ip_network(spec["cidr"])
    assert spec["blockSize"] in BLOCK_SIZES[ours.version]
    assert spec["blockSize"] >= ours.prefixlen
    assert {spec["ipipMode"], spec["vxlanMode"]} & {"Never"}


def test_a_pool_that_is_right_is_not_written() -> None:
    assert store(STORED) is None
    assert differences(wanted()[0], STORED) == []


def test_a_new_pool_gets_what_libcalico_gives_it() -> None:
    assert store(pool("default-pool", "10.233.64.0/18")) == {
        "kind": "IPPool",
        "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": "fabric-pool", "uid": UID, "creationTimestamp": NOW},
        "spec": wanted()[0]["spec"],
    }


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("natOutgoing", True, "natOutgoing is true, not false"),
        ("disabled", False, "disabled is false, not true"),
        ("ipipMode", "Never", "ipipMode is Never, not Always"),
        ("vxlanMode", "Always", "vxlanMode is Always, not Never"),
        ("disableBGPExport", True, "disableBGPExport is true, not false"),
        ("nodeSelector", "gateway == 'yes'", "nodeSelector is gateway == 'yes', not all()"),
    ],
)
def test_a_field_that_is_wrong_is_told_and_mended(field: str, value: Any, says: str) -> None:
    wrong = {**STORED, "spec": {**STORED["spec"], field: value}}
    assert differences(wanted()[0], wrong) == [says]
    mended = store(wrong)
    assert mended is not None
    assert mended["metadata"] == STORED["metadata"]
    assert mended["spec"]["assignmentMode"] == "Automatic"
    assert differences(wanted()[0], mended) == []


def test_the_size_of_blocks_stays_as_it_was() -> None:
    wrong = {**STORED, "spec": {**STORED["spec"], "blockSize": 26}}
    assert store(wrong) is None
    mended = store({**wrong, "spec": {**wrong["spec"], "natOutgoing": True}})
    assert mended is not None
    assert mended["spec"]["blockSize"] == 26


@pytest.mark.parametrize("force", [False, True])
def test_no_pool_is_written_over_another_s_network(force: bool) -> None:
    with pytest.raises(Refused, match=r"^fabric-pool: 2\.0\.0\.0/8 overlaps other 2\.2\.0\.0/16"):
        store(pool("other", "2.2.0.0/16"), force=force)


@pytest.mark.parametrize("cidr", ["fd00::/8", "none", "10.233.64.0/18"])
def test_what_does_not_overlap_does_not_matter(cidr: str) -> None:
    assert store(pool("other", cidr)) is not None


def test_a_pool_for_another_network_is_replaced_by_force_only() -> None:
    elsewhere = {**STORED, "spec": {**STORED["spec"], "cidr": "3.0.0.0/8"}}
    with pytest.raises(Refused, match=r"there for 3\.0\.0\.0/8, not 2\.0\.0\.0/8: --force"):
        store(elsewhere)
    replaced = store(elsewhere, force=True)
    assert replaced is not None
    assert (replaced["spec"]["cidr"], replaced["metadata"]["uid"]) == ("2.0.0.0/8", UID)


@pytest.mark.parametrize("broken", [{}, {"spec": None}, {"spec": {"cidr": 5}}, {"metadata": []}])
def test_a_broken_pool_of_that_name_is_replaced_by_force_only(broken: dict[str, Any]) -> None:
    there = {"fabric-pool": broken}
    with pytest.raises(Refused, match="that pool is there for None"):
        to_store(wanted()[0], there, force=False, uid=UID, now=NOW)
    assert to_store(wanted()[0], there, force=True, uid=UID, now=NOW) is not None
