"""What `fabricctl pki` makes, read by openssl and strongSwan's pki; what they make, read here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.x509 import load_pem_x509_certificate
from cryptography.x509.oid import ExtensionOID

from fabricd.cli.main import fabricctl
from fabricd.pki.blocks import ADDRESS_BLOCKS_OID, blocks_of, encode
from fabricd.pki.keys import Algorithm
from fabricd.pki.names import identity_of, name_of
from lab.pki import FirstAuthority
from lab.process import CommandError, command

Run = Callable[..., Result]

SUBNETS = ("2.2.2.0/27", "2.2.2.32/28", "10.1.2.3/32", "fd00:2::/64")
"""Two neighbours that are one range, a single address, IPv6."""


@pytest.fixture
def run(run_dir: Path) -> Run:
    """Run a command of `fabricctl pki`, in run_dir; its exit status is the test's business."""
    config = run_dir / "fabricd.toml"
    config.write_text('[node]\nname = "node"\n')

    def call(*words: str) -> Result:
        common = ["--config", str(config), "pki", "--dir", str(run_dir)]
        return CliRunner().invoke(fabricctl, [*common, *words], prog_name="fabricctl")

    return call


def done(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def refused(*argv: str | Path) -> str:
    """What a command says that must fail."""
    with pytest.raises(CommandError) as caught:
        command(*argv)
    return caught.value.output + caught.value.errors


# ---------------------------------------------------------------- ours, read by them


@pytest.mark.parametrize("algorithm", [item.value for item in Algorithm])
def test_certificates_and_lists_of_every_algorithm(algorithm: str, run: Run, run_dir: Path) -> None:
    ca, crl, edge2 = run_dir / "ca.crt", run_dir / "ca.crl", run_dir / "edge2.crt"
    subnets = [word for subnet in SUBNETS for word in ("--subnet", subnet)]
    done(run("init", "--algorithm", algorithm))
    done(run("issue", "edge2", *subnets, "--algorithm", algorithm))
    done(run("request", "edge3", "--algorithm", algorithm))
    command("openssl", "req", "-in", run_dir / "edge3.csr", "-noout", "-verify")
    done(run("sign", "edge3.csr", "--subnet", "2.2.3.0/27"))
    done(run("issue", "lost", "--subnet", "2.2.4.0/27"))
    done(run("revoke", "lost", "--reason", "keyCompromise"))

    # openssl checks the address blocks too: canonical, and inside the issuer's.
    strict = ("openssl", "verify", "-x509_strict", "-crl_check", "-CAfile", ca, "-CRLfile", crl)
    for name in ("edge2", "edge3"):
        assert "OK" in command(*strict, run_dir / f"{name}.crt")
    assert "certificate revoked" in refused(*strict, run_dir / "lost.crt")
    text = command("openssl", "x509", "-in", edge2, "-noout", "-text")
    assert re.search(r"sbgp-ipAddrBlock: critical\s+IPv4:", text)
    assert "2.2.2.0-2.2.2.47" in text
    assert "fd00:2::/64" in text
    # Older releases say `verify OK`, and all of them on stderr.
    command("openssl", "crl", "-in", crl, "-noout", "-CAfile", ca)
    command("openssl", "pkey", "-in", run_dir / "edge2.key", "-check", "-noout")

    for name in ("edge2", "edge3"):
        verified = command(
            *("pki", "--verify", "--in", run_dir / f"{name}.crt"),
            *("--cacert", ca, "--crl", crl),
        )
        assert "certificate trusted, lifetimes valid, certificate not revoked" in verified
    said = refused("pki", "--verify", "--in", run_dir / "lost.crt", "--cacert", ca, "--crl", crl)
    assert "certificate was revoked" in said
    printed = command("pki", "--print", "--in", edge2)
    assert 'subject:  "C=CN, O=StrongSwan, CN=edge2"' in printed
    assert "altNames:  edge2" in printed
    assert re.search(r"flags: +serverAuth ikeIntermediate", printed)
    assert "addresses: 2.2.2.0..2.2.2.47, 10.1.2.3/32, fd00:2::/64" in printed
    assert re.search(r"flags: +CA CRLSign self-signed", command("pki", "--print", "--in", ca))
    listed = command("pki", "--print", "--type", "crl", "--in", crl)
    assert "1 revoked certificate" in listed
    assert "key compromise" in listed
    command("pki", "--print", "--type", "priv", "--in", run_dir / "edge2.key")


def test_a_list_continued_by_strongswan_and_one_continued_here(run: Run, run_dir: Path) -> None:
    done(run("init"))
    for name, subnet in (("edge2", "2.2.2.0/27"), ("edge3", "2.2.3.0/27")):
        done(run("issue", name, "--subnet", subnet))
    done(run("revoke", "edge2"))
    theirs = command(
        *("pki", "--signcrl", "--cacert", run_dir / "ca.crt", "--cakey", run_dir / "ca.key"),
        *("--lastcrl", run_dir / "ca.crl", "--cert", run_dir / "edge3.crt"),
        *("--reason", "superseded", "--outform", "pem"),
    )
    (run_dir / "ca.crl").write_text(theirs)
    done(run("crl"))
    document = json.loads(done(run("show", "-o", "json")).stdout)
    assert [item["number"] for item in document["crls"]] == [3]
    states = {entry["name"]: entry["state"] for entry in document["certificates"]}
    assert states == {"ca": "valid", "edge2": "revoked", "edge3": "revoked"}


def test_blocks_outside_the_ca_s_are_refused_by_all(run: Run, run_dir: Path) -> None:
    done(run("init"))
    done(run("issue", "edge2", "--subnet", "3.3.3.0/27"))
    # The same key, now for one network only.
    command_line = ("pki", "--self", "--ca", "--in", run_dir / "ca.key", "--type", "ecdsa")
    narrow = command(
        *command_line,
        *("--dn", "C=CN, O=StrongSwan, CN=Root CA", "--addrblock", "2.0.0.0/8"),
        *("--outform", "pem"),
    )
    (run_dir / "ca.crt").write_text(narrow)
    result = run("verify", "edge2")
    assert result.exit_code == 1
    assert "3.3.3.0/27: is outside the CA's address blocks: 2.0.0.0/8" in result.stdout
    said = refused("openssl", "verify", "-CAfile", run_dir / "ca.crt", run_dir / "edge2.crt")
    assert "RFC 3779 resource not subset" in said


# ---------------------------------------------------------------- theirs, read by us


@pytest.mark.parametrize("blocks", [(), ("2.0.0.0/8",)], ids=["as the seed", "with blocks"])
def test_certificates_made_with_the_seed_s_commands(
    blocks: tuple[str, ...], run: Run, run_dir: Path
) -> None:
    authority = FirstAuthority(run_dir, blocks)
    authority.issue("edge2", ["2.2.2.0/27"] if blocks else [])
    checked = done(run("verify")).stdout
    assert checked == f"{run_dir}/ca.crt: good\n{run_dir}/edge2.crt: good\n"
    document = json.loads(done(run("show", "edge2", "-o", "json")).stdout)
    (entry,) = document["certificates"]
    expected: dict[str, Any] = {
        "subject": "C=CN, O=StrongSwan, CN=edge2",
        "issuer": "C=CN, O=StrongSwan, CN=Root CA",
        "blocks": ["2.2.2.0/27"] if blocks else None,
        "san": ["edge2"],
        "state": "valid",
    }
    assert {key: entry[key] for key in expected} == expected

    # The CA goes on with us: it issues, renews and revokes.
    subnets = ["--subnet", "2.2.3.0/27"] if blocks else []
    done(run("issue", "edge3", *subnets))
    old = load_pem_x509_certificate((run_dir / "edge2.crt").read_bytes())
    done(run("renew", "edge2"))
    new = load_pem_x509_certificate((run_dir / "edge2.crt").read_bytes())
    assert new.subject.public_bytes() == old.subject.public_bytes()
    assert blocks_of(new) == blocks_of(old)
    assert new.public_key() == old.public_key()
    pointers = [
        item.extensions.get_extension_for_oid(ExtensionOID.AUTHORITY_KEY_IDENTIFIER).value
        for item in (old, new)
    ]
    assert pointers[0] == pointers[1]
    done(run("revoke", "edge2"))
    done(run("verify", "edge3"))
    crl = run_dir / "ca.crl"
    for name, status in (("edge2", "certificate was revoked"), ("edge3", "not revoked")):
        words = ("pki", "--verify", "--in", run_dir / f"{name}.crt", "--cacert", authority.cert)
        said = refused(*words, "--crl", crl) if name == "edge2" else command(*words, "--crl", crl)
        assert status in said


@pytest.mark.parametrize(
    "prefixes",
    [
        ["0.0.0.0/0"],
        ["2.2.2.0/27"],
        ["10.1.2.3/32", "10.233.0.0/16", "128.0.0.0/1"],
        ["::/0"],
        ["fd00:2::/64", "fe80::1/128"],
        ["2.0.0.0/7", "5.2.2.128/25", "fd00::/9"],
    ],
    ids=" ".join,
)
def test_blocks_octet_by_octet(prefixes: list[str], run_dir: Path) -> None:
    key = run_dir / "a.key"
    key.write_text(command("pki", "--gen", "--type", "ecdsa", "--outform", "pem"))
    words = [word for prefix in prefixes for word in ("--addrblock", prefix)]
    pem = command(
        *("pki", "--self", "--in", key, "--dn", "CN=a", "--type", "ecdsa", "--outform", "pem"),
        *words,
    )
    made = load_pem_x509_certificate(pem.encode())
    theirs = made.extensions.get_extension_for_oid(ADDRESS_BLOCKS_OID)
    assert theirs.value.public_bytes().hex(" ") == encode(prefixes).hex(" ")
    found = blocks_of(made)
    assert found is not None
    assert list(found.prefixes) == prefixes


@pytest.mark.parametrize(
    "identity",
    [
        "C=CN, O=StrongSwan, CN=edge2",
        "CN = edge2 ,o=A  B",
        "O=Fabric & Co, CN=e_1",
        "C=CN, ST=Übung, E=a@b.c, CN=edge2.example.org",
        "DC=org, UID=7, EN=4, serialNumber=12, OU=a, OU=b, G=c, SN=d, T=e, L=f",
    ],
)
def test_names_octet_by_octet(identity: str, run_dir: Path) -> None:
    key = run_dir / "a.key"
    key.write_text(command("pki", "--gen", "--type", "ecdsa", "--outform", "pem"))
    words = ("pki", "--self", "--in", key, "--dn", identity, "--type", "ecdsa", "--outform", "pem")
    pem = command(*words)
    made = load_pem_x509_certificate(pem.encode())
    assert name_of(identity).public_bytes() == made.subject.public_bytes()
    printed = command("pki", "--print", stdin=pem)
    assert f'subject:  "{identity_of(made.subject)}"' in printed
