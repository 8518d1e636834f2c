"""A container runtime, as far as its networks go: runs the plugins of a conflist as libcni does.

Source: the CNI specification, sections 3 and 4 (containernetworking/cni, SPEC.md). Knows nothing of
what plugins do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lab.netns import Namespace
from lab.process import CommandError

STOCK: Final = Path("/usr/lib/cni")
"""Where Debian has the plugins of `containernetworking-plugins`."""

Json = dict[str, Any]


class CniFailed(Exception):
    """A plugin has failed: `document` is what it said."""

    def __init__(self, plugin: str, command: str, document: Json) -> None:
        super().__init__(f"{plugin} {command}: {document}")
        self.document = document


class Network:
    """A network of a runtime in some namespace, by its conflist."""

    def __init__(
        self, node: Namespace, conflist: Json, plugins: tuple[Path, ...], version: str = ""
    ) -> None:
        """`plugins` are folders to look for programs in; `version`: in the place of the list's."""
        self._node = node
        self._list = conflist
        self._folders = plugins
        self._version = version or conflist["cniVersion"]
        self._results: dict[tuple[str, str], Json] = {}
        """What ADD has answered at last, which a runtime keeps."""

    @classmethod
    def read(cls, node: Namespace, path: Path, plugins: tuple[Path, ...]) -> Network:
        return cls(node, json.loads(path.read_text(encoding="utf-8")), plugins)

    def add(
        self,
        container: str,
        netns: Path,
        ifname: str = "eth0",
        *,
        arguments: str = "",
        capabilities: Mapping[str, Any] | None = None,
    ) -> Json:
        """Connect a container; returns the last plugin's result. Raises CniFailed, and then the
        runtime has still to `delete`.
        """
        result: Json | None = None
        for plugin in self._list["plugins"]:
            words = self._attachment("ADD", container, netns, ifname, arguments)
            request = self._request(plugin, result, capabilities)
            result = self.run(plugin["type"], words, request)
            assert result is not None, f"{plugin['type']} has answered nothing to ADD"
        assert result is not None
        self._results[container, ifname] = result
        return result

    def check(self, container: str, netns: Path, ifname: str = "eth0") -> None:
        """Raises CniFailed."""
        previous = self._results[container, ifname]
        for plugin in self._list["plugins"]:
            words = self._attachment("CHECK", container, netns, ifname)
            self.run(plugin["type"], words, self._request(plugin, previous))

    def delete(self, container: str, netns: Path | None, ifname: str = "eth0") -> None:
        """Disconnect a container, in the reverse order; as often as one likes. Raises CniFailed."""
        previous = self._results.get((container, ifname))
        for plugin in reversed(self._list["plugins"]):
            words = self._attachment("DEL", container, netns, ifname)
            self.run(plugin["type"], words, self._request(plugin, previous))
        self._results.pop((container, ifname), None)

    def collect(self, *valid: tuple[str, str], only: str = "") -> None:
        """GC: these containers and interfaces are all there are. `only` this plugin."""
        listed = [{"containerID": container, "ifname": ifname} for container, ifname in valid]
        for plugin in self._list["plugins"]:
            if only in {"", plugin["type"]}:
                request = self._bare(plugin) | {"cni.dev/valid-attachments": listed}
                self.run(plugin["type"], {"CNI_COMMAND": "GC"}, request)

    def status(self, plugin: Json) -> None:
        """Raises CniFailed."""
        self.run(plugin["type"], {"CNI_COMMAND": "STATUS"}, self._bare(plugin))

    def versions(self, plugin: Json) -> list[str]:
        """Those that a plugin supports."""
        request = {"cniVersion": self._version}
        answer = self.run(plugin["type"], {"CNI_COMMAND": "VERSION"}, request)
        assert answer is not None
        found: list[str] = answer["supportedVersions"]
        return found

    def run(self, plugin: str, words: Mapping[str, str], request: Json) -> Json | None:
        """Run a plugin once; its answer, if it has one. Raises CniFailed."""
        program = next(f / plugin for f in self._folders if (f / plugin).exists())
        path = ":".join(map(str, self._folders))
        variables = [f"{key}={value}" for key, value in {**words, "CNI_PATH": path}.items()]
        clean = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
        try:
            said = self._node.run(
                *clean, *variables, program, stdin=json.dumps(request), timeout=90
            )
        except CommandError as error:
            try:
                document = json.loads(error.output)
            except ValueError:
                raise error from None
            raise CniFailed(plugin, words["CNI_COMMAND"], document) from None
        return json.loads(said) if said.strip() else None

    @staticmethod
    def _attachment(
        command: str, container: str, netns: Path | None, ifname: str, arguments: str = ""
    ) -> dict[str, str]:
        found = {"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": ifname}
        found |= {"CNI_NETNS": str(netns)} if netns else {}
        return found | ({"CNI_ARGS": arguments} if arguments else {})

    def _request(
        self, plugin: Json, previous: Json | None, capabilities: Mapping[str, Any] | None = None
    ) -> Json:
        told = {
            key: value
            for key, value in (capabilities or {}).items()
            if plugin.get("capabilities", {}).get(key)
        }
        request = self._bare(plugin)
        request |= {"runtimeConfig": told} if told else {}
        return request | ({"prevResult": previous} if previous is not None else {})

    def _bare(self, plugin: Json) -> Json:
        kept = {key: value for key, value in plugin.items() if key != "capabilities"}
        return {**kept, "cniVersion": self._version, "name": self._list["name"]}
