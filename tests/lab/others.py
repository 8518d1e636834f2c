"""Objects of others in a node's kernel and charon: they look much like fabricd's, and are not."""

from __future__ import annotations

from typing import Any, Final

from lab.fabric import FabricNode
from lab.pki import Authority
from tests.lab.observe import ike, kernel, session

BY_IP: Final = (
    "link add br-other type bridge",
    "link set br-other up alias fabricd-not",
    "address add 192.0.2.1/24 dev br-other",
    "route add 198.51.100.0/24 dev br-other table 198 proto babel",
    "rule add priority 197 to 198.51.100.0/24 lookup 198",
    "route add blackhole 2.0.0.0/8 metric 199",
)

CONN: Final = "net-fabric-node9"
AUTHORITY: Final = "net-ca"


def make(node: FabricNode) -> None:
    """Make one of each sort on a node."""
    for words in BY_IP:
        node.namespace.ip(*words.split())
    load(node)


def load(node: FabricNode) -> None:
    """Those in charon, which loses them when it ends."""
    authority = Authority(node.charon.run_dir / f"{node.name}-other-pki")
    with session(node.charon) as asked:
        asked.load_authority({AUTHORITY: {"cacert": authority.cert.read_bytes()}})
        asked.load_conn(
            {
                CONN: {
                    "remote_addrs": ["192.0.2.9"],
                    "local": {"auth": "pubkey", "id": "other"},
                    "remote": {"auth": "pubkey", "id": "%any"},
                    "children": {"net": {"remote_ts": ["198.51.100.0/24"]}},
                }
            }
        )


def seen(node: FabricNode) -> dict[str, Any]:
    """What became of them, to be compared with ==."""
    of_kernel, of_charon = kernel(node.namespace), ike(node.charon)
    return {
        "link": of_kernel["links"]["br-other"],
        "addresses": [item for item in of_kernel["addresses"] if item[0] == "br-other"],
        "routes": [
            line for line in of_kernel["routes"] if "br-other" in line or "metric 199" in line
        ],
        "rules": [line for line in of_kernel["rules"] if line.startswith("197:")],
        "conn": of_charon["conns"][CONN],
        "authority": AUTHORITY in of_charon["authorities"],
    }
