"""A whole machine for one who types: a network namespace with files and processes of its own.

/etc, /root, /var/lib, /var/log, /run and /usr/local/share are the machine's; programs are this
checkout's. There is no systemd: `systemctl` is a stand-in that starts what the lab can start.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from lab.charon import BINARY, CONF, PLUGINS, kernel_esp
from lab.debian import CHECKOUT
from lab.netns import Namespace
from lab.process import Process, command, wait_until

OWN = ("etc", "root", "var/lib", "var/log", "usr/local/share", "run")
"""Bound over the directories of these names; /run last, where their sources are."""

USER = {
    "passwd": "fabricd:x:987:987::/:/usr/sbin/nologin\n",
    "group": "fabricd:x:987:\n",
}
"""What systemd-sysusers makes of systemd/fabricd.sysusers."""

SYSTEMCTL = f"""\
#!/bin/bash
# Starts a service in the background and waits for what it makes when it is ready.
begin() {{ # log, what it makes, command
    rm -f "$2"
    setsid "${{@:3}}" >>"/var/log/$1.log" 2>&1 &
    for ((i = 0; i < 400; i++)); do
        [ ! -S "$2" ] || return 0
        kill -0 $! || break
        sleep 0.05
    done
    tail "/var/log/$1.log"
    exit 1
}}
case "$*" in
    "stop etcd") ;;
    "restart strongswan") begin charon /run/charon.vici {BINARY} ;;
    "enable --now fabricd")
        mkdir -p /run/fabricd
        begin fabricd /run/fabricd/fabricd.sock fabricd --config /etc/fabricd/fabricd.toml ;;
    *) echo "systemctl $*: the lab can't do that" >&2; exit 1 ;;
esac
"""


class Machine:
    """`files` is where it keeps its own; what it runs ends with `Process.stop` of `holder`, or when
    the run directory is removed.
    """

    def __init__(self, namespace: Namespace, run: Path, name: str) -> None:
        """Make it: as after `make install`, and nothing configured."""
        self.name = name
        self.namespace = namespace
        self.files = run / f"{name}.machine"
        self._make_files()
        # The checkout may be in a directory that is bound over.
        kept = self.files / "checkout"
        binds = [
            f"mount --bind {CHECKOUT} {kept}",
            *(f"mount --bind {self.files}/{path} /{path}" for path in OWN),
        ]
        binds[-1:-1] = [f"mkdir -p {CHECKOUT}", f"mount --bind {kept} {CHECKOUT}"]
        self.holder: Process = namespace.popen(
            *("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"),
            *(
                "bash",
                "-ec",
                "\n".join(
                    (
                        "trap exit TERM",
                        *binds,
                        "touch /run/up",
                        "while sleep 3600 & wait; do :; done",
                    )
                ),
            ),
            name=f"{name}-machine",
        )
        up = self.files / "run/up"
        wait_until(up.exists, f"{name} is up", watch=[self.holder])
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children")
        self._init = children.read_text(encoding="ascii").split()[0]

    def _make_files(self) -> None:
        for path in (*OWN, "checkout"):
            (self.files / path).mkdir(parents=True)
        etc = self.files / "etc"
        shutil.copytree("/etc", etc, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(etc / "fabricd", ignore_errors=True)
        for file, line in USER.items():
            with (etc / file).open("a", encoding="utf-8") as appended:
                appended.write(line)
        (etc / "fabricd/pki").mkdir(parents=True)
        (etc / "hostname").write_text(f"{self.name}\n", encoding="ascii")
        kernel = "kernel-netlink" if kernel_esp() else "kernel-libipsec kernel-netlink"
        charon = CONF.format(
            plugins=PLUGINS.format(kernel=kernel),
            socket="unix:///run/charon.vici",
            loglevel=1,
            settings="",
        )
        (etc / "strongswan.conf").write_text(charon, encoding="utf-8")
        examples = self.files / "usr/local/share/doc/fabricd/examples"
        examples.mkdir(parents=True)
        shutil.copy(CHECKOUT / "contrib/fabricd.toml", examples)
        systemctl = self.files / "root/bin/systemctl"
        systemctl.parent.mkdir()
        systemctl.write_text(SYSTEMCTL, encoding="utf-8")
        systemctl.chmod(0o755)

    def file(self, path: str) -> Path:
        """Where a file of the machine's is to be found from outside: `/etc/fabricd/pki/ca.crt`."""
        return self.files / path.removeprefix("/")

    def run(self, line: str, env: Mapping[str, str] | None = None, timeout: float = 60) -> str:
        """What root types there, in /root; returns what it prints. Raises CommandError."""
        programs = Path(sys.executable).parent
        return command(
            *("nsenter", "--target", self._init, "--mount", "--pid", "--net", "--wd=/root"),
            *("bash", "-c", f"PATH=/root/bin:{programs}:$PATH; cd; {line}"),
            timeout=timeout,
            env={"HOME": "/root", **(env or {})},
        )

    def logs(self) -> str:
        """The ends of the logs of what it runs."""
        found = sorted((self.files / "var/log").glob("*.log"))
        return "\n".join(
            path.read_text(encoding="utf-8", errors="replace")[-2000:] for path in found
        )
