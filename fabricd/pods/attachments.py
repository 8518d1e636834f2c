"""Attached pods on disk, a file each: they outlive the daemon, and the machine's reboot.

A pod is written down before anything is made for it, and struck out after everything is gone.
"""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path
from typing import Final

import msgspec

from fabricd import atomic
from fabricd.core.pods import Attachment
from fabricd.core.unreadable import UNREADABLE

FOLDER: Final = "pods"


class Entry(msgspec.Struct, frozen=True):
    """One attached pod."""

    name: str
    netns: str
    """Path of its network namespace."""
    ifname: str
    addresses: tuple[str, ...]
    """With prefix lengths, at most one a family."""
    holder: str
    """Who its addresses are leased to: a container's ID, or the pod's name."""
    boot: str
    """Identifies the boot of the machine in which it was attached."""
    network: str = ""
    """Of CNI; empty: attached by hand."""
    leaving: bool = False
    """It is being detached."""

    @property
    def attachment(self) -> Attachment:
        """What the desired state takes from it."""
        return Attachment(self.name, self.netns, self.ifname, self.addresses)


class Attachments:
    """The entries of one node. Every method blocks for as long as a disk takes."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = state_dir / FOLDER

    def load(self) -> tuple[dict[str, Entry], list[str]]:
        """All entries by name; and one line for each file that can't be read."""
        return _load(self.folder)

    def save(self, entry: Entry) -> None:
        """Write an entry; raises OSError."""
        atomic.write(self._path(entry.name), msgspec.json.encode(entry))

    def remove(self, name: str) -> None:
        """Strike an entry out; raises OSError."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def written_down(folder: Path) -> frozenset[str] | None:
    """The addresses of the pods that some daemon has entries of in this folder; None: not all of
    them can be read. Blocks.
    """
    entries, faults = _load(folder)
    if faults:
        return None
    return frozenset(
        text.partition("/")[0] for entry in entries.values() for text in entry.addresses
    )


def _checked(entry: Entry, path: Path) -> Entry:
    """Raises ValueError: whatever is made of it relies on this."""
    if entry.name != path.stem:
        raise ValueError(f"it is named {entry.name!r}")
    families = [ip_interface(text).version for text in entry.addresses]
    if not families or len(families) > len(set(families)):
        raise ValueError(f"addresses are one a family, not {list(entry.addresses)}")
    return entry


def _load(folder: Path) -> tuple[dict[str, Entry], list[str]]:
    entries: dict[str, Entry] = {}
    faults: list[str] = []
    try:
        paths = sorted(folder.glob("*.json"))
    except OSError as error:
        return {}, [f"{folder}: {error.strerror}"]
    for path in paths:
        try:
            entry = _checked(msgspec.json.decode(path.read_bytes(), type=Entry), path)
        except FileNotFoundError:
            continue
        except (*UNREADABLE, OSError, ValueError) as error:
            faults.append(f"{path}: {error}: remove it, and attach that pod again")
            continue
        entries[entry.name] = entry
    return entries, faults
