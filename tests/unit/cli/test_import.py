"""`fabricctl import`: files in, records out, checked as `node put` checks them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from lab.pki import FirstAuthority
from tests.unit.cli.conftest import Ctl
from tests.unit.core.test_migration import EDGE2, NODE1, RECORDS, conn


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """edge2's file and the gateway's."""
    found = [tmp_path / "edge2.conf", tmp_path / "node1.conf"]
    for path, text in zip(found, (EDGE2, NODE1), strict=True):
        path.write_text(text)
    return [str(path) for path in found]


def stored(folder: Path) -> dict[str, object]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("nodes/*.json")}


def test_without_more_it_prints_what_to_type(ctl: Ctl, files: list[str], tmp_path: Path) -> None:
    result = ctl("import", *files)
    assert (result.exit_code, result.stderr) == (0, "")
    typed = [shlex.split(line) for line in result.stdout.splitlines()]
    assert {words[2]: json.loads(words[3]) for words in typed} == {
        f"/fabric/nodes/{name}": record for name, record in RECORDS.items()
    }
    assert all(words[:2] == ["etcdctl", "put"] for words in typed)
    assert stored(tmp_path / "records") == {}


def test_into_a_directory(ctl: Ctl, files: list[str], tmp_path: Path) -> None:
    result = ctl("import", *files, "--output", str(tmp_path / "new"))
    assert result.exit_code == 0
    assert stored(tmp_path / "new") == RECORDS
    assert f"{tmp_path}/new/nodes/edge2.json: written\n" in result.stdout
    assert [path.name for path in tmp_path.glob("new/nodes/.*")] == []
    # and that is a directory that plan takes
    planned = ctl("plan", "--records", str(tmp_path / "new"), "--node", "edge3")
    assert "fabric-edge2" in planned.stdout


def test_into_the_store(ctl: Ctl, files: list[str], tmp_path: Path) -> None:
    assert ctl("import", *files, "--put").stdout == "".join(
        f"nodes/{name}: written\n" for name in RECORDS
    )
    assert stored(tmp_path / "records") == RECORDS
    assert ctl("import", *files, "--put").exit_code == 0, "the same again is no loss"


def test_nothing_is_replaced_unless_it_is_asked_for(
    ctl: Ctl, files: list[str], tmp_path: Path
) -> None:
    ctl("node", "put", "edge3", "--subnet", "2.2.2.32/27")
    before = stored(tmp_path / "records")

    result = ctl("import", *files, "--put")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "fabricctl: nodes/edge3 is there already, and says something else",
        "fabricctl: nothing was written; --force replaces what is there",
    ]
    folder = str(tmp_path / "records")
    assert ctl("import", *files, "--output", folder).exit_code == 1
    assert stored(tmp_path / "records") == before

    assert ctl("import", *files, "--put", "--force").exit_code == 0
    assert stored(tmp_path / "records") == RECORDS


def test_a_record_that_every_node_would_refuse_is_not_written(
    ctl: Ctl, files: list[str], tmp_path: Path
) -> None:
    ctl("node", "put", "edge9", "--subnet", "2.2.2.0/26")
    result = ctl("import", *files, "--put")
    assert result.exit_code == 1
    assert "nodes/edge2: subnets: " in result.stderr
    assert "edge9" in result.stderr
    assert "nothing was written" in result.stderr
    assert set(stored(tmp_path / "records")) == {"edge9"}


def test_records_that_contradict_one_another_are_not_written(ctl: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "ipsec.conf"
    path.write_text(conn("a", "x") + conn("b", "x", leftsubnet="2.2.0.0/16"))
    result = ctl("import", str(path), "--output", str(tmp_path / "new"))
    assert result.exit_code == 1
    assert "nodes/b: subnets: " in result.stderr
    assert not (tmp_path / "new").exists()


def test_what_is_lost_is_told(ctl: Ctl, tmp_path: Path) -> None:
    path = tmp_path / "ipsec.conf"
    path.write_text("config setup\n uniqueids=no\n" + conn("a", "b", authby="psk", ike="aes128!"))
    assert ctl("import", str(path)).stderr.splitlines() == [
        f"fabricctl: warning: {path}: config setup is not carried over: charon's settings are in "
        "strongswan.conf",
        f"fabricctl: warning: {path}: conn a-b: authenticates with a shared secret: fabricd's "
        "nodes need certificates",
        "fabricctl: warning: ike is not carried over (conn a-b)",
    ]


def test_certificates_are_looked_for(ctl: Ctl, files: list[str], tmp_path: Path) -> None:
    authority = FirstAuthority(tmp_path / "ca", size=2048)
    authority.issue("site7").cert.rename(tmp_path / "edge2Cert.pem")
    result = ctl("import", files[0], "--certs", str(tmp_path))
    assert "/fabric/nodes/site7 " in result.stdout
    assert "taken for" not in result.stderr


def test_included_files_are_beside_the_file(ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/a.conf").write_text(conn("a", "b"))
    (tmp_path / "ipsec.conf").write_text("include more/*.conf\ninclude none/*.conf\n")
    assert "/fabric/nodes/a " in ctl("import", str(tmp_path / "ipsec.conf")).stdout


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "can't be read"),
        ("conn a\nleft=1\n", ":2: neither a section nor an indented key=value: left=1"),
        ("", "no connection there becomes a tunnel"),
        (conn("a", "b").replace("leftid=CN=a", ""), "conn a-b: who is 10.20.8.1?"),
    ],
)
def test_a_file_of_no_use_is_told(ctl: Ctl, tmp_path: Path, text: str | None, fault: str) -> None:
    path = tmp_path / "ipsec.conf"
    if text is not None:
        path.write_text(text)
    result = ctl("import", str(path))
    assert result.exit_code == 1
    assert fault in result.stderr


def test_wrong_usage(ctl: Ctl, files: list[str]) -> None:
    assert ctl("import").exit_code == 2
    assert ctl("import", *files, "--put", "--output", "x").exit_code == 2
    assert ctl("import", *files, "--name", "edge2").exit_code == 2
