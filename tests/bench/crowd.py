"""1,000 edges for one gateway: a single charon, with a connection, an identity and a certificate
for each, and an address of each one's subnet. They initiate; no fabricd runs there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from fabricd.model import Prefix
from fabricd.pki.authority import Authority, Grant
from fabricd.pki.keys import Algorithm, PrivateKey, generate, private_pem
from lab.charon import Charon, kernel_esp
from lab.fabric import Fabric
from lab.process import wait_until
from tests.bench.bare import Vici
from tests.bench.node import ENVIRONMENT, subnet

GATEWAY = "node1"
INSIDE = "10.233.0.0/16"
SETTINGS = {
    # Half-open IKE_SAs are counted by source address, and here all come from one.
    "dos_protection": "no",
    "ikesa_table_size": "4096",
    "ikesa_table_segments": "16",
    "retransmit_timeout": "4.0",
    # Each attempt to initiate holds one until it is over.
    "threads": "32",
}
AT_ONCE = 8
"""Edges that initiate at the same time."""


class Crowd:
    def __init__(self, fabric: Fabric, size: int) -> None:
        self._namespace = fabric.namespaces["crowd"]
        self._fabric = fabric
        self.names = [f"crowd{number:04}" for number in range(size)]
        self.charon = Charon(
            self._namespace, fabric.run, name="crowd-charon", loglevel=0, settings=SETTINGS
        )

    def records(self) -> dict[str, dict[str, Any]]:
        """By key. They have no endpoint: nobody is to initiate towards them."""
        return {
            f"/fabric/nodes/{name}": {"role": "edge", "subnets": [subnet(number)]}
            for number, name in enumerate(self.names)
        }

    def start(self) -> None:
        """Addresses, charon, connections; and an answer to probes."""
        addresses = (subnet(n).replace("/28", "").rpartition(".") for n in range(len(self.names)))
        self._namespace.add_bridge("br-crowd")
        batch = self._fabric.run / "addresses.batch"
        batch.write_text(
            "".join(
                f"address add {head}.{int(last) + 1}/28 dev br-crowd\n"
                for head, _, last in addresses
            ),
            encoding="utf-8",
        )
        self._namespace.ip("-batch", str(batch))
        self.charon.start()
        if not kernel_esp():
            self._namespace.ip("route", "add", INSIDE, "dev", "ipsec0")
        key = generate(Algorithm.ECDSA256)
        vici = Vici(self.charon.socket_path)
        ca = self._fabric.authority.cert.read_text()
        vici.ask("load-authority", {"ca": {"cacert": ca}})
        vici.ask("load-key", {"type": "any", "data": private_pem(key)})
        vici.load(self._conns(key, ca))
        vici.close()
        echo = self._namespace.popen(
            *(sys.executable, "-m", "tests.bench.echo"), name="echo", env=ENVIRONMENT
        )
        wait_until(lambda: "listens" in echo.log.read_text(), "probes are answered", watch=[echo])

    def _conns(self, key: PrivateKey, ca: str) -> Iterator[Mapping[str, Any]]:
        files = self._fabric.authority
        signer = load_pem_private_key(files.key.read_bytes(), None)
        authority = Authority(load_pem_x509_certificate(files.cert.read_bytes()), signer)  # type: ignore[arg-type]
        for number, name in enumerate(self.names):
            identity = f"C=CN, O=StrongSwan, CN={name}"
            grant = Grant.of(name, identity, [Prefix(subnet(number))])
            issued = authority.issue(grant, key.public_key(), days=30, now=time.time())
            yield {
                name: {
                    "version": "2",
                    "proposals": ["aes128gcm16-prfsha256-ecp256"],
                    "remote_addrs": [self._fabric.layout.underlay[GATEWAY]],
                    "mobike": "no",
                    "keyingtries": "1",
                    "local-1": {
                        "auth": "pubkey",
                        "id": identity,
                        "certs": [issued.public_bytes(Encoding.PEM)],
                    },
                    "remote-1": {
                        "auth": "pubkey",
                        "id": f"C=CN, O=StrongSwan, CN={GATEWAY}",
                        "cacerts": [ca],
                    },
                    "children": {
                        "net": {
                            "local_ts": [subnet(number)],
                            "remote_ts": [INSIDE],
                            "esp_proposals": ["aes128gcm16-ecp256"],
                        }
                    },
                }
            }

    def come_up(self) -> float:
        """Seconds until all CHILD_SAs are INSTALLED, here and so at the gateway."""
        began = time.monotonic()
        refused = self._each(
            "initiate", lambda name: {"ike": name, "child": "net", "timeout": "60000"}
        )
        took = time.monotonic() - began
        assert not refused, f"{len(refused)} refused: {refused[:3]}"
        return took

    def go_down(self) -> None:
        """Until the gateway has none of them."""
        self._each("terminate", lambda name: {"ike": name, "timeout": "60000"})
        gateway = Vici(self._fabric.nodes[GATEWAY].charon.socket_path)

        def none_left() -> bool:
            return int(gateway.ask("stats")["ikesas"]["total"]) == 0

        try:
            wait_until(none_left, "the gateway's IKE_SAs are gone", 90, interval=0.2)
        finally:
            gateway.close()

    def _each(self, verb: str, message: Any) -> list[str]:
        """One command for each edge, several at once; who was refused, and why."""
        shares = [self.names[place::AT_ONCE] for place in range(AT_ONCE)]

        def work(share: list[str]) -> list[str]:
            vici = Vici(self.charon.socket_path)
            try:
                answers = [(name, vici.ask(verb, message(name))) for name in share]
            finally:
                vici.close()
            return [
                f"{name}: {answer.get('errmsg', b'').decode()}"
                for name, answer in answers
                if answer["success"] != b"yes"
            ]

        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            return [line for lines in pool.map(work, shares) for line in lines]
        finally:  # who is interrupted need not wait: they end with charon
            pool.shutdown(wait=False, cancel_futures=True)
