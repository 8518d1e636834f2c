"""How to reach an API server and how to prove who we are: a kubeconfig, or in a pod the files of
its service account.

Files are read again for each connection, a token for each request: whoever renews them need
tell nobody. Of a kubeconfig is understood what a machine needs: certificates and tokens.

May not know of connections, nor what is asked.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field

from fabricd.errors import Unavailable
from fabricd.sources.kube_http import Target

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts a pod's `token` and `ca.crt`."""

DEFAULT_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Access:
    """What one connection needs to know."""

    url: str
    target: Target
    base: str
    """Begins every path: empty, or `/k8s/clusters/c-1` where one server stands for several."""
    token: Callable[[], str | None]
    """Reads the token; raises Unavailable."""


class Credentials(Protocol):
    """Says how to reach the API server, and who we are. Every method raises Unavailable."""

    def server(self) -> str:
        """The API server's URL."""
        ...

    def access(self) -> Access:
        """All that a new connection needs, read now."""
        ...


class ServiceAccount(Credentials):
    """A pod's own, as the kubelet provides it (Kubernetes: "Accessing the API from a Pod")."""

    def __init__(
        self, folder: Path = SERVICE_ACCOUNT, environ: Mapping[str, str] = os.environ
    ) -> None:
        """Raises ValueError where this is no pod."""
        host = environ.get("KUBERNETES_SERVICE_HOST", "")
        if not host:
            raise ValueError(
                "kubeconfig is not given, and this is no pod with a service account: "
                "KUBERNETES_SERVICE_HOST is not set"
            )
        port = environ.get("KUBERNETES_SERVICE_PORT_HTTPS") or "443"
        self._url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._folder = folder

    def server(self) -> str:
        """The address of the service `kubernetes`."""
        return self._url

    def access(self) -> Access:
        """Its CA and token, as they are now."""
        ca = self._folder / "ca.crt"
        tls = _tls(_bytes(ca), str(ca), insecure=False)
        return _access(self._url, tls, "", lambda: _text(self._folder / "token"), str(self._folder))


class Kubeconfig(Credentials):
    """The current context of a kubeconfig file (Kubernetes: config API, v1)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def server(self) -> str:
        """`server` of the current context's cluster."""
        return self._read()[0].server

    def access(self) -> Access:
        """Cluster and user of the current context; files are named relative to the kubeconfig."""
        cluster, user = self._read()
        for what, name in ((cluster, "proxy_url"), (user, "exec"), (user, "auth_provider")):
            if getattr(what, name):
                raise self._fault(
                    f"{name.replace('_', '-')} is not supported: use a client certificate, a token "
                    "or a tokenFile"
                )
        tls = None
        if urlsplit(cluster.server).scheme == "https":
            ca = self._data(cluster.ca_data, "certificate-authority-data")
            ca = _bytes(path) if ca is None and (path := self._file(cluster.ca)) else ca
            tls = _tls(ca, f"{self._path}: certificate-authority", insecure=cluster.insecure)
            self._prove(tls, user)
        token_file = self._file(user.token_file)
        token = (lambda: user.token or None) if token_file is None else lambda: _text(token_file)
        return _access(cluster.server, tls, cluster.tls_server_name, token, str(self._path))

    def _read(self) -> tuple[_Cluster, _User]:
        try:
            config = msgspec.yaml.decode(_bytes(self._path), type=_File)
        except msgspec.DecodeError as error:  # its text is a drawing of the place, in lines
            raise self._fault(f"is no kubeconfig: {' '.join(str(error).split())}") from error
        context = self._named(config.contexts, config.current_context, "context", "current-context")
        of_context = context.context
        cluster = self._named(config.clusters, of_context.cluster, "cluster", "the context").cluster
        if not of_context.user:
            return cluster, _User()
        return cluster, self._named(config.users, of_context.user, "user", "the context").user

    def _named(self, entries: tuple[Any, ...] | None, name: str, what: str, whose: str) -> Any:
        found = next((entry for entry in entries or () if entry.name == name), None)
        if found is None:
            raise self._fault(f"{whose} names {what} {name!r}, which is not there")
        return found

    def _prove(self, tls: ssl.SSLContext, user: _User) -> None:
        """Take the user's certificate and key into `tls`, from data or files."""
        cert = self._data(user.cert_data, "client-certificate-data")
        key = self._data(user.key_data, "client-key-data")
        cert = _bytes(path) if cert is None and (path := self._file(user.cert)) else cert
        key = _bytes(path) if key is None and (path := self._file(user.key)) else key
        if cert is None and key is None:
            return
        if cert is None or key is None:
            raise self._fault("client-certificate and client-key go together")
        try:
            with _readable(cert) as cert_file, _readable(key) as key_file:
                tls.load_cert_chain(cert_file, key_file)
        except ssl.SSLError as error:
            raise self._fault(
                f"client-certificate and client-key are no pair in PEM: {error.reason or error}"
            ) from error

    def _file(self, name: str) -> Path | None:
        return self._path.parent / name if name else None

    def _data(self, text: str, what: str) -> bytes | None:
        try:
            return base64.b64decode(text, validate=True) if text else None
        except binascii.Error as error:
            raise self._fault(f"{what} is not base64") from error

    def _fault(self, reason: str) -> Unavailable:
        return Unavailable("store", f"{self._path}: {reason}")


def credentials(kubeconfig: Path | None) -> Credentials:
    """Those of a kubeconfig, or this pod's; raises ValueError where there are none."""
    return Kubeconfig(kubeconfig) if kubeconfig is not None else ServiceAccount()


def server_url(kubeconfig: Path | None) -> tuple[str, ...]:
    """The API server's URL, if it can be told now."""
    with suppress(Unavailable, ValueError):
        return (credentials(kubeconfig).server(),)
    return ()


# ---------------------------------------------------------------- a kubeconfig's shape


class _Cluster(Struct, frozen=True):
    server: str
    ca: str = field(default="", name="certificate-authority")
    ca_data: str = field(default="", name="certificate-authority-data")
    insecure: bool = field(default=False, name="insecure-skip-tls-verify")
    tls_server_name: str = field(default="", name="tls-server-name")
    proxy_url: str = field(default="", name="proxy-url")


class _User(Struct, frozen=True):
    cert: str = field(default="", name="client-certificate")
    cert_data: str = field(default="", name="client-certificate-data")
    key: str = field(default="", name="client-key")
    key_data: str = field(default="", name="client-key-data")
    token: str = ""
    token_file: str = field(default="", name="tokenFile")
    exec: Any = None
    auth_provider: Any = field(default=None, name="auth-provider")


class _Context(Struct, frozen=True):
    cluster: str
    user: str = ""


class _NamedCluster(Struct, frozen=True):
    name: str
    cluster: _Cluster


class _NamedUser(Struct, frozen=True):
    name: str
    user: _User


class _NamedContext(Struct, frozen=True):
    name: str
    context: _Context


class _File(Struct, frozen=True):
    current_context: str = field(default="", name="current-context")
    clusters: tuple[_NamedCluster, ...] | None = None
    users: tuple[_NamedUser, ...] | None = None
    contexts: tuple[_NamedContext, ...] | None = None


# ---------------------------------------------------------------- both


def _access(
    url: str,
    tls: ssl.SSLContext | None,
    server_name: str,
    token: Callable[[], str | None],
    origin: str,
) -> Access:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
        if not host:
            raise ValueError("no host")
    except (ValueError, KeyError) as error:
        raise Unavailable("store", f"{origin}: {url!r} is no https://HOST:PORT") from error
    target = Target(host, port, tls, server_name or host)
    return Access(url.rstrip("/"), target, parts.path.rstrip("/"), token)


def _tls(ca: bytes | None, origin: str, *, insecure: bool) -> ssl.SSLContext:
    """Trusts the CA certificates in PEM, the system's without them. Raises Unavailable."""
    try:
        text = ca.decode("ascii") if ca is not None else None
        context = ssl.create_default_context(cadata=text)
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise Unavailable("store", f"{origin}: holds no CA certificate in PEM") from error
    # CA certificates of clusters are made by all kinds of programs: what RFC 5280 wants beside
    # (an authority key identifier, say), which Python 3.13 asks for, many of them lack.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def _readable(data: bytes) -> Iterator[str]:
    """A name under which OpenSSL can read what is in memory and on no disk."""
    descriptor = os.memfd_create("credentials", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unavailable("store", f"{path}: cannot be read: {error.strerror}") from error


def _text(path: Path) -> str:
    text = _bytes(path).decode("ascii", "replace").strip()
    if not text or not text.isascii() or not text.isprintable():
        raise Unavailable("store", f"{path}: holds no token")
    return text
