"""`fabricctl pki` in a directory of the test's own."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import (
    Certificate,
    load_der_x509_csr,
    load_pem_x509_certificate,
    load_pem_x509_csr,
)

from fabricd.cli.main import fabricctl
from fabricd.model import Prefix
from fabricd.pki.authority import Authority, Grant
from fabricd.pki.blocks import blocks_of
from fabricd.pki.folder import Folder
from fabricd.pki.keys import Algorithm, generate
from fabricd.pki.names import name_of
from fabricd.pki.request import make_request
from tests.unit.cli.conftest import Ctl

Pki = Callable[..., Result]

DAY = 86_400


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "pki"


@pytest.fixture
def pki(ctl: Ctl, directory: Path) -> Pki:
    """`pki("show")`: run a command of the group with the test's directory."""

    def run(*arguments: str) -> Result:
        return ctl("pki", "--dir", str(directory), *arguments)

    return run


@pytest.fixture
def ca(pki: Pki) -> None:
    """A CA for 2.0.0.0/8."""
    assert pki("init", "--network", "2.0.0.0/8").exit_code == 0


def certificate(path: Path) -> Certificate:
    return load_pem_x509_certificate(path.read_bytes())


def key_belongs(directory: Path, name: str) -> bool:
    key = load_pem_private_key((directory / f"{name}.key").read_bytes(), None)
    return key.public_key() == certificate(directory / f"{name}.crt").public_key()


def files(directory: Path) -> dict[str, bytes]:
    """What there is, but for the archive of what was issued."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def shown(pki: Pki, *targets: str) -> list[dict[str, Any]]:
    result = pki("show", *targets, "-o", "json")
    assert result.exit_code == 0, result.output
    entries: list[dict[str, Any]] = json.loads(result.stdout)["certificates"]
    return entries


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---------------------------------------------------------------- init


def test_init(pki: Pki, directory: Path) -> None:
    result = pki("init")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.startswith(
        f"{directory}/ca.crt: C=CN, O=StrongSwan, CN=Root CA, 0.0.0.0/0, ::/0, until "
    )
    assert sorted(files(directory)) == ["ca.crt", "ca.key"]
    assert (mode(directory), mode(directory / "ca.key")) == (0o700, 0o600)
    assert (directory / "ca.key").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert key_belongs(directory, "ca")
    (entry,) = shown(pki)
    assert (entry["key"], entry["days_left"], entry["authority"]) == ("ECDSA P-256", 3649, True)


def test_init_with_everything_said(pki: Pki) -> None:
    words = ["--algorithm", "ed25519", "--identity", "O=Fabric, CN=CA 1", "--days", "10"]
    result = pki("init", *words, "--network", "2.0.0.0/8,10.233.0.0/16", "--network", "fd00::/8")
    assert result.exit_code == 0
    (entry,) = shown(pki)
    assert entry["subject"] == "O=Fabric, CN=CA 1"
    assert entry["blocks"] == ["2.0.0.0/8", "10.233.0.0/16", "fd00::/8"]
    assert (entry["key"], entry["days_left"]) == ("Ed25519", 9)


def test_nothing_is_overwritten_without_force(pki: Pki, directory: Path, ca: None) -> None:
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    before = files(directory)
    for words in (["init"], ["issue", "edge2", "--subnet", "2.2.2.0/27"], ["request", "edge2"]):
        result = pki(*words)
        assert result.exit_code == 1
        assert "is there already: --force replaces it" in result.stderr
        assert files(directory) == before
        assert pki(*words, "--force").exit_code == 0
        assert files(directory) != before
        before = files(directory)


def test_the_directory_may_stand_before_and_after_the_command(ctl: Ctl, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert ctl("pki", "--dir", str(one), "init").exit_code == 0
    assert ctl("pki", "init", "--dir", str(other)).exit_code == 0
    assert ctl("pki", "--dir", str(one), "init", "--dir", str(tmp_path / "third")).exit_code == 0
    assert [(path / "ca.crt").exists() for path in (one, other, tmp_path / "third")] == [True] * 3


# ---------------------------------------------------------------- issue


def test_issue(pki: Pki, directory: Path, ca: None) -> None:
    result = pki("issue", "edge2", "--subnet", "2.2.3.0/27,2.2.4.0/27", "--subnet", "2.2.2.0/27")
    assert result.exit_code == 0, result.output
    made = certificate(directory / "edge2.crt")
    made.verify_directly_issued_by(certificate(directory / "ca.crt"))
    assert made.subject.public_bytes() == name_of("C=CN, O=StrongSwan, CN=edge2").public_bytes()
    assert key_belongs(directory, "edge2")
    assert mode(directory / "edge2.key") == 0o600
    (entry,) = shown(pki, "edge2")
    assert entry["blocks"] == ["2.2.2.0/27", "2.2.3.0/27", "2.2.4.0/27"]
    assert (entry["san"], entry["days_left"]) == (["edge2"], 729)


def test_several_subnets_behind_one_option(pki: Pki, ca: None) -> None:
    assert pki("issue", "edge2", "--subnet", "2.2.2.0/27", "2.2.3.0/27").exit_code == 0
    assert shown(pki, "edge2")[0]["blocks"] == ["2.2.2.0/27", "2.2.3.0/27"]


def test_the_subject_is_the_config_s(ctl: Ctl, config: Path, pki: Pki, ca: None) -> None:
    text = config.read_text().replace("[ike]", '[ike]\nidentity = "O=Fabric, CN=n-{name}"')
    config.write_text(text)
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    pki("issue", "edge3", "--subnet", "2.2.3.0/27", "--identity", "CN=third")
    assert [entry["subject"] for entry in shown(pki, "edge2", "edge3")] == [
        "O=Fabric, CN=n-edge2",
        "CN=third",
    ]


def test_without_a_config_the_template_is_the_default(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = tmp_path / "nowhere.toml"
    monkeypatch.setattr("fabricd.cli.pki_options.DEFAULT_CONFIG", nowhere)

    def run(*words: str) -> Result:
        common = ["--config", str(nowhere), "pki", "--dir", str(directory)]
        return CliRunner().invoke(fabricctl, [*common, *words])

    assert run("init").exit_code == 0
    assert run("issue", "edge2", "--subnet", "2.2.2.0/27").exit_code == 0
    assert "C=CN, O=StrongSwan, CN=edge2" in run("show", "edge2").stdout
    # But one that is named has to be there.
    named = run("--config", str(tmp_path / "other.toml"), "issue", "a", "--subnet", "2.2.3.0/27")
    assert named.exit_code == 1
    assert "cannot be read" in named.stderr


def test_a_subnet_that_binds_nothing_is_warned_of(pki: Pki) -> None:
    pki("init")
    result = pki("issue", "edge2", "--subnet", "0.0.0.0/0,2001::/16")
    assert result.exit_code == 0
    assert result.stderr == (
        "fabricctl: warning: --subnet 0.0.0.0/0: is more than one node can have, and binds it to "
        "little\n"
    )


def test_an_algorithm_of_one_s_own(pki: Pki, ca: None) -> None:
    pki("issue", "edge2", "--subnet", "2.2.2.0/27", "--algorithm", "ed25519", "--days", "5")
    (entry,) = shown(pki, "edge2")
    assert (entry["key"], entry["days_left"]) == ("Ed25519", 4)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["edge2"], 1, "name the node's subnets"),
        (["edge2", "--subnet", "3.0.0.0/27"], 1, "3.0.0.0/27: is outside the CA's address blocks"),
        (["edge2", "--subnet", "2.2.2.1/27"], 2, "'2.2.2.1/27': 2.2.2.1/27 has host bits set"),
        (["edge2", "--subnet", "0.0.0.0/0"], 1, "0.0.0.0/0: is outside the CA's address blocks"),
        (["edge2", "--subnet", "2.2.2.0/27,"], 2, "'' does not appear to be"),
        (["edge2", "2.2.2.0/27"], 2, "unexpected extra argument (2.2.2.0/27)"),
        (["Edge2", "--subnet", "2.2.2.0/27"], 2, "'Edge2' is no node's name"),
        (["../ca", "--subnet", "2.2.2.0/27"], 2, "'../ca' is no node's name"),
        (["ca", "--subnet", "2.2.2.0/27"], 2, "'ca' is the name of the CA's files"),
        (["edge2", "--subnet", "2.2.2.0/27", "--identity", "CN=*"], 2, "wildcards are not taken"),
        (["edge2", "--subnet", "2.2.2.0/27", "--identity", "X=y"], 1, "charon knows no 'X'"),
        (["edge2", "--subnet", "2.2.2.0/27", "--days", "0"], 2, "0 is not in the range"),
    ],
)
def test_what_is_not_issued(
    words: list[str], status: int, said: str, pki: Pki, directory: Path, ca: None
) -> None:
    result = pki("issue", *words)
    assert result.exit_code == status
    assert said in result.stderr
    assert result.stdout == ""
    assert sorted(files(directory)) == ["ca.crt", "ca.key"]


def test_without_a_ca(pki: Pki, directory: Path, ca: None) -> None:
    (directory / "ca.key").unlink()
    assert "ca.key: is not here" in pki("issue", "edge2", "--subnet", "2.2.2.0/27").stderr
    (directory / "ca.crt").unlink()
    result = pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    assert result.exit_code == 1
    assert result.stderr == (
        f"fabricctl: {directory}/ca.crt: there is no CA here: fabricctl pki init\n"
    )


def test_the_certificate_ends_with_its_ca(pki: Pki) -> None:
    pki("init", "--days", "10")
    result = pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    assert result.exit_code == 0
    assert "warning" in result.stderr
    assert shown(pki, "edge2")[0]["not_after"] == shown(pki, "ca")[0]["not_after"]


# ---------------------------------------------------------------- records


def test_subnets_and_identity_from_the_store(ctl: Ctl, pki: Pki, ca: None) -> None:
    ctl("node", "put", "edge2", "--subnet", "2.2.2.0/27", "--identity", "O=x, CN=two")
    assert pki("issue", "edge2", "--from-store").exit_code == 0
    (entry,) = shown(pki, "edge2")
    assert (entry["subject"], entry["blocks"]) == ("O=x, CN=two", ["2.2.2.0/27"])


def test_a_record_that_is_not_there_or_not_in_force(
    config: Path, ctl: Ctl, pki: Pki, ca: None
) -> None:
    result = pki("issue", "edge2", "--from-store")
    assert result.exit_code == 1
    assert "nodes/edge2: there is no such record" in result.stderr
    path = config.parent / "records" / "nodes" / "edge2.json"
    path.parent.mkdir()
    path.write_text('{"subnets": ["2.2.2.1/27"]}')
    assert "nodes/edge2: subnets: '2.2.2.1/27'" in pki("issue", "edge2", "--from-store").stderr
    both = pki("issue", "edge2", "--from-store", "--subnet", "2.2.2.0/27")
    assert both.exit_code == 2


# ---------------------------------------------------------------- request and sign


def test_the_key_stays_on_the_node(
    ctl: Ctl, pki: Pki, directory: Path, tmp_path: Path, ca: None
) -> None:
    node = tmp_path / "node"
    asked = ctl("pki", "request", "edge2", "--dir", str(node))
    assert asked.exit_code == 0, asked.output
    assert sorted(files(node)) == ["edge2.csr", "edge2.key"]
    assert mode(node / "edge2.key") == 0o600
    signed = pki("sign", str(node / "edge2.csr"), "--subnet", "2.2.2.0/27")
    assert signed.exit_code == 0, signed.output
    assert sorted(files(directory)) == ["ca.crt", "ca.key", "edge2.crt"]
    (node / "edge2.crt").write_bytes((directory / "edge2.crt").read_bytes())
    (node / "ca.crt").write_bytes((directory / "ca.crt").read_bytes())
    assert ctl("pki", "verify", "--dir", str(node)).exit_code == 0
    assert shown(pki, "edge2")[0]["blocks"] == ["2.2.2.0/27"]


def test_sign_from_the_store(ctl: Ctl, pki: Pki, ca: None) -> None:
    ctl("node", "put", "edge2", "--subnet", "2.2.2.0/27")
    pki("request", "edge2")
    assert pki("sign", "edge2.csr", "--from-store").exit_code == 0
    assert pki("sign", "edge2", "--from-store", "--force").exit_code == 0
    assert shown(pki, "edge2")[0]["blocks"] == ["2.2.2.0/27"]
    assert pki("verify").exit_code == 0


def test_a_request_for_another_s_name(pki: Pki, directory: Path, tmp_path: Path, ca: None) -> None:
    grant = Grant.of("edge3", "C=CN, O=StrongSwan, CN=edge2")
    request = make_request(grant, generate(Algorithm.ECDSA256))
    file = tmp_path / "edge3.csr"
    file.write_bytes(request.public_bytes(Encoding.PEM))
    result = pki("sign", str(file), "--subnet", "2.2.3.0/27")
    assert result.exit_code == 1
    assert "asks for 'C=CN, O=StrongSwan, CN=edge2', but node edge3 has to be" in result.stderr
    assert sorted(files(directory)) == ["ca.crt", "ca.key"]


def test_a_request_that_was_tampered_with(pki: Pki, directory: Path, ca: None) -> None:
    pki("request", "edge2")
    path = directory / "edge2.csr"
    der = bytearray(load_pem_x509_csr(path.read_bytes()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    broken = directory / "broken.csr"
    broken.write_bytes(load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM))
    result = pki("sign", str(broken), "--subnet", "2.2.2.0/27")
    assert result.exit_code == 1
    assert result.stderr.endswith("broken.csr: is not signed with the key that is in it\n")


def test_sign_keeps_off_another_key(pki: Pki, directory: Path, ca: None) -> None:
    pki("request", "edge2")
    request = (directory / "edge2.csr").read_bytes()
    pki("request", "edge2", "--force")
    (directory / "edge2.csr").write_bytes(request)
    result = pki("sign", "edge2.csr", "--subnet", "2.2.2.0/27")
    assert result.exit_code == 1
    assert "edge2.key: belongs to another certificate" in result.stderr
    assert not (directory / "edge2.crt").exists()


def test_no_request(pki: Pki, directory: Path, ca: None) -> None:
    assert pki("sign", "edge2.csr", "--subnet", "2.2.2.0/27").exit_code == 1
    result = pki("sign", "ca.crt", "--subnet", "2.2.2.0/27")
    assert (result.exit_code, "no certificate request" in result.stderr) == (1, True)


# ---------------------------------------------------------------- renew


def test_renew_keeps_key_subject_and_blocks(pki: Pki, directory: Path, ca: None) -> None:
    pki("issue", "edge2", "--subnet", "2.2.2.0/27", "--days", "10", "--identity", "CN=two")
    before = files(directory)
    old = certificate(directory / "edge2.crt")
    assert pki("renew", "edge2").exit_code == 0
    new = certificate(directory / "edge2.crt")
    after = files(directory)
    assert {name for name in after if after[name] != before[name]} == {"edge2.crt"}
    assert new.serial_number != old.serial_number
    assert new.subject.public_bytes() == old.subject.public_bytes()
    assert blocks_of(new) == blocks_of(old)
    assert key_belongs(directory, "edge2")
    assert shown(pki, "edge2")[0]["days_left"] == 729


def test_renew_without_the_key(pki: Pki, directory: Path, ca: None) -> None:
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    old = certificate(directory / "edge2.crt")
    (directory / "edge2.key").unlink()
    assert pki("renew", "edge2").exit_code == 0
    assert certificate(directory / "edge2.crt").public_key() == old.public_key()
    assert not (directory / "edge2.key").exists()


def test_renew_with_a_new_key(pki: Pki, directory: Path, ca: None) -> None:
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    before = files(directory)
    assert pki("renew", "edge2", "--new-key").exit_code == 0
    assert files(directory)["edge2.key"] != before["edge2.key"]
    assert key_belongs(directory, "edge2")
    assert mode(directory / "edge2.key") == 0o600
    assert pki("renew", "edge2", "--algorithm", "ed25519").exit_code == 2


def test_renew_what_is_not_there_or_revoked(pki: Pki, directory: Path, ca: None) -> None:
    assert pki("renew", "edge2").exit_code == 1
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    pki("revoke", "edge2")
    result = pki("renew", "edge2")
    assert (result.exit_code, "edge2.crt: is revoked" in result.stderr) == (1, True)


def test_renew_under_another_ca(
    ctl: Ctl, pki: Pki, directory: Path, tmp_path: Path, ca: None
) -> None:
    """A change of CAs: the new one's key, the bundle of both, then node after node."""
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    pki("issue", "edge3", "--subnet", "2.2.3.0/27")
    new = tmp_path / "new"
    ctl("pki", "init", "--dir", str(new), "--identity", "CN=CA 2")
    bundle = (directory / "ca.crt").read_bytes() + (new / "ca.crt").read_bytes()
    (directory / "ca.crt").write_bytes(bundle)
    (directory / "ca.key").write_bytes((new / "ca.key").read_bytes())
    assert pki("verify").exit_code == 0
    assert pki("renew", "edge2").exit_code == 0
    assert [entry["issuer"] for entry in shown(pki, "edge2", "edge3")] == [
        "CN=CA 2",
        "C=CN, O=StrongSwan, CN=Root CA",
    ]
    assert [entry["subject"] for entry in shown(pki, "ca")] == [
        "C=CN, O=StrongSwan, CN=Root CA",
        "CN=CA 2",
    ]
    assert pki("verify").exit_code == 0
    # What the old CA issued, only the old CA revokes.
    result = pki("revoke", "edge3")
    assert result.exit_code == 1
    assert "issued by C=CN, O=StrongSwan, CN=Root CA, not by the CA whose key is here" in (
        result.stderr
    )


def test_renew_under_a_ca_for_other_networks(pki: Pki, directory: Path, ca: None) -> None:
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    before = files(directory)["edge2.crt"]
    pki("init", "--network", "3.0.0.0/8", "--force")
    result = pki("renew", "edge2")
    assert result.exit_code == 1
    assert "2.2.2.0/27: is outside the CA's address blocks: 3.0.0.0/8" in result.stderr
    assert files(directory)["edge2.crt"] == before


# ---------------------------------------------------------------- revoke


def test_revoke_means_all_that_the_node_has(pki: Pki, directory: Path, ca: None) -> None:
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    pki("issue", "edge2-1", "--subnet", "2.2.3.0/27")
    old = directory.parent / "old.crt"
    old.write_bytes((directory / "edge2.crt").read_bytes())
    pki("renew", "edge2")
    result = pki("revoke", "edge2", "--reason", "keyCompromise")
    assert result.exit_code == 0
    assert result.stdout.count(": revoked\n") == 2
    states = [entry["state"] for entry in shown(pki, "edge2", str(old), "edge2-1")]
    assert states == ["revoked", "revoked", "valid"]
    assert shown(pki, "edge2")[0]["revoked"]["reason"] == "keyCompromise"


def test_revoke_by_file_and_serial(pki: Pki, directory: Path, ca: None) -> None:
    for name, subnet in (("edge2", "2.2.2.0/27"), ("edge3", "2.2.3.0/27")):
        pki("issue", name, "--subnet", subnet)
    serial = shown(pki, "edge3")[0]["serial"]
    colons = ":".join(serial[i : i + 2] for i in range(0, len(serial), 2))
    assert pki("revoke", str(directory / "edge2.crt")).exit_code == 0
    assert pki("revoke", "--serial", colons.upper()).exit_code == 0
    assert [entry["state"] for entry in shown(pki, "edge2", "edge3")] == ["revoked"] * 2
    again = pki("revoke", "--serial", serial)
    assert (again.exit_code, "was revoked already" in again.stdout) == (0, True)
    lists = json.loads(pki("show", "-o", "json").stdout)["crls"]
    assert [item["number"] for item in lists] == [3]


def test_a_fresh_list(pki: Pki, ca: None) -> None:
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    pki("revoke", "edge2")
    assert pki("crl", "--days", "90").exit_code == 0
    (item,) = json.loads(pki("show", "-o", "json").stdout)["crls"]
    assert (item["number"], len(item["revoked"]), item["state"]) == (2, 1, "valid")


def test_lists_of_another_ca_stay(
    ctl: Ctl, pki: Pki, directory: Path, tmp_path: Path, ca: None
) -> None:
    pki("crl")
    new = tmp_path / "new"
    ctl("pki", "init", "--dir", str(new), "--identity", "CN=CA 2")
    for name in ("ca.crt", "ca.key"):
        content = (new / name).read_bytes()
        before = (directory / name).read_bytes() if name == "ca.crt" else b""
        (directory / name).write_bytes(content + before)
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    pki("revoke", "edge2")
    lists = json.loads(pki("show", "-o", "json").stdout)["crls"]
    assert [(item["issuer"], len(item["revoked"])) for item in lists] == [
        ("CN=CA 2", 1),
        ("C=CN, O=StrongSwan, CN=Root CA", 0),
    ]
    # Until the old CA is trusted no more: then nobody could check its list.
    (directory / "ca.crt").write_bytes((new / "ca.crt").read_bytes())
    pki("crl")
    lists = json.loads(pki("show", "-o", "json").stdout)["crls"]
    assert [item["issuer"] for item in lists] == ["CN=CA 2"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "say what to revoke"),
        (["--serial", "xyz"], 2, "'xyz' is no serial number"),
        (["--serial", "0"], 2, "'0' is no serial number"),
        (["--serial", "1", "--reason", "boredom"], 2, "'boredom' is not one of"),
        (["edge9"], 1, "edge9: there is no such file"),
        (["ca"], 1, "is the CA itself"),
    ],
)
def test_what_is_not_revoked(
    words: list[str], status: int, said: str, pki: Pki, directory: Path, ca: None
) -> None:
    result = pki("revoke", *words)
    assert (result.exit_code, said in result.stderr) == (status, True), result.stderr
    assert not (directory / "ca.crl").exists()


# ---------------------------------------------------------------- show


def test_show_as_a_table(pki: Pki, directory: Path, ca: None) -> None:
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    lines = pki("show").stdout.splitlines()
    assert lines[0].split("  ")[0] == "NAME"
    assert [line.split()[0] for line in lines[1:]] == ["ca", "edge2"]
    assert "  C=CN, O=StrongSwan, CN=edge2    2.2.2.0/27  " in lines[2]
    assert lines[2].endswith("  729  valid")
    assert "ISSUER" in pki("show", "-o", "wide").stdout
    assert yaml.safe_load(pki("show", "-o", "yaml").stdout)["dir"] == str(directory)
    pki("revoke", "edge2")
    assert "revoked by C=CN, O=StrongSwan, CN=Root CA (CRL 1, valid," in pki("show").stdout


def test_states(pki: Pki, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pki("init")
    pki("issue", "edge2", "--subnet", "2.2.2.0/27", "--days", "90")
    start = certificate(directory / "edge2.crt").not_valid_after_utc.timestamp() - 90 * DAY
    states = {}
    for days in (-1, 59, 61, 91):
        monkeypatch.setattr("time.time", lambda days=days: start + days * DAY)
        (entry,) = shown(pki, "edge2")
        states[days] = (entry["state"], entry["days_left"])
    assert states == {
        -1: ("not yet valid", 91),
        59: ("valid", 31),
        61: ("expiring", 29),
        91: ("expired", -1),
    }


def test_show_what_can_be_read_and_say_what_can_t(pki: Pki, directory: Path, ca: None) -> None:
    (directory / "edge2.crt").write_text("nonsense")
    result = pki("show")
    assert result.exit_code == 1
    assert "CN=Root CA" in result.stdout
    assert "edge2.crt: no certificate in PEM form" in result.stderr
    assert pki("show", "edge9").exit_code == 1


def test_show_without_a_ca_and_of_nothing(
    pki: Pki, directory: Path, tmp_path: Path, ca: None
) -> None:
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    (directory / "ca.crt").unlink()
    assert [entry["name"] for entry in shown(pki)] == ["edge2"]
    empty = CliRunner().invoke(fabricctl, ["pki", "show", "--dir", str(tmp_path / "no")])
    assert (empty.exit_code, "there are no certificates" in empty.stderr) == (1, True)


# ---------------------------------------------------------------- verify


def test_all_is_good(pki: Pki, directory: Path, ca: None) -> None:
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    pki("crl")
    result = pki("verify")
    assert result.exit_code == 0
    names = ("ca.crt", "edge2.crt", "ca.crl")
    assert result.stdout == "".join(f"{directory}/{name}: good\n" for name in names)


def test_every_fault_is_told(pki: Pki, directory: Path, ca: None) -> None:
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    pki("issue", "edge3", "--subnet", "2.2.3.0/27")
    pki("issue", "edge4", "--subnet", "2.2.4.0/27")
    pki("revoke", "edge2")
    (directory / "edge2.key").chmod(0o644)
    (directory / "edge3.key").write_bytes((directory / "edge4.key").read_bytes())
    (directory / "ca.key").chmod(0o640)
    result = pki("verify", "-o", "json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    found = {Path(item["file"]).name: item["faults"] for item in document["checked"]}
    assert not document["ok"]
    assert found["edge2.crt"][0].startswith("revoked ")
    assert found["edge2.crt"][1].endswith(f"chmod 600 {directory}/edge2.key")
    assert found["edge3.crt"] == [f"{directory}/edge3.key: does not belong to the certificate"]
    assert found["edge4.crt"] == []
    assert found["ca.crt"] == [
        f"{directory}/ca.key: others may read the private key: chmod 600 {directory}/ca.key"
    ]
    assert pki("verify", "edge4").exit_code == 0
    assert pki("verify", str(directory / "edge3.crt")).exit_code == 1


def test_blocks_and_chain(pki: Pki, directory: Path) -> None:
    """Certificates that a CA with other ideas made, under a CA for 2.0.0.0/8."""
    folder = Folder(directory)
    pki("init")
    pki("issue", "edge2", "--subnet", "3.0.0.0/27")
    wide = folder.authority()
    name, key = wide.certificate.subject, wide.key
    narrow = Authority.create(name, key, [Prefix("2.0.0.0/8")], days=10, now=time.time())
    folder.write_authority(narrow, replace=True)
    result = pki("verify", "edge2")
    assert (result.exit_code, result.stdout) == (
        1,
        f"{directory}/edge2.crt: 3.0.0.0/27: is outside the CA's address blocks: 2.0.0.0/8\n",
    )
    pki("init", "--force")
    assert "which is none of the CAs" in pki("verify", "edge2").stdout


# ---------------------------------------------------------------- export


def test_export_for_swanctl(pki: Pki, tmp_path: Path, directory: Path, ca: None) -> None:
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    pki("crl")
    result = pki("export", "--layout", "swanctl", "--to", str(tmp_path / "swanctl"))
    assert result.exit_code == 0, result.output
    copies = {
        "x509ca/ca.crt": "ca.crt",
        "x509crl/ca.crl": "ca.crl",
        "x509/edge2.crt": "edge2.crt",
        "private/edge2.key": "edge2.key",
    }
    made = [path for path in (tmp_path / "swanctl").rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path / "swanctl")) for path in made} == set(copies)
    for copy, original in copies.items():
        assert (tmp_path / "swanctl" / copy).read_bytes() == (directory / original).read_bytes()
    assert mode(tmp_path / "swanctl" / "private") == 0o700
    assert mode(tmp_path / "swanctl" / "private/edge2.key") == 0o600


def test_export_for_the_seed_s_ipsec_conf(
    pki: Pki, tmp_path: Path, directory: Path, ca: None
) -> None:
    pki("issue", "edge2", "--subnet", "2.2.2.0/27")
    pki("issue", "edge3", "--subnet", "2.2.3.0/27")
    (directory / "ca.crt").write_bytes((directory / "ca.crt").read_bytes() * 2)
    target = tmp_path / "ipsec.d"
    words = ["export", "edge2", "--layout", "ipsec.d", "--to", str(target)]
    assert pki(*words).exit_code == 0
    made = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert made == [
        "cacerts/ca-2Cert.pem",
        "cacerts/caCert.pem",
        "certs/edge2Cert.pem",
        "private/edge2Key.pem",
    ]
    # Again is no change; a renewed certificate would replace one, and is asked about.
    assert pki(*words).exit_code == 0
    pki("renew", "edge2")
    assert pki(*words).exit_code == 1
    assert pki(*words, "--force").exit_code == 0
    assert pki("export", "edge9", "--layout", "ipsec.d", "--to", str(target)).exit_code == 1
