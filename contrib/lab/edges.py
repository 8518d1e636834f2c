"""Two edges in one guest: edge2 is the guest itself, with systemd, as a user installs it; edge3
is a namespace beside it, with a charon and a fabricd of its own.

Each has one pod. Records are in a directory. How edge2 gets its fabricd is the test's business.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import debian
from lab.charon import CONF, PLUGINS
from lab.guest import SHARE, Guest
from lab.process import CommandError, wait_until

PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "init-system-helpers", "passwd"),
    *("make", "python3-venv", "nftables", "charon-systemd", "strongswan-swanctl"),
    *("libstrongswan-standard-plugins", "libcharon-extra-plugins"),
    *("iproute2", "iputils-ping", "kmod", "procps"),
)

RECORDS = {
    "edge2": {"endpoint": "10.20.8.4", "subnets": ["2.2.2.0/27"], "community": "app1"},
    "edge3": {"endpoint": "10.20.8.12", "subnets": ["2.2.2.32/27"], "community": "app1"},
}

CONFIG = """\
[node]
name = "{name}"
[store]
type = "dir"
path = "{records}"
state_dir = "{state}"
[ike]
socket = "unix://{vici}"
ca = ["{pki}/ca.crt"]
cert = "{pki}/{cert}.crt"
key = "{pki}/{cert}.key"
[control]
socket = "{control}"
"""

CABLES = """\
modprobe -a bridge veth xfrm_user esp4 echainiv gcm authenc
ip netns add edge3
ip link add u0 type veth peer name u0 netns edge3
ip address add 10.20.8.4/24 dev u0
ip link set u0 up
ip -n edge3 address add 10.20.8.12/24 dev u0
ip -n edge3 link set u0 up
ip -n edge3 link set lo up
"""

# What anybody can do for a pod, on a bridge that fabricd made.
POD = """\
ip netns add {pod}
ip {on} link add v-{pod} type veth peer name eth0 netns {pod}
ip {on} link set v-{pod} master br-edge up
ip -n {pod} address add {address}/27 dev eth0
ip -n {pod} link set eth0 up
ip -n {pod} route add default via {gateway}
"""

EDGE3 = """\
inside="-p NetworkNamespacePath=/run/netns/edge3 -p Type=notify --collect"
systemd-run -q --unit edge3-charon $inside -E STRONGSWAN_CONF=/srv/edge3/strongswan.conf \
    /usr/sbin/charon-systemd
systemd-run -q --unit edge3-fabricd $inside \
    /opt/fabricd/bin/fabricd --config /srv/edge3/fabricd.toml
"""


EVERYTHING = """\
find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /dev \\
    -o -path /var/lib/lab -o -path /var/lib/apt -o -path /var/lib/systemd -o -path /var/cache \\
    -o -path /var/log -o -path /var/tmp -o -path /usr/src -o -path /srv -o -path /root \\) -prune \\
    -o -not -name '*-' -not -path '/etc/.pwd.lock' -print | sort
"""
"""All files but those of the kernel, of the lab, and logs."""

OURS = """\
ip -o link | cut -d: -f2 | sort; ip rule; ip -6 rule; ip route show table all proto 198
ip -6 route show table all proto 198; nft list tables
ip xfrm state; ip xfrm policy | grep '^src .*dst' || true
swanctl --list-conns; swanctl --list-sas; swanctl --list-authorities; getent passwd; getent group
"""
"""All that is in kernel, charon and the lists of users."""


def boot(run: Path) -> Guest:
    """A guest that has booted, with this checkout in /usr/src/fabricd, and pip finding wheels."""
    root = debian.unpack(debian.archive("systemd", PACKAGES), run / "root")
    guest = Guest(root, run)
    debian.copy_checkout(guest.share / "fabricd")
    shutil.copytree(debian.wheels(), guest.share / "wheels")
    guest.boot()
    guest.run(f"mount --bind -m {SHARE}/fabricd /usr/src/fabricd")
    guest.write("/etc/pip.conf", debian.pip_conf(f"{SHARE}/wheels"))
    return guest


@dataclass(frozen=True)
class Tunnel:
    """What must not change when fabricd is restarted: the kernel's SAs, and its ways to them."""

    spis: tuple[str, ...]
    routes: tuple[str, ...]


class Edges:
    """Steps on a booted guest."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        guest.run(CABLES)

    def run(self, script: str, timeout: float = 180) -> str:
        """As `Guest.run`; a failure shows the end of the journal."""
        try:
            return self.guest.run(script, timeout)
        except CommandError as error:
            error.tails = self.guest.run("journalctl -q -o cat -n 40")
            raise

    def issue_certificates(self) -> None:
        """With the `fabricctl` that was installed, at a CA in /srv/ca."""
        self.run(
            "mkdir /srv/ca && cd /srv/ca && fabricctl pki init --dir . &&"
            "fabricctl pki issue edge2 --subnet 2.2.2.0/27 --dir . &&"
            "fabricctl pki issue edge3 --subnet 2.2.2.32/27 --dir ."
        )

    def configure_edge2(self) -> None:
        self.guest.write("/etc/fabricd/fabricd.toml", edge2_config())
        self._write_records("/etc/fabricd/records")
        self.run("install -d -o fabricd /etc/fabricd/records/status")

    def start_edge3(self) -> None:
        """With the program in /opt/fabricd."""
        vici = "/run/edge3.vici"
        config = CONFIG.format(
            name="edge3",
            records="/srv/edge3/records",
            state="/srv/edge3/state",
            vici=vici,
            pki="/srv/ca",
            cert="edge3",
            control="/run/edge3.sock",
        )
        self.guest.write("/srv/edge3/fabricd.toml", config)
        self._write_records("/srv/edge3/records")
        conf = CONF.format(
            plugins=PLUGINS.format(kernel="kernel-netlink"),
            socket=f"unix://{vici}",
            loglevel=1,
            settings="",
        )
        self.guest.write("/srv/edge3/strongswan.conf", conf)
        self.run(EDGE3, timeout=300)

    def _write_records(self, directory: str) -> None:
        for name, record in RECORDS.items():
            self.guest.write(f"{directory}/nodes/{name}.json", json.dumps(record))

    def stop_edge3(self) -> None:
        self.run("systemctl stop edge3-fabricd edge3-charon")

    def attach_pods(self) -> None:
        """edge2's by the service that was installed, edge3's by hand."""
        self.run("ip netns add pod2 && fabricctl pod attach pod2 --netns /run/netns/pod2")
        on = "-n edge3"
        self.run(POD.format(pod="pod3", on=on, address="2.2.2.34", gateway="2.2.2.33"))

    def remove_pods(self) -> None:
        self.run("ip netns delete pod2 && ip netns delete pod3")

    def wait_up(self) -> None:
        """Until edge2 calls its tunnel up."""
        wait_until(
            lambda: [peer["up"] for peer in self.status()["peers"]] == [True],
            "edge2's tunnel is up",
            timeout=300,
            interval=0.5,
        )

    def status(self) -> dict[str, Any]:
        """`fabricctl status` on edge2."""
        status: dict[str, Any] = json.loads(self.run("fabricctl status -o json"))
        return status

    def pods_talk(self) -> bool:
        """Whether edge2's pod gets an answer from edge3's."""
        try:
            self.guest.run("ip netns exec pod2 ping -n -c 3 -i 0.2 -W 2 2.2.2.34")
        except CommandError:
            return False
        return True

    def tunnel(self) -> Tunnel:
        """The SAs and routes in edge2's kernel."""
        states = self.run("ip xfrm state")
        routes = self.run("ip route show table 198").splitlines()
        return Tunnel(
            spis=tuple(sorted(re.findall(r"spi (0x\w+)", states))),
            routes=tuple(sorted(line.strip() for line in routes)),
        )

    def main_pid(self) -> int:
        """Of edge2's fabricd; 0: it does not run."""
        return int(self.run("systemctl show -P MainPID fabricd"))

    def wait_restarted(self, pid: int) -> None:
        """Until another process than `pid` is the service, and ready."""
        wait_until(
            lambda: (
                self.main_pid() not in {0, pid}
                and self.guest.status("systemctl -q is-active fabricd") == 0
            ),
            "the service is there again",
            timeout=300,
            interval=0.5,
        )


def edge2_config() -> str:
    """What an operator makes of the example, at the places that docs/install.md names."""
    return CONFIG.format(
        name="edge2",
        records="/etc/fabricd/records",
        state="/var/lib/fabricd",
        vici="/var/run/charon.vici",
        pki="/etc/fabricd/pki",
        cert="node",
        control="/run/fabricd/fabricd.sock",
    )
