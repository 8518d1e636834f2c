"""A kernel of its own for one command: User Mode Linux on this machine's files.

For what this machine's kernel lacks, such as ESP. The guest sees the host's root file system
read-only, has its own /run and /tmp, no network to the outside, and one CPU; it may write to
one directory of the host. It knows nothing of what it runs.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.process import Argument, LabError, command, spawn, tail

BINARY = "linux.uml"

MODULES = "xfrm_user esp4 esp6 bridge veth tun echainiv gcm authenc nf_tables"
"""Loaded before the command; others load by themselves."""

SHIM = Path(__file__).with_name("uml_xstate.c")
"""Says itself what it is for."""

INIT = """\
#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 TMPDIR=/run TERM=dumb {environment}
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /run
mkdir -p /dev/net /run/host
# The option got its name in 6.10.
shared={shared}
mount -t hostfs -o hostfs="$shared" host /run/host ||
    mount -t hostfs -o "$shared" host /run/host || exit
mkdir -p /run/uml/lib
ln -s /usr/lib/uml/modules /run/uml/lib/modules
printf '#!/bin/sh\nexec modprobe -d /run/uml "$@"\n' >/run/uml/modprobe
chmod 755 /run/uml/modprobe
echo /run/uml/modprobe >/proc/sys/kernel/modprobe
modprobe -d /run/uml -a {modules}
ip link set lo up
cd {directory}
{command} >/run/host/output 2>&1
echo $? >/run/host/status
sync
echo o >/proc/sysrq-trigger
sleep 60
"""


@dataclass(frozen=True)
class Result:
    """What a command came to inside."""

    status: int
    output: str
    """stdout and stderr."""


def installed() -> bool:
    return shutil.which(BINARY) is not None


def run(
    argv: Sequence[Argument],
    share: Path,
    *,
    directory: Path,
    env: Mapping[str, str] | None = None,
    memory: str = "2G",
    timeout: float = 1800,
) -> Result:
    """Boot, run a command as root in `directory`, power off.

    `share` is a directory of the host, not below /run, that the guest may write to, as
    /run/host; the guest's console is in `share/uml.log`. Raises LabError when the guest does not
    come to the command's end.
    """
    init = share / "init.sh"
    init.write_text(
        INIT.format(
            environment=shlex.join(f"{name}={value}" for name, value in (env or {}).items()),
            shared=shlex.quote(str(share)),
            modules=MODULES,
            directory=shlex.quote(str(directory)),
            command=shlex.join(map(str, argv)),
        ),
        encoding="utf-8",
    )
    init.chmod(0o755)
    shim = share / "uml_xstate.so"
    command("gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", shim, SHIM, "-ldl")
    kernel = spawn(
        *(BINARY, f"mem={memory}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
        *(f"init={init}", f"uml_dir={share}/", "umid=guest", "con=null", "con0=fd:0,fd:1"),
        run=share,
        name="uml",
        env={"LD_PRELOAD": str(shim)},
    )
    try:
        kernel.wait(timeout)
    finally:
        kernel.kill()
    status = share / "status"
    if not status.exists():
        output = tail(share / "output", 40)
        raise LabError(
            f"User Mode Linux: the command did not end\n{tail(kernel.log, 40)}\n{output}"
        )
    return Result(int(status.read_text()), (share / "output").read_text(errors="replace"))
