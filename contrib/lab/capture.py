"""What crosses a link: tcpdump's account of encrypted and of clear packets."""

from __future__ import annotations

from lab.netns import Namespace
from lab.process import wait_until


class Capture:
    """Packets on a link since `start`: those that carry ESP, and those of some networks in clear,
    by themselves or in IPIP.

    Userspace ESP and NAT traversal put ESP into UDP port 4500 (RFC 3948).
    """

    def __init__(self, namespace: Namespace, link: str, networks: tuple[str, ...]) -> None:
        self.namespace = namespace
        self.link = link
        clear = " or ".join(f"ip net {network}" for network in networks)
        self.filter = f"esp or udp port 4500 or ip proto 4 or {clear}"

    def start(self) -> None:
        """Returns when packets are seen."""
        name = f"{self.link}-tcpdump"
        log = self.namespace.run_dir / f"{name}.log"
        # Logs are appended to: what an earlier capture on this link wrote does not count.
        self._earlier = log.stat().st_size if log.exists() else 0
        self._process = self.namespace.popen(
            *("tcpdump", "-l", "-nn", "-i", self.link, self.filter),
            name=name,
        )
        wait_until(
            lambda: "listening on" in self._text(),
            f"tcpdump listens on {self.link}",
            watch=[self._process],
        )

    def stop(self) -> None:
        self._process.stop()

    def encrypted(self, size: int = 0) -> list[str]:
        """Packets of ESP, of `size` bytes or more: what tunnels are probed with is small."""
        packets = [line for line in self._packets() if "ESP(" in line]
        return [line for line in packets if int(line.rpartition("length ")[2].split()[0]) >= size]

    def clear(self) -> list[str]:
        """Packets of the networks in clear, as tcpdump prints them."""
        return [line for line in self._packets() if ".4500" not in line and "ESP(" not in line]

    def _packets(self) -> list[str]:
        return [line for line in self._text().splitlines() if " IP " in line]

    def _text(self) -> str:
        text = self._process.log.read_bytes()[self._earlier :]
        return text.decode(errors="replace")
