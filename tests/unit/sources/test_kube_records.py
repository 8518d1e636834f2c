"""Nodes and Communities as records, and back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from fabricd.core.events import Listed, Put
from fabricd.core.records import decode
from fabricd.core.rib import Rib
from fabricd.sources.kube_records import (
    KubeCommunity,
    KubeNode,
    node_fields,
    node_patch,
    place,
    put_of_community,
    put_of_node,
)
from tests.lab.kube_api import merge_patch

TEMPLATE = "C=CN, O=StrongSwan, CN={name}"


def node(
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    *,
    name: str = "edge2",
    addresses: dict[str, str] | None = None,
    created: str | None = "2026-11-23T17:28:35Z",
    **spec: Any,
) -> dict[str, Any]:
    """A Node as the API writes it."""
    return {
        "metadata": {
            "name": name,
            "uid": "u",
            "resourceVersion": "7",
            "creationTimestamp": created,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": spec,
        "status": {
            "addresses": [{"type": k, "address": v} for k, v in (addresses or {}).items()],
            "nodeInfo": {"machineID": ""},
        },
    }


def read(value: dict[str, Any]) -> KubeNode:
    return msgspec.convert(value, KubeNode)


def fields(value: dict[str, Any]) -> dict[str, Any] | None:
    return node_fields(read(value))


EDGE = {"fabricd.io/role": "edge"}


def test_a_node_without_the_role_label_is_not_in_the_fabric() -> None:
    assert put_of_node(read(node({}, {"fabricd.io/subnets": "2.2.2.0/27"}))) is None
    assert put_of_node(read(node(None, None))) is None


def test_what_a_node_says_by_itself() -> None:
    value = node(EDGE, addresses={"InternalIP": "10.20.8.4"}, podCIDRs=["2.2.2.0/27", "fd::/64"])
    assert fields(value) == {
        "role": "edge",
        "endpoint": "10.20.8.4",
        "subnets": ["2.2.2.0/27", "fd::/64"],
    }


def test_annotations_come_before_what_a_node_says_by_itself() -> None:
    value = node(
        {"fabricd.io/role": "cloud"},
        {
            "fabricd.io/endpoint": "gw.example.",
            "fabricd.io/subnets": "10.233.0.0/16, 10.234.0.0/16",
            "fabricd.io/identity": "C=CN, O=Org, CN=gateway",
            "fabricd.io/priority": "200",
            "fabricd.io/drained": "true",
            "other.io/subnets": "9.9.9.0/24",
        },
        addresses={"InternalIP": "10.20.8.4"},
        podCIDRs=["10.233.96.0/24"],
    )
    assert fields(value) == {
        "role": "cloud",
        "endpoint": "gw.example.",
        "subnets": ["10.233.0.0/16", "10.234.0.0/16"],
        "identity": "C=CN, O=Org, CN=gateway",
        "priority": 200,
        "drained": True,
    }


@pytest.mark.parametrize(
    ("addresses", "annotation", "endpoint"),
    [
        ({"InternalIP": "10.0.0.1", "ExternalIP": "192.0.2.1"}, None, "192.0.2.1"),
        ({"Hostname": "edge2", "InternalIP": "10.0.0.1"}, None, "10.0.0.1"),
        ({"Hostname": "edge2"}, None, None),
        ({"ExternalIP": "192.0.2.1"}, "none", None),
        ({"ExternalIP": "192.0.2.1"}, "198.51.100.1", "198.51.100.1"),
    ],
)
def test_the_endpoint(
    addresses: dict[str, str], annotation: str | None, endpoint: str | None
) -> None:
    annotations = {"fabricd.io/endpoint": annotation} if annotation else {}
    found = fields(node(EDGE, annotations, addresses=addresses))
    assert found is not None
    assert found.get("endpoint") == endpoint


def test_tokens_come_from_labels_and_from_the_annotation() -> None:
    labels = EDGE | {"community.fabricd.io/app1": "", "community.fabricd.io/Zone_b.2": "yes"}
    found = fields(node(labels, {"fabricd.io/community": "group1; app1;a/b"}))
    assert found is not None
    assert found["community"] == "Zone_b.2;a/b;app1;group1"


def test_a_server_that_knows_one_cidr_only() -> None:
    assert fields(node(EDGE, podCIDR="2.2.2.0/27")) == {"role": "edge", "subnets": ["2.2.2.0/27"]}


def test_nothing_to_have_as_subnet_is_a_fault_of_the_record() -> None:
    put = put_of_node(read(node(EDGE)))
    assert put is not None
    [fault] = decode(put.key, put.value, TEMPLATE).faults
    assert (fault.key, fault.field, fault.reason) == ("nodes/edge2", "subnets", "is required")


@pytest.mark.parametrize(
    ("labels", "annotations", "field", "where"),
    [
        ({"fabricd.io/role": "gateway"}, {}, "role", "label fabricd.io/role"),
        (EDGE, {"fabricd.io/subnets": "2.2.2.1/27"}, "subnets", "annotation fabricd.io/subnets"),
        (EDGE, {"fabricd.io/subnets": ""}, "subnets", "annotation fabricd.io/subnets"),
        (EDGE, {"fabricd.io/endpoint": "a b"}, "endpoint", "annotation fabricd.io/endpoint"),
        (EDGE, {"fabricd.io/priority": "high"}, "priority", "annotation fabricd.io/priority"),
        (EDGE, {"fabricd.io/drained": "yes"}, "drained", "annotation fabricd.io/drained"),
        (EDGE, {"fabricd.io/identity": "CN=*"}, "identity", "annotation fabricd.io/identity"),
        (EDGE, {"fabricd.io/community": "a b"}, "community", "annotation fabricd.io/community"),
    ],
)
def test_a_rejection_leads_to_the_label_or_annotation(
    labels: dict[str, str], annotations: dict[str, str], field: str, where: str
) -> None:
    found = read(node(labels, annotations, podCIDRs=["2.2.2.0/27"]))
    put = put_of_node(found)
    assert put is not None
    [fault] = decode(put.key, put.value, TEMPLATE).faults
    assert fault.field == field
    assert place(field, found) == where


def test_the_place_of_what_no_annotation_says() -> None:
    found = read(node(EDGE, podCIDRs=["2.2.2.1/27"]))
    assert place("subnets", found) == "spec.podCIDRs"
    assert place("endpoint", found) == "status.addresses"
    assert place("community", found) == "labels community.fabricd.io/TOKEN"
    assert place("subnets") == "annotation fabricd.io/subnets or spec.podCIDRs"
    assert place("name", found) == "metadata.name"


def test_a_name_that_nobody_knows_is_reported() -> None:
    annotations = {"fabricd.io/subnet": "2.2.2.0/27", "fabricd.io/role": "edge"}
    labels = EDGE | {"fabricd.io/priority": "7"}
    put = put_of_node(read(node(labels, annotations, podCIDRs=["2.2.2.0/27"])))
    assert put is not None
    assert decode(put.key, put.value, TEMPLATE).warnings == (
        "nodes/edge2: unknown field 'annotation fabricd.io/role' is ignored",
        "nodes/edge2: unknown field 'label fabricd.io/priority' is ignored",
        "nodes/edge2: unknown field 'subnet' is ignored",
    )


def test_the_node_that_was_created_first_keeps_its_subnet() -> None:
    late = put_of_node(read(node(EDGE, name="edge1", podCIDRs=["2.2.2.0/27"])))
    early = put_of_node(
        read(node(EDGE, name="edge2", created="2026-11-23T17:28:34Z", podCIDRs=["2.2.2.0/27"]))
    )
    assert late is not None
    assert early is not None
    rib = Rib(TEMPLATE)
    rib.apply(Listed((late, early)), now=0)
    assert list(rib.in_force().nodes) == ["edge2"]


@pytest.mark.parametrize("created", ["", "yesterday", None])
def test_a_creation_time_that_is_none(created: str | None) -> None:
    put = put_of_node(read(node(EDGE, created=created)))
    assert put is not None
    assert put.created == 0


def test_a_community() -> None:
    value = {
        "metadata": {"name": "app1", "creationTimestamp": "1970-01-01T00:01:00Z"},
        "spec": {"members": ["edge3", "edge5"], "note": "x"},
    }
    assert put_of_community(msgspec.convert(value, KubeCommunity)) == Put(
        "communities/app1", b'{"members":["edge3","edge5"],"note":"x"}', 60
    )


# ---------------------------------------------------------------- and back


RECORDS: list[dict[str, Any]] = [
    {"role": "edge", "subnets": ["2.2.2.0/27"]},
    {"role": "edge", "endpoint": "10.20.8.4", "subnets": ["2.2.2.0/27"], "community": "app1;g.1"},
    {"subnets": ["2.2.2.0/27", "fd00:2::/64"], "community": ["a:b", "app1", "-x-"]},
    {
        "role": "cloud",
        "endpoint": "gw.example",
        "subnets": ["10.233.0.0/16"],
        "identity": "C=CN, O=Org, CN=gw",
        "priority": 200,
        "drained": True,
        "comment": "kept",
    },
]

BEFORE = node(
    {
        "fabricd.io/role": "cloud",
        "community.fabricd.io/old": "",
        "kubernetes.io/os": "linux",
    },
    {"fabricd.io/subnets": "9.9.9.0/24", "fabricd.io/community": "older", "kubectl/x": "y"},
    addresses={"InternalIP": "10.0.0.1"},
    podCIDRs=["2.2.3.0/27"],
)


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("before", [BEFORE, node()])
def test_a_record_put_on_a_node_is_the_record_it_holds(
    before: dict[str, Any], record: dict[str, Any]
) -> None:
    after = merge_patch(before, node_patch(read(before), record))
    put = put_of_node(read(after))
    assert put is not None
    wanted = decode("nodes/edge2", json.dumps(record).encode(), TEMPLATE)
    assert wanted.record is not None
    assert decode(put.key, put.value, TEMPLATE) == wanted


def test_what_is_not_ours_on_a_node_stays() -> None:
    for record in (RECORDS[0], None):
        after = merge_patch(BEFORE, node_patch(read(BEFORE), record))["metadata"]
        assert after["labels"]["kubernetes.io/os"] == "linux"
        assert after["annotations"]["kubectl/x"] == "y"
        assert "community.fabricd.io/old" not in after["labels"]


def test_a_record_taken_away_leaves_nothing_of_it() -> None:
    after = merge_patch(BEFORE, node_patch(read(BEFORE), None))["metadata"]
    assert after["labels"] == {"kubernetes.io/os": "linux"}
    assert after["annotations"] == {"kubectl/x": "y"}


def test_tokens_are_labels_where_they_can_be() -> None:
    meta = node_patch(read(node()), RECORDS[2])["metadata"]
    assert meta["labels"] == {"fabricd.io/role": "edge", "community.fabricd.io/app1": ""}
    assert meta["annotations"]["fabricd.io/community"] == "-x-;a:b"
    assert meta["resourceVersion"] == "7"


def test_a_field_that_no_annotation_can_be_named_after() -> None:
    with pytest.raises(ValueError, match="field 'a b' can't be the name of an annotation"):
        node_patch(read(node()), {"subnets": ["2.2.2.0/27"], "a b": 1})
