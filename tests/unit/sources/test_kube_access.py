"""How to reach an API server: kubeconfig files and service accounts, right and wrong."""

from __future__ import annotations

import base64
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabricd.errors import Unavailable
from fabricd.sources.kube_access import Kubeconfig, ServiceAccount, server_url
from tests.lab.kube_pki import KubePki


@pytest.fixture
def pki(tmp_path: Path) -> KubePki:
    return KubePki(tmp_path)


def edited(path: Path, change: dict[str, Any]) -> Path:
    """A kubeconfig with other values at dotted places: `cluster.server`."""
    config = yaml.safe_load(path.read_text())
    places = {
        "cluster": config["clusters"][0]["cluster"],
        "user": config["users"][0]["user"],
        "context": config["contexts"][0]["context"],
        "": config,
    }
    for place, value in change.items():
        where, _, name = place.rpartition(".")
        places[where][name] = value
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_token_and_a_ca_in_the_file(pki: KubePki) -> None:
    access = Kubeconfig(pki.kubeconfig("https://10.20.8.141:6443", token="t")).access()
    assert (access.target.host, access.target.port) == ("10.20.8.141", 6443)
    assert access.target.server_name == "10.20.8.141"
    assert access.token() == "t"
    assert access.base == ""
    assert access.target.tls is not None
    assert access.target.tls.verify_mode is ssl.CERT_REQUIRED
    assert access.target.tls.check_hostname


@pytest.mark.parametrize(
    ("url", "host", "port", "base"),
    [
        ("https://api.example", "api.example", 443, ""),
        ("https://[fd00::1]:6443/", "fd00::1", 6443, ""),
        ("https://rancher.example/k8s/clusters/c-1", "rancher.example", 443, "/k8s/clusters/c-1"),
        ("http://127.0.0.1:10550", "127.0.0.1", 10550, ""),
    ],
)
def test_where_a_server_is(pki: KubePki, url: str, host: str, port: int, base: str) -> None:
    path = pki.kubeconfig(url, token="t")
    access = Kubeconfig(path).access()
    assert (access.target.host, access.target.port, access.base) == (host, port, base)
    assert (access.target.tls is None) == url.startswith("http:")
    assert server_url(path) == (url,)


def test_files_are_found_beside_the_kubeconfig(pki: KubePki) -> None:
    pki.client("edge2")
    (pki.folder / "token").write_text("from-a-file\n")
    path = edited(
        pki.kubeconfig("https://a:1", token_file="token", client_certificate="edge2.crt"),
        {
            "cluster.certificate-authority-data": "",
            "cluster.certificate-authority": "ca.crt",
            "user.client-key": "edge2.key",
        },
    )
    assert Kubeconfig(path).access().token() == "from-a-file"


def test_a_certificate_in_the_file_is_written_nowhere(pki: KubePki) -> None:
    cert, key = (base64.b64encode(file.read_bytes()).decode() for file in pki.client("edge2"))
    for file in pki.folder.glob("edge2.*"):
        file.unlink()
    path = pki.kubeconfig("https://a:1", client_certificate_data=cert, client_key_data=key)
    before = sorted(pki.folder.iterdir())
    access = Kubeconfig(path).access()
    assert access.token() is None
    assert sorted(pki.folder.iterdir()) == before


def test_a_server_that_is_named_otherwise_and_one_that_is_not_checked(pki: KubePki) -> None:
    path = edited(pki.kubeconfig("https://10.0.0.1:6443"), {"cluster.tls-server-name": "api"})
    assert Kubeconfig(path).access().target.server_name == "api"
    path = edited(path, {"cluster.insecure-skip-tls-verify": True})
    tls = Kubeconfig(path).access().target.tls
    assert tls is not None
    assert tls.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"current-context": "other"}, "current-context names context 'other', which is not there"),
        ({"context.cluster": "other"}, "the context names cluster 'other', which is not there"),
        ({"context.user": "other"}, "the context names user 'other', which is not there"),
        ({"clusters": None}, "the context names cluster 'test', which is not there"),
        ({"cluster.server": "10.0.0.1:6443"}, "'10.0.0.1:6443' is no https://HOST:PORT"),
        ({"cluster.server": "https://a:99999"}, "is no https://HOST:PORT"),
        ({"cluster.server": 6443}, "is no kubeconfig: Expected `str`, got `int` - at"),
        ({"cluster.proxy-url": "http://proxy"}, "proxy-url is not supported"),
        ({"user.exec": {"command": "aws"}}, "exec is not supported: use a client certificate"),
        ({"user.auth-provider": {"name": "gcp"}}, "auth-provider is not supported"),
        ({"cluster.certificate-authority-data": "%"}, "certificate-authority-data is not base64"),
        ({"cluster.certificate-authority-data": "YQ=="}, "holds no CA certificate in PEM"),
        ({"user.client-certificate-data": "YQ=="}, "client-certificate and client-key go together"),
        (
            {"user.client-certificate-data": "YQ==", "user.client-key-data": "YQ=="},
            "client-certificate and client-key are no pair in PEM",
        ),
        ({"user.client-key": "none.key"}, "none.key: cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_kubeconfig_is_said_in_one_line(
    pki: KubePki, change: dict[str, Any], says: str
) -> None:
    path = edited(pki.kubeconfig("https://a:1", token="t"), change)
    with pytest.raises(Unavailable) as wrong:
        Kubeconfig(path).access()
    assert says in wrong.value.reason
    assert str(pki.folder) in wrong.value.reason
    assert "\n" not in wrong.value.reason


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "\0"])
def test_a_file_that_is_no_kubeconfig(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(Unavailable, match="is no kubeconfig") as wrong:
        Kubeconfig(path).server()
    assert "\n" not in wrong.value.reason
    assert server_url(path) == ()


def test_a_kubeconfig_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"kubeconfig: cannot be read: No such file"):
        Kubeconfig(tmp_path / "kubeconfig").access()


@pytest.mark.parametrize("content", ["", "\n", "two\nlines", "\x7f"])
def test_a_token_file_that_holds_none(pki: KubePki, content: str) -> None:
    (pki.folder / "token").write_text(content)
    access = Kubeconfig(pki.kubeconfig("https://a:1", token_file="token")).access()
    with pytest.raises(Unavailable, match="token: holds no token"):
        access.token()


def test_a_pods_service_account(pki: KubePki) -> None:
    token = pki.folder / "token"
    token.write_text("first")
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT_HTTPS": "6443"}
    account = ServiceAccount(pki.folder, environ)
    assert account.server() == "https://[fd00::1]:6443"
    access = account.access()
    assert (access.target.host, access.target.port) == ("fd00::1", 6443)
    assert access.token() == "first"
    token.write_text("second")
    assert access.token() == "second"


def test_no_kubeconfig_and_no_pod() -> None:
    with pytest.raises(ValueError, match="kubeconfig is not given, and this is no pod"):
        ServiceAccount(environ={})


def test_it_is_loaded_for_who_has_it_as_store_and_nobody_else() -> None:
    program = """
import sys
from pathlib import Path
from fabricd.config import parse
from fabricd.daemon.store import open_store
open_store(parse({"store": {"type": "dir", "path": "/records"}}, Path("fabricd.toml")))
assert not [name for name in sys.modules if "kube" in name or name == "yaml"]
"""
    subprocess.run([sys.executable, "-c", program], check=True)
