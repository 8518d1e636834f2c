"""Endpoints as operators write them, and the waits between attempts."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from fabricd.sources import EtcdStore, parse_endpoint
from fabricd.sources.backoff import Backoff


@pytest.mark.parametrize(
    ("url", "endpoint", "target"),
    [
        ("http://10.20.8.141:2379", ("10.20.8.141", 2379, False), "ipv4:10.20.8.141:2379"),
        ("https://etcd.example:1234", ("etcd.example", 1234, True), "dns:///etcd.example:1234"),
        ("http://localhost/", ("localhost", 2379, False), "dns:///localhost:2379"),
        ("http://[fd00::1]:2379", ("fd00::1", 2379, False), "ipv6:[fd00::1]:2379"),
        ("https://etcd_1.Example.", ("etcd_1.example.", 2379, True), "dns:///etcd_1.example.:2379"),
    ],
)
def test_a_good_endpoint(url: str, endpoint: tuple[str, int, bool], target: str) -> None:
    parsed = parse_endpoint(url)
    assert parsed == endpoint
    assert parsed.target == target
    assert parse_endpoint(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("10.20.8.141:2379", "start with http"),
        ("etcd:2379", "start with http"),
        ("unix:///run/etcd.sock", "start with http"),
        ("ftp://etcd:2379", "start with http"),
        ("http://", "no host"),
        ("http://etcd:port", "port"),
        ("http://etcd:70000", "range"),
        ("http://etcd:0", "port 0"),
        ("http://a,b:2379", "no host"),
        ("http://a b:2379", "no host"),
        ("http://[fd00::1:2379", "IPv6"),
        ("http://[fd00::zz]:2379", "IPv"),
        ("http://user:secret@etcd:2379", "only host and port"),
        ("http://etcd:2379/v3", "only host and port"),
        ("", "start with http"),
    ],
)
def test_a_bad_endpoint_is_named_in_one_line(url: str, why: str) -> None:
    with pytest.raises(ValueError, match="is no endpoint of etcd") as wrong:
        parse_endpoint(url)
    assert repr(url) in str(wrong.value)
    assert why in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_credentials_that_make_no_sense_are_refused() -> None:
    good = ["http://127.0.0.1:2379"]
    with pytest.raises(ValueError, match="is no endpoint"):
        EtcdStore(["nowhere"], "/fabric")
    with pytest.raises(ValueError, match="at least one"):
        EtcdStore([], "/fabric")
    with pytest.raises(ValueError, match="go together"):
        EtcdStore(good, "/fabric", cert=Path("cert.pem"))
    with pytest.raises(ValueError, match="go together"):
        EtcdStore(good, "/fabric", username="fabricd")


def test_waits_grow_to_their_limit_and_are_never_alike() -> None:
    backoff = Backoff(random.Random(1), first=1, limit=10)
    for most in (1, 2, 4, 8, 10, 10):
        assert most / 2 <= backoff.next() <= most
    backoff.reset()
    assert backoff.next() <= 1
    assert Backoff(random.Random(1)).next() != Backoff(random.Random(2)).next()


def test_grpc_is_loaded_when_a_store_is_made_and_not_before() -> None:
    program = """
import sys
import fabricd.sources
assert "grpc" not in sys.modules and "google.protobuf" not in sys.modules
fabricd.sources.EtcdStore(["http://127.0.0.1:2379"], "/fabric")
assert "grpc" in sys.modules
assert "etcd3" not in sys.modules, "its code is not run"
"""
    subprocess.run([sys.executable, "-c", program], check=True)
