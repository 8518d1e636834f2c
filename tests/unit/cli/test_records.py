"""`fabricctl node` and `community`, on a store that is a directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabricd.cli.records import refusals
from fabricd.core.events import Put
from tests.unit.cli.conftest import Ctl

EDGE2 = '{"role": "edge", "endpoint": "10.20.8.4", "subnets": ["2.2.2.0/27"], "community": "app1"}'


@pytest.fixture
def records(config: Path) -> Path:
    return config.parent / "records"


def write(records: Path, key: str, value: str) -> Path:
    path = records / f"{key}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(value)
    return path


def stored(records: Path, key: str) -> Any:
    return json.loads((records / f"{key}.json").read_text())


# ---------------------------------------------------------------- put


def test_put_get_list_delete(ctl: Ctl) -> None:
    put = ctl("node", "put", "edge2", "--endpoint", "10.20.8.4", "--subnet", "2.2.2.0/27")
    assert (put.exit_code, put.output) == (0, "nodes/edge2: written\n")
    get = ctl("node", "get", "edge2", "-o", "json")
    assert json.loads(get.stdout) == {
        "role": "edge",
        "endpoint": "10.20.8.4",
        "subnets": ["2.2.2.0/27"],
    }
    assert (
        ctl("node", "list").output
        == """\
NAME   ROLE  ENDPOINT   SUBNETS     COMMUNITY
edge2  edge  10.20.8.4  2.2.2.0/27  -
"""
    )
    delete = ctl("node", "delete", "edge2")
    assert (delete.exit_code, delete.output) == (0, "nodes/edge2: deleted\n")
    assert ctl("node", "list").output == "no nodes\n"


def test_every_field(ctl: Ctl, records: Path) -> None:
    words = ["node", "put", "node1", "--role", "cloud", "--priority", "200"]
    words += ["--endpoint", "node1.example.org"]
    words += ["--subnet", "10.233.0.0/17", "--subnet", "fd00:1::/64", "--community", "app1"]
    words += ["--community", "group1", "--identity", "C=CN, O=StrongSwan, CN=gateway"]
    assert ctl(*words).output == "nodes/node1: written\n"
    assert stored(records, "nodes/node1") == {
        "role": "cloud",
        "endpoint": "node1.example.org",
        "subnets": ["10.233.0.0/17", "fd00:1::/64"],
        "community": "app1;group1",
        "identity": "C=CN, O=StrongSwan, CN=gateway",
        "priority": 200,
    }


def test_put_of_a_community(ctl: Ctl, records: Path) -> None:
    result = ctl("community", "put", "app1", "--member", "edge2", "--member", "edge3")
    assert result.output == "communities/app1: written\n"
    assert stored(records, "communities/app1") == {"members": ["edge2", "edge3"]}
    assert ctl("community", "list").output == "NAME  MEMBERS\napp1  edge2,edge3\n"


def test_json_is_written_as_it_is_and_unknown_fields_are_warned_of(
    ctl: Ctl, records: Path, tmp_path: Path
) -> None:
    file = tmp_path / "edge2.json"
    file.write_text('{"subnets":["2.2.2.0/27"],\n "colour": "red"}\n')
    result = ctl("node", "put", "edge2", "--file", str(file))
    assert result.exit_code == 0
    assert result.stdout == "nodes/edge2: written\n"
    assert result.stderr == ("fabricctl: warning: nodes/edge2: unknown field 'colour' is ignored\n")
    assert (records / "nodes/edge2.json").read_bytes() == file.read_bytes()


def test_json_from_standard_input(ctl: Ctl, records: Path) -> None:
    assert ctl("node", "put", "edge2", "--file", "-", stdin=EDGE2).exit_code == 0
    assert stored(records, "nodes/edge2") == json.loads(EDGE2)


def test_json_and_fields_don_t_go_together(ctl: Ctl) -> None:
    result = ctl("node", "put", "edge2", "--file", "-", "--role", "edge", stdin=EDGE2)
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["edge3"], "nodes/edge3: subnets: is required"),
        (
            ["edge3", "--subnet", "2.2.2.1/27"],
            "nodes/edge3: subnets: '2.2.2.1/27': has host bits set; the network is 2.2.2.0/27",
        ),
        (
            ["edge3", "--subnet", "2.2.2.0/28"],
            "nodes/edge3: subnets: 2.2.2.0/28 overlaps 2.2.2.0/27 of nodes/edge2",
        ),
        (
            ["edge3", "--subnet", "2.2.3.0/27", "--identity", "C=CN, O=StrongSwan, CN=edge2"],
            "nodes/edge3: identity: 'C=CN, O=StrongSwan, CN=edge2' is the identity of nodes/edge2",
        ),
        (
            ["Edge3", "--subnet", "2.2.3.0/27"],
            "nodes/Edge3: name: 'Edge3' is no name: 1 to 63 of a-z 0-9 - ., starting and ending "
            "with a letter or digit",
        ),
    ],
)
def test_what_every_node_would_reject_is_not_written(
    words: list[str], reason: str, ctl: Ctl, records: Path
) -> None:
    write(records, "nodes/edge2", EDGE2)
    result = ctl("node", "put", *words)
    assert result.exit_code == 1
    assert result.output == f"fabricctl: {reason}; nothing was written\n"
    assert [path.name for path in (records / "nodes").iterdir()] == ["edge2.json"]


def test_each_fault_of_a_record_is_one_line(ctl: Ctl) -> None:
    result = ctl("node", "put", "edge2", "--subnet", "0.0.0.0/0", "--endpoint", "a b")
    assert result.exit_code == 1
    assert [line.split(": ")[:3] for line in result.stderr.splitlines()] == [
        ["fabricctl", "nodes/edge2", "endpoint"],
        ["fabricctl", "nodes/edge2", "subnets"],
    ]


def test_an_update_is_not_refused_for_what_was_wrong_before(ctl: Ctl, records: Path) -> None:
    write(records, "nodes/edge2", EDGE2)
    write(records, "nodes/edge9", "not JSON")
    assert ctl("node", "put", "edge2", "--subnet", "2.2.2.0/26").exit_code == 0
    assert ctl("node", "put", "edge9", "--subnet", "2.2.2.64/27").exit_code == 0


# The rank of creation, which a directory does not have.

OLD = Put("nodes/old", b'{"subnets": ["2.2.2.0/27"]}', created=5)
YOUNG = Put("nodes/aaa", b'{"subnets": ["2.2.2.32/27"]}', created=7)
TEMPLATE = "CN={name}"


def test_a_new_record_comes_after_all_others_whatever_its_name() -> None:
    assert refusals([OLD], "nodes/a", b'{"subnets": ["2.2.2.0/28"]}', TEMPLATE) == (
        "nodes/a: subnets: 2.2.2.0/28 overlaps 2.2.2.0/27 of nodes/old",
    )


def test_an_update_that_would_push_out_another_record_is_refused() -> None:
    assert refusals([OLD, YOUNG], "nodes/old", b'{"subnets": ["2.2.2.0/26"]}', TEMPLATE) == (
        "nodes/old: would put another record out of force: "
        "nodes/aaa: subnets: 2.2.2.32/27 overlaps 2.2.2.0/26 of nodes/old",
    )
    assert refusals([OLD], "nodes/old", b'{"subnets": ["2.2.2.0/26"]}', TEMPLATE) == ()


# ---------------------------------------------------------------- get, list, delete


def test_get_in_all_forms(ctl: Ctl, records: Path) -> None:
    write(records, "nodes/edge2", EDGE2)
    assert json.loads(ctl("node", "get", "edge2", "-o", "json").stdout) == json.loads(EDGE2)
    assert yaml.safe_load(ctl("node", "get", "edge2", "-o", "yaml").stdout) == json.loads(EDGE2)
    assert (
        ctl("node", "get", "edge2").stdout
        == """\
NAME   ROLE  ENDPOINT   SUBNETS     COMMUNITY
edge2  edge  10.20.8.4  2.2.2.0/27  app1
"""
    )
    assert (
        ctl("node", "get", "edge2", "-o", "wide").stdout
        == """\
NAME   ROLE  ENDPOINT   SUBNETS     COMMUNITY  IDENTITY  PRIORITY  DRAINED
edge2  edge  10.20.8.4  2.2.2.0/27  app1       -         -         -
"""
    )


@pytest.mark.parametrize("verb", ["get", "delete"])
@pytest.mark.parametrize("group", [("node", "nodes"), ("community", "communities")])
@pytest.mark.parametrize("name", ["edge9", "../nodes/edge2", "edge2.json", ""])
def test_what_is_not_there(
    verb: str, group: tuple[str, str], name: str, ctl: Ctl, records: Path
) -> None:
    file = write(records, "nodes/edge2", EDGE2)
    result = ctl(group[0], verb, name)
    assert result.exit_code == 1
    assert result.output == (
        f"fabricctl: {group[1]}/{name}: there is no such record: see fabricctl {group[0]} list\n"
    )
    assert file.exists()


def test_get_of_what_is_no_record(ctl: Ctl, records: Path) -> None:
    write(records, "nodes/edge2", "[1, 2]")
    result = ctl("node", "get", "edge2")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("fabricctl: nodes/edge2: not a JSON object: ")


def test_list_shows_rejected_records_too(ctl: Ctl, records: Path) -> None:
    write(records, "nodes/edge2", EDGE2)
    write(records, "nodes/edge3", '{"subnets": ["2.2.2.0/28"], "community": ["b", "a"]}')
    write(records, "nodes/edge4", "{")
    write(records, "nodes/edge5", '{"subnets": 5, "name": "edge2", "endpoint": {"a": 1}}')
    write(records, "communities/app1", '{"members": 5}')
    assert (
        ctl("node", "list").stdout
        == """\
NAME   ROLE  ENDPOINT   SUBNETS     COMMUNITY
edge2  edge  10.20.8.4  2.2.2.0/27  app1
edge3  edge  -          2.2.2.0/28  b;a
edge4  edge  -          -           -
edge5  edge  {"a": 1}   5           -

Rejected records
KEY                  FIELD     REASON
/fabric/nodes/edge3  subnets   2.2.2.0/28 overlaps 2.2.2.0/27 of nodes/edge2
/fabric/nodes/edge4            not a JSON object: Input data was truncated
/fabric/nodes/edge5  endpoint  Expected `str`, got `object`
/fabric/nodes/edge5  subnets   Expected `array`, got `int`
"""
    )
    document = json.loads(ctl("node", "list", "-o", "json").stdout)
    assert document["nodes"] == [
        {"name": "edge2", **json.loads(EDGE2)},
        {"name": "edge3", "subnets": ["2.2.2.0/28"], "community": ["b", "a"]},
        {"name": "edge4"},
        {"name": "edge5", "subnets": 5, "endpoint": {"a": 1}},
    ]
    assert document["rejected"][0] == {
        "key": "/fabric/nodes/edge3",
        "field": "subnets",
        "reason": "2.2.2.0/28 overlaps 2.2.2.0/27 of nodes/edge2",
    }
    assert json.loads(ctl("community", "list", "-o", "json").stdout) == {
        "communities": [{"name": "app1", "members": 5}],
        "rejected": [
            {
                "key": "/fabric/communities/app1",
                "field": "members",
                "reason": "Expected `array`, got `int`",
            }
        ],
    }


def test_a_store_that_is_not_there(ctl: Ctl, records: Path) -> None:
    records.rmdir()
    result = ctl("node", "list")
    assert result.exit_code == 1
    assert result.output == (
        f"fabricctl: store: {records}: cannot be read: No such file or directory\n"
    )
