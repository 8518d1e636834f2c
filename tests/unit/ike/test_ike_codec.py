"""Connections as messages, and what charon lists as the types of the core."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from fabricd.core.state import Child, ChildSa, Conn, IkeSa
from fabricd.ike.codec import TEMPLATE, load_conn, observed_conn, observed_ike_sa, spis
from fabricd.ike.credentials import Credentials
from fabricd.ike.protocol import ProtocolError, Section
from fabricd.model import Prefix

CREDENTIALS = Credentials(
    authorities=MappingProxyType({"fabric-ca-b": b"B", "fabric-ca-a": b"A"}),
    certificate=b"CERT",
    key=b"KEY",
    key_id="00" * 20,
    digest="c0ffee",
    subject="CN=edge2",
    expiry=MappingProxyType({}),
)
HERE, THERE, LATER = Prefix("2.2.2.0/27"), Prefix("2.2.2.32/27"), Prefix("fd00::/64")
CONN = Conn(
    name="fabric-edge3",
    digest="d1",
    children=frozenset({Child(HERE, THERE)}),
    local_id="C=CN, O=StrongSwan, CN=edge2",
    remote_id="C=CN, O=StrongSwan, CN=edge3",
    remote_addrs=("10.20.8.12",),
)


def test_a_connection_says_everything_explicitly() -> None:
    assert load_conn(CONN, CREDENTIALS) == {
        "fabric-edge3": {
            "version": 2,
            "remote_addrs": ("10.20.8.12",),
            "proposals": (
                "aes128gcm16-prfsha256-ecp256",
                "aes256gcm16-prfsha384-ecp384",
                "default",
            ),
            "unique": "replace",
            "keyingtries": 1,
            "dpd_delay": "10s",
            "mobike": False,
            "fragmentation": True,
            "rekey_time": "17302s",
            "rand_time": "0s",
            "reauth_time": "0s",
            "send_cert": "always",
            "local-1": {
                "auth": "pubkey",
                "id": "C=CN, O=StrongSwan, CN=edge2",
                "certs": [b"CERT"],
            },
            "remote-1": {
                "auth": "pubkey",
                "id": "C=CN, O=StrongSwan, CN=edge3",
                "cacerts": [b"A", b"B"],
            },
            "children": {
                "2.2.2.0/27-2.2.2.32/27-d1": {
                    "mode": "tunnel",
                    "esp_proposals": ("aes128gcm16-ecp256", "aes256gcm16-ecp384", "default"),
                    "start_action": "none",
                    "close_action": "none",
                    "dpd_action": "clear",
                    "rekey_time": "1h",
                    "replay_window": 1024,
                    "local_ts": ["2.2.2.0/27"],
                    "remote_ts": ["2.2.2.32/27"],
                }
            },
        }
    }


def test_another_digest_is_a_difference_that_charon_sees() -> None:
    def ike(digest: str) -> dict[str, object]:
        [message] = load_conn(replace(CONN, digest=digest), CREDENTIALS).values()
        assert isinstance(message, dict)
        return {key: value for key, value in message.items() if key != "children"}

    assert ike("d1") == ike("d1") != ike("d2")


def test_who_responds_leaves_older_ike_sas_to_who_initiates() -> None:
    [message] = load_conn(replace(CONN, turn=0), CREDENTIALS).values()
    assert isinstance(message, dict)
    assert message["unique"] == "no"


def test_the_template_has_a_digest() -> None:
    assert len(TEMPLATE) == 8
    int(TEMPLATE, 16)


def listed(*children: tuple[str, str, str]) -> Section:
    """A `list-conn` section with children of these names, local and remote selectors."""
    return {
        "remote_addrs": [b"10.20.8.12"],
        "version": b"IKEv2",
        "local-1": {"class": b"public key", "id": b"C=CN, O=StrongSwan, CN=edge2"},
        "remote-1": {"class": b"public key", "id": b"C=CN, O=StrongSwan, CN=edge3"},
        "children": {
            name: {"local-ts": [local.encode()], "remote-ts": [remote.encode()]}
            for name, local, remote in children
        },
    }


def test_a_listed_connection_is_the_one_that_was_loaded() -> None:
    seen = observed_conn("fabric-edge3", listed(("2.2.2.0/27-2.2.2.32/27-d1", HERE, THERE)))
    assert seen == CONN
    assert (seen.local_id, seen.remote_id) == (CONN.local_id, CONN.remote_id)
    assert seen.remote_addrs == CONN.remote_addrs


@pytest.mark.parametrize(
    ("children", "found"),
    [
        ([], set()),
        ([("elses", HERE, THERE)], set()),
        ([("2.2.2.0/27-2.2.2.32/27-d1", HERE, "2.2.2.32/28")], {Child(HERE, THERE)}),
        ([("2.2.2.0/27-2.2.2.32/27-d1", "dynamic", THERE)], {Child(HERE, THERE)}),
        (
            [
                ("2.2.2.0/27-2.2.2.32/27-d1", HERE, THERE),
                ("2.2.2.0/27-fd00::/64-d2", HERE, LATER),
            ],
            {Child(HERE, THERE), Child(HERE, LATER)},
        ),
        (
            [("2.2.2.0/27-2.2.2.32/27-d1", HERE, THERE), ("elses", HERE, LATER)],
            {Child(HERE, THERE)},
        ),
    ],
)
def test_a_connection_that_is_not_all_ours_has_no_digest(
    children: list[tuple[str, str, str]], found: set[Child]
) -> None:
    seen = observed_conn("fabric-edge3", listed(*children))
    assert seen.digest == ""
    assert seen.children == found


SA: Section = {
    "uniqueid": b"6",
    "version": b"2",
    "state": b"ESTABLISHED",
    "remote-host": b"192.0.2.2",
    "initiator": b"yes",
    "established": b"17",
    "child-sas": {
        "2.2.2.0/27-2.2.2.32/27-d1-5": {
            "name": b"2.2.2.0/27-2.2.2.32/27-d1",
            "uniqueid": b"5",
            "state": b"INSTALLED",
            "bytes-in": b"84",
            "bytes-out": b"168",
            "install-time": b"16",
            "local-ts": [b"2.2.2.0/27"],
            "remote-ts": [b"2.2.2.32/27", b"10.0.0.1..10.0.0.9"],
        }
    },
}


def test_an_ike_sa_with_its_child_sa() -> None:
    assert observed_ike_sa("fabric-edge3", SA) == IkeSa(
        id=6,
        conn="fabric-edge3",
        state="ESTABLISHED",
        initiator=True,
        remote_host="192.0.2.2",
        age=17,
        children=(
            ChildSa(
                id=5,
                name="2.2.2.0/27-2.2.2.32/27-d1",
                state="INSTALLED",
                local=frozenset({"2.2.2.0/27"}),
                remote=frozenset({"2.2.2.32/27", "10.0.0.1..10.0.0.9"}),
                bytes_in=84,
                bytes_out=168,
                age=16,
            ),
        ),
    )


def test_spis_of_an_ike_sa() -> None:
    children: Section = {
        "a-1": {"spi-in": b"c1a2b3c4", "spi-out": b"0ea0e7fe"},
        "a-2": {"state": b"CREATED"},
    }
    assert set(spis({**SA, "child-sas": children})) == {0xC1A2B3C4, 0x0EA0E7FE}
    with pytest.raises(ProtocolError):
        list(spis({"child-sas": {"a-1": {"spi-in": b"many"}}}))


def test_a_half_open_one_has_no_age_and_no_children() -> None:
    half_open: Section = {"uniqueid": b"7", "state": b"CONNECTING", "child-sas": {}}
    assert observed_ike_sa("fabric-edge3", half_open) == IkeSa(
        7, "fabric-edge3", "CONNECTING", initiator=False
    )


@pytest.mark.parametrize(
    "odd", [{"uniqueid": b"six"}, {"state": [b"UP"]}, {"child-sas": b""}, {"uniqueid": {}}]
)
def test_a_shape_that_charon_does_not_have_is_a_named_error(odd: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        observed_ike_sa("fabric-edge3", {**SA, **odd})
    with pytest.raises(ProtocolError):
        observed_conn("fabric-edge3", {**listed(), "children": b"", **odd})
