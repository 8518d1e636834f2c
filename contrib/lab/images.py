"""Container images, built and run on a machine that has no registry and no engine's daemon.

The base image that a registry would give is this machine's Debian, from `lab.debian`. A container
is run by buildah in a chroot, in a network namespace of the lab, with what contrib/compose.yaml
says of it; the rest of an engine is not there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab import debian
from lab.netns import Namespace
from lab.process import Process, command

COMPOSE = debian.CHECKOUT / "contrib/compose.yaml"

BASE = "docker.io/library/debian:bookworm-slim"
"""What the Dockerfiles build upon."""


@dataclass(frozen=True)
class Service:
    """A service of the compose file, as far as it is looked at here."""

    image: str
    context: Path
    """Where its Dockerfile is."""
    capabilities: tuple[str, ...]
    volumes: tuple[str, ...]
    """`SOURCE:TARGET[:ro]`; a source without a slash is a named volume."""
    tmpfs: tuple[str, ...]


def services() -> dict[str, Service]:
    """What contrib/compose.yaml runs; raises ValueError where it asks for more than is known."""
    found = {}
    document = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    for name, said in document["services"].items():
        if said["cap_drop"] != ["ALL"] or said["network_mode"] != "host" or "privileged" in said:
            raise ValueError(
                f"{name}: it has to drop all capabilities and to use the host's network"
            )
        found[name] = Service(
            image=said["image"],
            context=(Path("contrib") / said["build"]),
            capabilities=tuple(said["cap_add"]),
            volumes=tuple(said["volumes"]),
            tmpfs=tuple(entry.partition(":")[0] for entry in said.get("tmpfs", ())),
        )
    return found


class Images:
    """A store of images in `run`; everything in it is gone after `remove`."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._store = run / "store"
        self._where: tuple[str | Path, ...] = ("--root", self._store, "--runroot", run / "runroot")

    def build(self, services: Mapping[str, Service]) -> None:
        """Build the services' images from a copy of this checkout."""
        command(
            *("podman", *self._where, "import", debian.archive("base", ()), BASE),
            timeout=120,
        )
        checkout = self._run / "checkout"
        debian.copy_checkout(checkout)
        pip = self._run / "pip.conf"
        pip.write_text(debian.pip_conf("/wheels"), encoding="utf-8")
        for service in services.values():
            command(
                *("podman", *self._where, "build", "--format", "docker", "--network", "host"),
                *("--isolation", "chroot", "--layers=false", "--tag", service.image),
                *("--volume", f"{debian.wheels()}:/wheels:ro"),
                *("--volume", f"{pip}:/etc/pip.conf:ro", checkout / service.context),
                timeout=600,
            )

    def config(self, image: str) -> dict[str, Any]:
        """The image's configuration, as `docker inspect` shows it."""
        (found,) = json.loads(command("podman", *self._where, "inspect", image))
        config: dict[str, Any] = {**found["Config"], "Healthcheck": found["Healthcheck"]}
        return config

    def size(self, image: str) -> int:
        """Octets that it adds to the base image."""
        whole, base = (
            int(command("podman", *self._where, "inspect", "--format", "{{.Size}}", name))
            for name in (image, BASE)
        )
        return whole - base

    def container(self, namespace: Namespace, service: Service, volumes: Path) -> Container:
        """A container of a service, not yet running. `volumes` is a directory for what it keeps:
        a named volume NAME is `volumes/NAME`, another source is taken from below `volumes`.
        """
        name = f"{namespace.name}-{service.image}"
        caps = [flag for cap in service.capabilities for flag in ("--cap-add", f"CAP_{cap}")]
        command(
            *("buildah", *self._where, "from", "--cap-drop", "ALL", *caps, "--name", name),
            service.image,
        )
        return Container(name, self, namespace, service, volumes, self._where)

    def remove(self) -> None:
        """Take the store apart: the driver keeps it mounted."""
        command("buildah", *self._where, "rm", "--all")
        for mounted in sorted(_mounts_below(self._store), reverse=True):
            command("umount", mounted)
        shutil.rmtree(self._store)


@dataclass(frozen=True)
class Container:
    """One service on one node."""

    name: str
    images: Images
    namespace: Namespace
    service: Service
    volumes: Path
    _where: tuple[str | Path, ...]

    def start(self, *more: str) -> Process:
        """Run what the image says is to be run. `more`: further flags of `buildah run`."""
        config = self.images.config(self.service.image)
        argv = [*config["Entrypoint"], *(config.get("Cmd") or ())]
        return self.namespace.popen(*self._run(more), *argv, name=self.name)

    def healthy(self) -> bool:
        """Run the image's health check in it; raises CommandError when it fails."""
        kind, *argv = self.images.config(self.service.image)["Healthcheck"]["Test"]
        assert kind == "CMD"
        self.exec(*argv)
        return True

    def exec(self, *argv: str) -> str:
        """Run another command in it, as the same user with the same volumes."""
        return self.namespace.run(*self._run(()), *argv)

    def _run(self, more: tuple[str, ...]) -> tuple[str | Path, ...]:
        # A file system in memory is a directory here: both commands of a container see it.
        mounts = [volume.split(":", 1) for volume in self.service.volumes]
        mounts += [[target, target] for target in self.service.tmpfs]
        flags = [
            f"--volume={self.volumes / source.lstrip('/')}:{_resolved(target)}"
            for source, target in mounts
        ]
        return (
            *("buildah", *self._where, "run", "--isolation", "chroot", *flags, *more),
            *(self.name, "--"),
        )


def _resolved(target: str) -> str:
    """/var/run is a link to /run, which engines follow, but buildah's chroot does not."""
    return target.removeprefix("/var") if target.startswith("/var/run/") else target


def _mounts_below(directory: Path) -> list[str]:
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return [line.split()[1] for line in mounts if line.split()[1].startswith(f"{directory}/")]


def give(directory: Path, uid: int, gid: int, mode: int) -> Path:
    """Make a directory as an engine makes a volume: with the owner it has in the image."""
    directory.mkdir(parents=True)
    os.chown(directory, uid, gid)
    directory.chmod(mode)
    return directory
