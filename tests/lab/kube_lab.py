"""An API server as a process of the lab, in a node's namespace, and its operator's kubectl."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from pathlib import Path
from typing import Any

from lab.netns import Namespace
from lab.process import CommandError, Process, wait_until
from tests.lab import kube_server
from tests.lab.kube_api import Object
from tests.lab.kube_pki import KubePki

ROOT = Path(__file__).parents[2]

NODES = "/api/v1/nodes"
COMMUNITIES = "/apis/fabricd.io/v1/communities"
FABRIC_NODES = "/apis/fabricd.io/v1/fabricnodes"
EVENTS = "/api/v1/namespaces/default/events"


class KubeLab:
    """The server; it keeps its objects over a restart."""

    def __init__(self, folder: Path, namespace: Namespace, address: str, port: int = 6443) -> None:
        self.folder = folder
        self.pki = KubePki(folder)
        self.pki.server(address)
        self.url = f"https://{address}:{port}"
        self._namespace = namespace
        self._listen = f"{address}:{port}"
        self.process: Process | None = None

    def kubeconfig(self, user: str) -> Path:
        """For a user with a certificate of its own."""
        cert, key = self.pki.client(user)
        names = {"client_certificate": cert.name, "client_key": key.name}
        return self.pki.kubeconfig(self.url, f"{user}.kubeconfig", **names)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = self._namespace.popen(
            *(sys.executable, kube_server.__file__, self.folder, self._listen),
            name="kube-apiserver",
            env={"PYTHONPATH": f"{ROOT}:{ROOT / 'contrib'}"},
        )
        wait_until(lambda: self.ask("GET", NODES), "the API server answers", watch=[self.process])

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()

    def restart(self) -> None:
        self.kill()
        self.start()

    def ask(self, method: str, path: str, body: Any = None) -> Object:
        """What the operator's kubectl does; raises CommandError."""
        connection = http.client.HTTPConnection("kubernetes")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(30)
        try:
            connection.sock.connect(str(self.folder / kube_server.SOCKET))
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            value: Object = json.loads(answer.read())
        except OSError as error:
            raise CommandError((method, path), "none", "", str(error)) from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise CommandError((method, path), answer.status, "", value["message"])
        return value

    # ------------------------------------------------------------ kubectl

    def join(self, name: str, address: str, cidr: str) -> None:
        """A kubelet registers its Node."""
        node = {
            "metadata": {"name": name, "labels": {}, "annotations": {}},
            "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        }
        self.ask("POST", NODES, node)

    def label(self, name: str, **labels: str | None) -> None:
        """`fabricd_io__role` is `fabricd.io/role`."""
        self._change(name, "labels", labels)

    def annotate(self, name: str, **annotations: str | None) -> None:
        """`fabricd_io__subnets` is `fabricd.io/subnets`."""
        self._change(name, "annotations", annotations)

    def _change(self, name: str, what: str, values: dict[str, str | None]) -> None:
        changes = {k.replace("__", "/").replace("_", "."): v for k, v in values.items()}
        self.ask("PATCH", f"{NODES}/{name}", {"metadata": {what: changes}})

    def fabric_node(self, name: str) -> Object:
        """A FabricNode's status; empty when there is none."""
        try:
            status: Object = self.ask("GET", f"{FABRIC_NODES}/{name}")["status"]
        except (CommandError, KeyError):
            return {}
        return status
