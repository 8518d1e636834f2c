"""A Debian that has booted: systemd as PID 1 in User Mode Linux, and commands run in it.

The guest has one CPU, a kernel with ESP, and no network but what is made inside. Knows nothing
of what is run.
"""

from __future__ import annotations

import os
import select
import tty
from pathlib import Path

from lab import uml
from lab.process import CommandError, LabError, Process, command, spawn, tail

SHARE = "/var/lib/lab"
"""Where the guest sees the directory that it shares with the host."""

# Begins on the host's files, as `lab.uml` does. The guest's root is an overlay whose upper layer is
# in memory: hostfs by itself would give to root what a service makes, and the next guest is to
# find the lower layer as it was.
INIT = """\
#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/upper /mnt/work /mnt/root /mnt/uml/lib
ln -s /usr/lib/uml/modules /mnt/uml/lib/modules
modprobe -d /mnt/uml overlay
mount -t overlay -o lowerdir={root},upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
cd /mnt/root
mkdir -p lib/modules .{share}
mount --bind /usr/lib/uml/modules lib/modules
# The option got its name in 6.10.
mount -t hostfs -o hostfs={host_share} host .{share} ||
    mount -t hostfs -o {host_share} host .{share}
cp .{share}/lab-agent.service etc/systemd/system
ln -s ../lab-agent.service etc/systemd/system/multi-user.target.wants
pivot_root . mnt
exec chroot . /lib/systemd/systemd
"""

UNIT = """\
[Unit]
Description=Runs what the lab asks for

[Service]
ExecStart=/bin/bash {share}/agent
Restart=always
"""

# The serial line says only when: a line with a number for a command, and back when it is done.
# `sync`: files reach the host when the guest's page cache is written.
AGENT = """\
exec </dev/ttyS0 >/dev/ttyS0
stty raw -echo
cd /root
export HOME=/root LANG=C.UTF-8
echo ready
while read -r number; do
    bash -e {share}/$number.sh >{share}/$number.out 2>{share}/$number.err </dev/null
    echo $? >{share}/$number.status
    sync
    echo $number
done
"""


class Guest:
    """One boot of `root`, a directory with a Debian in it, which stays as it is."""

    def __init__(self, root: Path, run: Path, *, memory: str = "2G") -> None:
        """`run` is where the host's side keeps its files; not below /run of either side."""
        self.share = run / "share"
        """The guest sees it, and what is in it, as SHARE."""
        self.share.mkdir()
        self._root = root
        self._run = run
        self._memory = memory
        self._numbers = 0
        self._line = -1
        self._kernel: Process | None = None

    def boot(self, timeout: float = 300) -> None:
        """Returns when commands can be run; raises LabError with the console otherwise."""
        init = self.share / "init"
        init.write_text(
            INIT.format(root=self._root, share=SHARE, host_share=self.share), encoding="utf-8"
        )
        init.chmod(0o755)
        (self.share / "lab-agent.service").write_text(UNIT.format(share=SHARE), encoding="utf-8")
        (self.share / "agent").write_text(AGENT.format(share=SHARE), encoding="utf-8")
        shim = self._run / "uml_xstate.so"
        command("gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", shim, uml.SHIM, "-ldl")
        self._line, guests_end = os.openpty()
        tty.setraw(guests_end)
        try:
            self._kernel = spawn(
                *(uml.BINARY, f"mem={self._memory}", "root=/dev/root", "rootfstype=hostfs"),
                *("rootflags=/", "ro", f"init={init}"),
                *("con=null", "con0=fd:0,fd:1", f"ssl0=tty:{os.ttyname(guests_end)}"),
                *(f"uml_dir={self._run}/", "umid=guest"),
                run=self._run,
                name="guest",
                env={"LD_PRELOAD": str(shim)},
            )
            self._hear("ready", timeout)
        finally:
            os.close(guests_end)
        self.run("umount -R -l /mnt")  # the host's files are no longer needed

    def run(self, script: str, timeout: float = 180) -> str:
        """Run a shell script (`bash -e`) as root and return its stdout; raises CommandError with
        its stderr.
        """
        self._numbers += 1
        mailbox = self.share / str(self._numbers)
        mailbox.with_suffix(".sh").write_text(f"{script}\n", encoding="utf-8")
        os.write(self._line, b"%d\n" % self._numbers)
        self._hear(str(self._numbers), timeout)
        said, errors, status = (
            mailbox.with_suffix(suffix).read_text(encoding="utf-8", errors="replace")
            for suffix in (".out", ".err", ".status")
        )
        if int(status):
            raise CommandError((script,), int(status), said, errors)
        return said

    def status(self, script: str, timeout: float = 180) -> int:
        """Run a shell script as root for its exit status."""
        try:
            self.run(script, timeout)
        except CommandError as error:
            return int(error.status)
        return 0

    def write(self, path: str, text: str) -> None:
        """Write a file, with the directories that it needs."""
        (self.share / "file").write_text(text, encoding="utf-8")
        self.run(f"mkdir -p {Path(path).parent} && cat {SHARE}/file >{path}")

    def halt(self) -> None:
        """Take the power away: nothing that it holds is needed any more."""
        if self._kernel is not None:
            self._kernel.kill()
        if self._line >= 0:
            os.close(self._line)
            self._line = -1

    def _hear(self, word: str, timeout: float) -> None:
        """Read lines until one is `word`."""
        heard = b""
        while word.encode() not in heard.split(b"\n")[:-1]:
            ready, _, _ = select.select([self._line], [], [], timeout)
            if not ready or not self._alive:
                raise LabError(
                    f"the guest does not say {word!r}", tail(self._run / "guest.log", 40)
                )
            heard += os.read(self._line, 4096)

    @property
    def _alive(self) -> bool:
        return self._kernel is not None and self._kernel.alive
