"""Debian systems as archives, and the wheels that fabricd is made of, both kept in .cache.

What is there is complete. Needs root and this machine's package sources.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.process import command

CHECKOUT = Path(__file__).parents[2]
CACHE = CHECKOUT / ".cache"

CA = Path("/etc/ssl/certs/ca-certificates.crt")
"""Whom this machine trusts, and so has a system that uses its package sources."""

IN_USE = "http https Check Retries"
"""What a system takes over of this machine's `Acquire` settings (apt.conf(5)): how packages
are reached."""


def archive(name: str, packages: Sequence[str]) -> Path:
    """A Debian of this machine's release, as a tar archive: its essential packages, apt, and the
    ones named; packages are reached as on this machine.
    """
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    settings = CACHE / f"{name}.apt.conf"

    def make(target: Path) -> None:
        settings.write_text(apt_settings(), encoding="utf-8")
        command(
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=essential", "--format=tar"),
            *(f"--include={','.join(['apt', 'ca-certificates', *packages])}",),
            *(f"--aptopt={settings}", f"--customize-hook=copy-in {CA} {CA.parent}"),
            *(release, target),
            timeout=600,
        )

    return _kept(name, ".tar", json.dumps([release, sorted(packages), apt_settings()]), make)


def unpack(system: Path, target: Path) -> Path:
    """Make `target` out of an archive, with owners and modes."""
    target.mkdir()
    command("tar", "-C", target, "--numeric-owner", "-xpf", system, timeout=120)
    return target


def wheels() -> Path:
    """All that constraints.txt names, for this Python: a directory for `pip --find-links`."""
    constraints = CHECKOUT / "constraints.txt"

    def make(target: Path) -> None:
        command(
            *(sys.executable, "-m", "pip", "download", "-q", "--dest", target, "--no-deps"),
            *("--require-hashes", "--no-build-isolation", "--requirement", constraints),
            timeout=600,
        )

    return _kept("wheels", "", sys.version + constraints.read_text(encoding="utf-8"), make)


def pip_conf(wheels: str) -> str:
    """A pip.conf: take packages from a directory, and from nowhere else."""
    return f"[global]\nno-index = true\nfind-links = {wheels}\n"


def copy_checkout(target: Path) -> None:
    """The files of this checkout that git knows or would add."""
    listed = command("git", "-C", CHECKOUT, "ls-files", "-z", "-co", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (CHECKOUT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, target / name)


def apt_settings() -> str:
    """Lines of apt.conf(5)."""
    lines = command("apt-config", "dump").splitlines()
    wanted = re.compile(rf"Acquire::({IN_USE.replace(' ', '|')})")
    return "".join(f"{line}\n" for line in lines if wanted.match(line))


def _kept(name: str, suffix: str, wanted: str, make: Callable[[Path], None]) -> Path:
    """NAME-DIGEST in the cache, made if need be; those before it are removed."""
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:12]
    target = CACHE / f"{name}-{digest}{suffix}"
    with _claim(CACHE / f"{name}.lock"):
        if not target.exists():
            for old in CACHE.glob(f"{name}-*"):
                _remove(old)
            unfinished = CACHE / f"{name}.new"
            _remove(unfinished)
            make(unfinished)
            unfinished.rename(target)
    return target


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _claim(path: Path) -> Iterator[None]:
    """One at a time, across processes."""
    path.parent.mkdir(exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
