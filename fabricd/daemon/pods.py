"""Pods come and go: asked for at the control socket, made by the reconcile loop.

To attach is to write down what is wanted, and to wait until a pass has made it so; to detach, the
same the other way round. So what is half done when the daemon dies is finished when it is back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog
import trio

from fabricd.core.action import Kind
from fabricd.core.pods import Pods, port_name
from fabricd.core.state import KernelState
from fabricd.daemon.picture import Picture
from fabricd.model import Node, Role, is_link_name
from fabricd.opener.namespaces import is_gone
from fabricd.pods.attachments import Attachments, Entry
from fabricd.pods.leases import Holder, Leases, NoLease

DEADLINE: Final = 10.0
"""Seconds until a pod has to be attached, or detached: both together are less than whoever asks
waits for an answer.
"""

REBOOT_GRACE: Final = 300.0
"""Seconds after the daemon's start in which a namespace from before a reboot may come back."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

log = structlog.get_logger()


class Refused(Exception):
    """Why a pod can't be attached or detached, in words for who asked."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for."""

    name: str
    netns: str
    """Path of the network namespace."""
    ifname: str = "eth0"
    addresses: tuple[str, ...] = ()
    """Those wanted; empty: any, of each family that the node has."""
    holder: str = ""
    """Whom the leases name; empty: the pod."""
    network: str = ""
    """Of CNI; empty: by hand."""


@dataclass(slots=True)
class _Wait:
    over: trio.Event = field(default_factory=trio.Event)
    error: str = ""


class PodService:
    """All pods of this node."""

    def __init__(
        self,
        attachments: Attachments,
        leases: Leases,
        boot: str,
        node: Callable[[], Node | None],
        changed: Callable[[str], None],
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """`node` gives this node's record in force, `changed` asks for a pass."""
        self._attachments = attachments
        self._leases = leases
        self._boot = boot
        self._node = node
        self._changed = changed
        self._clock = clock
        self._started = clock()
        self._entries: dict[str, Entry] = {}
        self._faults: list[str] = []
        self._lock = trio.Lock()
        self._waiting: dict[str, _Wait] = {}
        self._leaving: dict[str, trio.Event] = {}
        self.known = Pods()
        """What the desired state takes from here: another value whenever something has changed."""

    def load(self) -> None:
        """Read what is on disk, and see that every address is leased, and none for a pod of ours
        that is no more.
        """
        self._entries, self._faults = self._attachments.load()
        for fault in self._faults:
            log.error("a pod is not known", fault=fault)
        try:
            with self._leases.locked():
                for entry in self._entries.values():
                    self._lease_again(entry)
                self._leases.collect()
        except (NoLease, OSError) as error:
            log.error("pods' addresses may not be leased", error=str(error))
        self._publish()

    def _lease_again(self, entry: Entry) -> None:
        if entry.leaving:
            return
        try:
            self._leases.take(entry.addresses, self._holder(entry))
        except (NoLease, OSError) as error:
            log.error("a pod's address is not leased", pod=entry.name, error=str(error))

    # ------------------------------------------------------------ what is asked

    async def attach(self, wish: Wish) -> Entry:
        """Have a pod attached; back when it is. Raises Refused, and then nothing is left of it."""
        _check(wish)
        async with self._lock:
            entry = self._entries.get(wish.name)
            if entry is None:
                entry = await self._enter(wish)
            elif not _is_same(entry, wish):
                raise Refused(
                    f"pod {wish.name} is attached already, {_where(entry)}: detach it first"
                )
            wait = self._waiting.setdefault(wish.name, _Wait())
        self._changed(f"pods/{wish.name}")
        with trio.move_on_after(DEADLINE):
            await wait.over.wait()
        if not wait.over.is_set() or wait.error:
            error = wait.error or f"it was not done within {DEADLINE:g} s: see fabricctl status"
            await self._let_go(entry)
            raise Refused(error)
        return entry

    async def detach(self, name: str) -> bool:
        """Have a pod detached; back when nothing is left of it. False: there is none."""
        entry = self._entries.get(name)
        if entry is None:
            return False
        if not await self._let_go(entry):
            raise Refused(f"it was not done within {DEADLINE:g} s: see fabricctl status")
        return True

    def documents(self, picture: Picture) -> list[dict[str, Any]]:
        """All pods, as they are shown."""
        return [self.document(entry, picture) for _, entry in sorted(self._entries.items())]

    def document(self, entry: Entry, picture: Picture) -> dict[str, Any]:
        """One pod, as it is shown."""
        state, reason = "attached", ""
        failure = picture.failures.get(_making(entry.name), "")
        if entry.leaving:
            state = "leaving"
        elif picture.kernel is None or entry.name not in picture.desired.kernel.pods:
            state, reason = "unknown", picture.faults.get("kernel", "not looked at yet")
        elif entry.name in picture.kernel.departed:
            state, reason = "gone", _nowhere(entry.netns)
        elif failure:
            state, reason = "failed", failure
        return {
            "name": entry.name,
            "state": state,
            "reason": reason,
            "addresses": list(entry.addresses),
            "netns": entry.netns,
            "ifname": entry.ifname,
            "port": port_name(entry.name),
            "network": entry.network,
        }

    def entries(self) -> Sequence[Entry]:
        """All of them."""
        return tuple(self._entries.values())

    def entry(self, name: str) -> Entry | None:
        """One of them; None: there is no such pod."""
        return self._entries.get(name)

    def obstacle(self) -> str:
        """Why no pod can be attached to this node, if so."""
        node = self._node()
        if node is None:
            return "this node has no record in force, and so no subnet to take an address of"
        if node.role is Role.CLOUD:
            return "this node is a gateway: its pods are the cluster's own"
        return ""

    @property
    def faults(self) -> Sequence[str]:
        """Files about pods that can't be read."""
        return self._faults

    # ------------------------------------------------------------ what a pass has done

    def after_pass(self, picture: Picture) -> None:
        """See what became of what is waited for, and collect what belongs to nobody any more."""
        kernel = picture.kernel
        if kernel is None:
            return
        for name in kernel.departed:
            self._collect(name)
        leaving = [entry for entry in self._entries.values() if entry.leaving]
        if leaving:
            removed = {a.target for a in picture.actions if a.name not in picture.failures}
            for entry in leaving:
                port = port_name(entry.name)
                # A pod made only now may not have been there when the kernel was looked at.
                made = _making(entry.name) in picture.causes
                if not made and (port not in kernel.links or port in removed):
                    self._strike_out(entry)
        for name, wait in list(self._waiting.items()):
            self._tell(name, wait, picture, kernel)

    def _tell(self, name: str, wait: _Wait, picture: Picture, kernel: KernelState) -> None:
        entry = self._entries.get(name)
        if entry is None:
            wait.error = "its network namespace is gone"
        elif name not in picture.desired.kernel.pods or entry.leaving:
            return  # this pass did not know of it yet
        elif name in kernel.departed:
            wait.error = _nowhere(entry.netns)
        else:
            action = _making(name)
            wait.error = picture.failures.get(action, "").removeprefix(f"{action}: ")
        wait.over.set()
        del self._waiting[name]

    def _collect(self, name: str) -> None:
        entry = self._entries.get(name)
        if entry is None:
            return
        if entry.boot != self._boot and self._clock() - self._started < REBOOT_GRACE:
            return
        log.info("pod is gone with its network namespace", pod=name, netns=entry.netns)
        self._strike_out(entry)

    # ------------------------------------------------------------ entries

    async def _enter(self, wish: Wish) -> Entry:
        node = self._node()
        if node is None or node.role is Role.CLOUD:
            raise Refused(self.obstacle())
        for other in self._entries.values():
            if (other.netns, other.ifname) == (wish.netns, wish.ifname):
                raise Refused(f"pod {other.name} is attached {_where(other)}: detach it first")
        held = [address for entry in self._entries.values() for address in entry.addresses]
        entry = await trio.to_thread.run_sync(self._write, wish, node, held)
        self._entries[entry.name] = entry
        self._publish()
        return entry

    def _write(self, wish: Wish, node: Node, held: Sequence[str]) -> Entry:
        """In a thread: choose addresses, write the entry, and then the leases. Whenever it ends,
        no lease is without its entry.
        """
        entry: Entry | None = None
        try:
            with self._leases.locked():
                entry = Entry(
                    name=wish.name,
                    netns=wish.netns,
                    ifname=wish.ifname,
                    addresses=self._choose(node, wish, held),
                    holder=wish.holder or wish.name,
                    boot=self._boot,
                    network=wish.network,
                )
                self._attachments.save(entry)
                self._leases.take(entry.addresses, self._holder(entry), node.subnets)
        except NoLease as error:
            self._take_back(entry)
            raise Refused(str(error)) from None
        except OSError as error:
            self._take_back(entry)
            raise Refused(f"{error.filename}: {error.strerror}") from error
        return entry

    def _take_back(self, entry: Entry | None) -> None:
        """On a disk that is full one can still remove."""
        if entry is not None:
            with suppress(OSError):
                self._leases.release(entry.addresses, self._holder(entry))
            with suppress(OSError):
                self._attachments.remove(entry.name)

    def _choose(self, node: Node, wish: Wish, held: Sequence[str]) -> tuple[str, ...]:
        try:
            return self._leases.choose(node.subnets, wish.addresses, held)
        except NoLease:
            self._leases.collect()  # perhaps from a daemon that is no more
            return self._leases.choose(node.subnets, wish.addresses, held)

    async def _let_go(self, entry: Entry) -> bool:
        """Whether everything of it is gone."""
        leaving = msgspec.structs.replace(entry, leaving=True)
        async with self._lock:
            if entry.name not in self._entries:
                return True
            gone = self._leaving.setdefault(entry.name, trio.Event())
            if not self._entries[entry.name].leaving:
                try:
                    await trio.to_thread.run_sync(self._attachments.save, leaving)
                    if entry.name not in self._entries:  # its namespace has gone meanwhile
                        self._attachments.remove(entry.name)
                        return True
                except OSError as error:
                    raise Refused(f"{error.filename}: {error.strerror}") from error
                self._entries[entry.name] = leaving
                self._publish()
        self._changed(f"pods/{entry.name}")
        with trio.move_on_after(DEADLINE):
            await gone.wait()
        return gone.is_set()

    def _strike_out(self, entry: Entry) -> None:
        """The kernel has nothing of it any more."""
        try:
            self._leases.release(entry.addresses, self._holder(entry))
            self._attachments.remove(entry.name)
        except OSError as error:
            log.error("a pod can't be struck out", pod=entry.name, error=str(error))
            return
        del self._entries[entry.name]
        self._publish()
        if entry.name in self._leaving:
            self._leaving.pop(entry.name).set()

    def _holder(self, entry: Entry) -> Holder:
        return Holder(entry.holder, entry.ifname, self._attachments.folder)

    def _publish(self) -> None:
        entries = self._entries.values()
        self.known = Pods(
            attached=tuple(sorted(e.attachment for e in entries if not e.leaving)),
            leaving=frozenset(e.name for e in entries if e.leaving),
            all_known=not self._faults,
        )


def _check(wish: Wish) -> None:
    if not _NAME.fullmatch(wish.name):
        raise Refused(f"{wish.name!r} is no pod's name: a letter or digit, then those and _ . -")
    if not is_link_name(wish.ifname) or wish.ifname == "lo":
        raise Refused(
            f"{wish.ifname!r} is no interface's name: 1 to 15 of anything but / : % blank"
        )
    if not wish.netns.startswith("/"):
        raise Refused(f"{wish.netns!r} is no absolute path of a network namespace")
    if is_gone(wish.netns):
        raise Refused(_nowhere(wish.netns))


def _making(name: str) -> str:
    """What the action that makes a pod is called."""
    return f"{Kind.POD_SET} {name}"


def _nowhere(netns: str) -> str:
    return f"there is no network namespace at {netns}"


def _is_same(entry: Entry, wish: Wish) -> bool:
    """Whether what is asked for is there already."""
    asked = {text.partition("/")[0] for text in wish.addresses}
    have = {text.partition("/")[0] for text in entry.addresses}
    return (
        not entry.leaving
        and (entry.netns, entry.ifname, entry.network) == (wish.netns, wish.ifname, wish.network)
        and asked <= have
    )


def _where(entry: Entry) -> str:
    return f"as {entry.ifname} in {entry.netns}"
