"""CNI as data, field by field as the specification has it (containernetworking/cni, SPEC.md)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fabricd.core.pods import hardware_address, port_name
from fabricd.pods.attachments import Entry
from fabricd.pods.cni import (
    DECODING_FAILED,
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    Call,
    CniError,
    missing_from,
    parse,
    result,
    valid_attachments,
    version_of,
)

ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/c0ffee",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/usr/lib/cni",
}
ENTRY = Entry(
    "c0ffee.eth0",
    "/run/netns/c0ffee",
    "eth0",
    ("2.2.2.2/27", "fd00:2::2/64"),
    "c0ffee",
    "boot1",
    "fabric",
)


def call(command: str = "ADD", config: dict[str, Any] | None = None, **environment: str) -> Call:
    document = {"cniVersion": "1.1.0", "name": "fabric", "type": "fabric-cni", **(config or {})}
    return Call({**ENVIRONMENT, "CNI_COMMAND": command, **environment}, json.dumps(document))


def refused(made: Call) -> tuple[int, str]:
    with pytest.raises(CniError) as caught:
        parse(made)
    return caught.value.code, caught.value.message


# ---------------------------------------------------------------- what is asked


def test_all_that_is_said() -> None:
    asked = parse(call(config={"dns": {"nameservers": ["2.2.2.1"]}}))
    assert (asked.command, asked.version, asked.network) == ("ADD", "1.1.0", "fabric")
    assert (asked.container, asked.netns, asked.ifname) == ("c0ffee", "/run/netns/c0ffee", "eth0")
    assert asked.pod == "c0ffee.eth0"
    assert asked.addresses == ()
    assert asked.config["dns"] == {"nameservers": ["2.2.2.1"]}


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_versions_that_are_known(version: str, command: str) -> None:
    assert parse(call(command, {"cniVersion": version})).version == version


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.1", "1.2.0", "2.0.0", "", None, 1])
def test_versions_that_are_not(version: object) -> None:
    with pytest.raises(CniError) as caught:
        parse(call(config={"cniVersion": version}))
    assert caught.value.code == INCOMPATIBLE_VERSION
    assert caught.value.message == f"cniVersion {version!r} is not supported"
    assert caught.value.details == "supported are 0.4.0, 1.0.0, 1.1.0"


def test_no_version_is_the_oldest() -> None:
    made = Call(ENVIRONMENT, '{"name": "fabric"}')
    assert refused(made) == (INCOMPATIBLE_VERSION, "cniVersion '0.1.0' is not supported")


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_what_came_with_a_later_version(command: str) -> None:
    code, message = refused(call(command, {"cniVersion": "1.0.0"}))
    assert code == INCOMPATIBLE_VERSION
    assert message == f"{command} is of version 1.1.0, this is 1.0.0"


@pytest.mark.parametrize("command", ["", "add", "CHANGE", "VERSION"])
def test_a_command_that_is_none(command: str) -> None:
    code, message = refused(call(command))
    assert code == INVALID_ENVIRONMENT
    assert message.startswith(f"CNI_COMMAND is {command!r}")


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("ADD", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("DEL", ["CNI_CONTAINERID", "CNI_IFNAME"]),
        ("CHECK", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
    ],
)
def test_what_a_command_needs(command: str, needed: list[str]) -> None:
    bare = Call({"CNI_COMMAND": command}, call().config)
    assert refused(bare) == (INVALID_ENVIRONMENT, f"{command} needs {', '.join(needed)}")
    for key in needed:
        code, message = refused(call(command, None, **{key: ""}))
        assert (code, message) == (INVALID_ENVIRONMENT, f"{command} needs {key}")


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_a_command_that_needs_no_container(command: str) -> None:
    asked = parse(Call({"CNI_COMMAND": command}, call().config))
    assert (asked.command, asked.container) == (command, "")


def test_a_container_may_be_gone_when_it_is_deleted() -> None:
    assert parse(call("DEL", CNI_NETNS="")).netns == ""


@pytest.mark.parametrize("container", ["-c", "a/b", "a b", "../a", "a\n", ".a", "ä"])
def test_a_container_that_is_none(container: str) -> None:
    code, message = refused(call(CNI_CONTAINERID=container))
    assert (code, message) == (
        INVALID_ENVIRONMENT,
        f"CNI_CONTAINERID: {container!r} is no container's ID",
    )


@pytest.mark.parametrize("ifname", [".", "..", "a/b", "a:b", "a b", "sixteen-letters-", "a\n"])
def test_an_interface_that_is_none(ifname: str) -> None:
    code, message = refused(call(CNI_IFNAME=ifname))
    assert (code, message) == (
        INVALID_ENVIRONMENT,
        f"CNI_IFNAME: {ifname!r} is no interface's name",
    )


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '"x"', "\ud800", '{"x": ' + 5000 * "["])
def test_a_configuration_that_is_none(text: str) -> None:
    code, _ = refused(Call(ENVIRONMENT, text))
    assert code == DECODING_FAILED


@pytest.mark.parametrize("name", [None, "", "a/b", "-a", 5])
def test_a_network_without_a_name(name: object) -> None:
    code, message = refused(call(config={"name": name}))
    assert (code, message) == (INVALID_CONFIG, f"name: {name!r} is no name of a network")


def test_it_makes_interfaces_so_it_is_the_first_of_its_list() -> None:
    code, message = refused(call(config={"prevResult": {}}))
    assert (code, message.partition(":")[0]) == (INVALID_CONFIG, "prevResult")


@pytest.mark.parametrize("previous", [None, [], "x"])
def test_a_check_needs_what_add_has_answered(previous: object) -> None:
    code, message = refused(call("CHECK", {"prevResult": previous}))
    assert (code, message) == (INVALID_CONFIG, "prevResult: CHECK needs what ADD has answered")
    assert parse(call("CHECK", {"prevResult": {}})).command == "CHECK"


def test_a_delete_with_and_without_it() -> None:
    assert parse(call("DEL")).command == "DEL"
    assert parse(call("DEL", {"prevResult": {"cniVersion": "1.1.0"}})).command == "DEL"


# ---------------------------------------------------------------- addresses that are asked for


@pytest.mark.parametrize(
    ("arguments", "config", "addresses"),
    [
        ("IP=2.2.2.9", {}, ("2.2.2.9",)),
        ("IgnoreUnknown=1;K8S_POD_NAME=web-0;IP=2.2.2.9/27", {}, ("2.2.2.9/27",)),
        ("IP=2.2.2.9,fd00:2::9;", {}, ("2.2.2.9", "fd00:2::9")),
        ("", {"runtimeConfig": {"ips": ["2.2.2.9/27"]}}, ("2.2.2.9/27",)),
        ("", {"args": {"cni": {"ips": ["2.2.2.9"]}}}, ("2.2.2.9",)),
        ("IP=2.2.2.7", {"args": {"cni": {"ips": ["2.2.2.9"]}}}, ("2.2.2.9",)),  # CONVENTIONS.md
        (
            "",
            {"runtimeConfig": {"ips": ["2.2.2.9"]}, "args": {"cni": {"ips": ["2.2.2.9"]}}},
            ("2.2.2.9",),
        ),
        ("A=B=C", {"runtimeConfig": {}, "args": {"cni": None}}, ()),
    ],
)
def test_three_ways_to_ask(
    arguments: str, config: dict[str, Any], addresses: tuple[str, ...]
) -> None:
    assert parse(call(config=config, CNI_ARGS=arguments)).addresses == addresses


def test_what_is_no_address_to_ask_for() -> None:
    code, message = refused(call(CNI_ARGS="IP"))
    assert (code, message) == (INVALID_ENVIRONMENT, "CNI_ARGS: 'IP' is no KEY=VALUE")
    code, _ = refused(call(config={"runtimeConfig": {"ips": [2]}}))
    assert code == INVALID_CONFIG


def test_only_add_asks_for_any() -> None:
    assert parse(call("DEL", CNI_ARGS="nonsense")).addresses == ()


# ---------------------------------------------------------------- what is answered


def test_the_result() -> None:
    asked = parse(call(config={"dns": {"nameservers": ["2.2.2.1"]}}))
    assert result(asked, ENTRY, 1438) == {
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": port_name("c0ffee.eth0")},
            {
                "name": "eth0",
                "mac": hardware_address("2.2.2.2/27"),
                "sandbox": "/run/netns/c0ffee",
                "mtu": 1438,
            },
        ],
        "ips": [
            {"interface": 1, "address": "2.2.2.2/27", "gateway": "2.2.2.1"},
            {"interface": 1, "address": "fd00:2::2/64", "gateway": "fd00:2::1"},
        ],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "2.2.2.1"},
            {"dst": "::/0", "gw": "fd00:2::1"},
        ],
        "dns": {"nameservers": ["2.2.2.1"]},
    }


def test_the_result_before_there_was_an_mtu_in_it() -> None:
    found = result(parse(call(config={"cniVersion": "1.0.0"})), ENTRY, 1438)
    assert found["cniVersion"] == "1.0.0"
    assert "mtu" not in found["interfaces"][1]
    assert "version" not in found["ips"][0]
    assert found["dns"] == {}


def test_the_result_when_addresses_told_their_version() -> None:
    found = result(parse(call(config={"cniVersion": "0.4.0"})), ENTRY, 1438)
    assert found["cniVersion"] == "0.4.0"
    assert [item["version"] for item in found["ips"]] == ["4", "6"]
    assert "mtu" not in found["interfaces"][1]


def test_the_error() -> None:
    assert CniError(7, "Invalid", "more").document("1.0.0") == {
        "cniVersion": "1.0.0",
        "code": 7,
        "msg": "Invalid",
        "details": "more",
    }
    assert CniError(7, "Invalid").document("1.0.0") == {
        "cniVersion": "1.0.0",
        "code": 7,
        "msg": "Invalid",
    }


@pytest.mark.parametrize(
    ("config", "version"),
    [
        ('{"cniVersion": "0.4.0"}', "0.4.0"),
        ('{"cniVersion": "9.9"}', "9.9"),
        ("{}", "1.1.0"),
        ('{"cniVersion": 4}', "1.1.0"),
        ("[]", "1.1.0"),
        ("{", "1.1.0"),
        ("\ud800", "1.1.0"),
    ],
)
def test_the_version_to_answer_in(config: str, version: str) -> None:
    assert version_of(config) == version


# ---------------------------------------------------------------- CHECK and GC


def test_what_an_earlier_result_must_have() -> None:
    told = result(parse(call()), ENTRY, 1438)
    assert missing_from(told, ENTRY) == ""
    told["ips"].pop()
    told["ips"] += [{"address": "9.9.9.9/32"}, "nonsense"]  # a later plugin may add some
    assert missing_from(told, ENTRY) == "prevResult has no fd00:2::2/64"
    assert missing_from({"ips": None}, ENTRY) == "prevResult has no 2.2.2.2/27, fd00:2::2/64"


def test_which_attachments_are_valid() -> None:
    listed = [{"containerID": "c0ffee", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1"}]
    assert valid_attachments({"cni.dev/valid-attachments": listed}) == {"c0ffee.eth0", "b.net1"}
    assert valid_attachments({"cni.dev/valid-attachments": []}) == frozenset()


@pytest.mark.parametrize("listed", ["x", {}, [{}], [{"containerID": "a"}], [["a", "eth0"]]])
def test_attachments_that_are_none(listed: object) -> None:
    with pytest.raises(CniError) as caught:
        valid_attachments({"cni.dev/valid-attachments": listed})
    assert caught.value.code == INVALID_CONFIG
    with pytest.raises(CniError):
        valid_attachments({})
