"""One charon a namespace: its own strongswan.conf, VICI socket and log.

Knows how to run charon, not what connections it holds: those are fabricd's.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from lab.netns import Namespace
from lab.process import CommandError, LabError, Process, command, wait_until

BINARY = "/usr/sbin/charon-systemd"

PLUGINS = (
    "random nonce openssl kdf drbg pem pkcs1 pkcs8 x509 revocation constraints pubkey "
    "{kernel} socket-default vici addrblock counters"
)
"""Without `kdf` key derivation fails; `addrblock` checks RFC 3779."""

CONF = """\
charon-systemd {{
  load = {plugins}
  install_routes = no
  install_virtual_ip = no
  retransmit_timeout = 0.7
  retransmit_base = 1.3
  retransmit_tries = 5
  make_before_break = yes
  plugins {{
    vici {{
      socket = {socket}
    }}
  }}
  filelog {{
    stderr {{
      default = {loglevel}
      time_format = %H:%M:%S
      time_add_ms = yes
      flush_line = yes
    }}
  }}
  journal {{
    default = -1
  }}
  syslog {{
    daemon {{
      default = -1
    }}
  }}
{settings}}}
"""

SOCKET_PATH_LIMIT = 107
"""sun_path without its terminating zero (unix(7))."""


class Charon:
    """A charon inside a namespace.

    `userspace_esp`: with `kernel-libipsec` before `kernel-netlink`, packets are encrypted by
    charon and pass its tun device `ipsec0`; otherwise the kernel does it. None: whatever
    this machine can do.
    """

    def __init__(
        self,
        namespace: Namespace,
        run: Path,
        *,
        name: str = "",
        userspace_esp: bool | None = None,
        loglevel: int = 1,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`settings` are more lines of the `charon-systemd` section: `{"threads": "4"}`."""
        self.namespace = namespace
        self.run_dir = run
        self.name = name or f"{namespace.name}-charon"
        self.userspace_esp = not kernel_esp() if userspace_esp is None else userspace_esp
        self.socket_path = run / f"{self.name}.vici"
        if len(os.fsencode(self.socket_path)) > SOCKET_PATH_LIMIT:
            raise LabError(f"{self.socket_path}: too long for a unix socket")
        self.socket = f"unix://{self.socket_path}"
        """As `[ike] socket` takes it."""
        self.conf = run / f"{self.name}.conf"
        kernel = "kernel-libipsec kernel-netlink" if self.userspace_esp else "kernel-netlink"
        lines = "".join(f"  {key} = {value}\n" for key, value in (settings or {}).items())
        self.conf.write_text(
            CONF.format(
                plugins=PLUGINS.format(kernel=kernel),
                socket=self.socket,
                loglevel=loglevel,
                settings=lines,
            ),
            encoding="utf-8",
        )
        self.process: Process | None = None

    def start(self) -> None:
        """Start it and wait until it answers on VICI; raises LabError with its log otherwise."""
        if self.process is not None and self.process.alive:
            raise LabError(f"{self.name} runs already")
        self.socket_path.unlink(missing_ok=True)
        env = {"STRONGSWAN_CONF": str(self.conf)}
        self.process = self.namespace.popen(BINARY, name=self.name, env=env)
        wait_until(self.answers, f"{self.name} answers on VICI", watch=[self.process])

    def answers(self) -> bool:
        """Whether something accepts connections on its VICI socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self.socket_path))
            except OSError:
                return False
        return True

    def stop(self) -> None:
        """SIGTERM: it deletes its SAs at the peers first."""
        if self.process is not None:
            self.process.stop()

    def kill(self) -> None:
        """SIGKILL: its peers hear nothing."""
        self.running.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        self.running.freeze()

    def thaw(self) -> None:
        self.running.thaw()

    @property
    def running(self) -> Process:
        if self.process is None:
            raise LabError(f"{self.name} was never started")
        return self.process

    @property
    def log(self) -> Path:
        return self.run_dir / f"{self.name}.log"

    def swanctl(self, *arguments: str) -> str:
        """swanctl on this charon: `charon.swanctl("--list-sas")`."""
        return command("swanctl", *arguments, "--uri", self.socket)


@cache
def kernel_esp() -> bool:
    """Whether the running kernel can do ESP: asks it for an SA in a scratch namespace."""
    name = f"lab-esp-{os.getpid()}"
    command("ip", "netns", "add", name)
    try:
        command(
            *("ip", "-n", name, "xfrm", "state", "add", "src", "192.0.2.1", "dst", "192.0.2.2"),
            *("proto", "esp", "spi", "0x1", "mode", "tunnel"),
            *("aead", "rfc4106(gcm(aes))", "0x" + "00" * 20, "128"),
        )
    except CommandError:
        return False
    finally:
        command("ip", "netns", "delete", name)
    return True
