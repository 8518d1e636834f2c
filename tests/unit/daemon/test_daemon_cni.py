"""CNI at the control socket, done with the pods of a node in memory; and the runtimes' file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from fabricd.core.pods import hardware_address, port_name
from fabricd.daemon import conflist
from fabricd.daemon.pod_routes import pod_routes
from fabricd.daemon.web import Request
from tests.unit.daemon.conftest import Pki
from tests.unit.daemon.test_daemon_pods import Daemon, Machine


@pytest.fixture
def machine(tmp_path: Path, pki: Pki) -> Machine:
    return Machine(tmp_path, pki)


class Runtime:
    """Calls as a container runtime does, by way of fabric-cni."""

    def __init__(self, machine: Machine, daemon: Daemon) -> None:
        self._machine = machine
        self._routes = pod_routes(daemon.pods, lambda: daemon.node.reconciler.picture)

    async def call(self, command: str, container: str = "c0ffee", **config: Any) -> dict[str, Any]:
        """`{"ok", "document"}`."""
        environment = {"CNI_COMMAND": command}
        if command in {"ADD", "DEL", "CHECK"}:
            environment["CNI_CONTAINERID"] = container
            environment["CNI_NETNS"] = self._machine.netns(f"ns-{container}")
            environment["CNI_IFNAME"] = "eth0"
        text = json.dumps({"cniVersion": "1.1.0", "name": "fabric", "type": "fabric-cni", **config})
        return await self.ask("POST /cni", {"environment": environment, "config": text})

    async def error(
        self, command: str, container: str = "c0ffee", **config: Any
    ) -> tuple[int, str]:
        answer = await self.call(command, container, **config)
        assert not answer["ok"]
        assert answer["document"]["cniVersion"] == "1.1.0"
        return answer["document"]["code"], answer["document"]["msg"]

    async def ask(self, what: str, body: object = None, status: int = 200) -> dict[str, Any]:
        method, path = what.split()
        request = Request(method, path, {}, json.dumps(body).encode())
        response = await self._routes[method, path](request)
        assert response.status == status  # type: ignore[union-attr] # no stream
        document: dict[str, Any] = json.loads(response.body)  # type: ignore[union-attr]
        return document


DONE = {"ok": True, "document": None}


async def test_the_life_of_a_container(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        runtime = Runtime(machine, daemon)
        added = await runtime.call("ADD")
        assert added["ok"]
        assert added["document"] == {
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": port_name("c0ffee.eth0")},
                {
                    "name": "eth0",
                    "mac": hardware_address("2.2.2.2/27"),
                    "sandbox": machine.netns("ns-c0ffee"),
                    "mtu": daemon.node.reconciler.picture.desired.pod_mtu,
                },
            ],
            "ips": [{"interface": 1, "address": "2.2.2.2/27", "gateway": "2.2.2.1"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "2.2.2.1"}],
            "dns": {},
        }
        assert machine.leased() == {"2.2.2.2": "c0ffee"}
        previous = {"prevResult": added["document"]}
        assert await runtime.call("CHECK", **previous) == DONE
        assert await runtime.call("DEL", **previous) == DONE
        assert await runtime.call("DEL", **previous) == DONE
        assert await runtime.call("DEL", "never-seen") == DONE
        assert await runtime.error("CHECK", **previous) == (
            3,
            "container c0ffee has no eth0 here",
        )
        machine.nothing_half_made()


async def test_what_is_wrong_is_found_by_a_check(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        runtime = Runtime(machine, daemon)
        document = (await runtime.call("ADD"))["document"]
        other = {**document, "ips": []}
        assert await runtime.error("CHECK", prevResult=other) == (
            101,
            "prevResult has no 2.2.2.2/27",
        )
        why = "EEXIST (the namespace has another interface eth0)"
        machine.kernel.refused["pod.set c0ffee.eth0"] = why
        machine.kernel.held.remove_link(port_name("c0ffee.eth0"))
        daemon.node.reconciler.look_again("test")
        await daemon.until(lambda: daemon.state("c0ffee.eth0")[0] == "failed")
        code, message = await runtime.error("CHECK", prevResult=document)
        assert (code, message) == (101, f"c0ffee.eth0 is failed: {why}")


async def test_what_is_refused(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        runtime = Runtime(machine, daemon)
        config = {"args": {"cni": {"ips": ["2.2.2.1"]}}}
        assert await runtime.error("ADD", "c0ffee", **config) == (
            100,
            "2.2.2.1 is the bridge's own, the way out of 2.2.2.0/27",
        )
        assert (await runtime.error("ADD", prevResult={}))[0] == 7
        answer = await runtime.call("ADD", cniVersion="0.3.1")
        assert answer["document"] == {
            "cniVersion": "0.3.1",
            "code": 1,
            "msg": "cniVersion '0.3.1' is not supported",
            "details": "supported are 0.4.0, 1.0.0, 1.1.0",
        }
        machine.nothing_half_made()


async def test_garbage_is_what_the_runtime_does_not_know(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        runtime = Runtime(machine, daemon)
        for container in ("a", "b", "c"):
            await runtime.call("ADD", container)
        await runtime.call("ADD", "d", name="other-network")
        await daemon.pods.attach(machine.wish("by-hand"))
        valid = {"cni.dev/valid-attachments": [{"containerID": "b", "ifname": "eth0"}]}
        assert await runtime.call("GC", "", **valid) == DONE
        assert set(machine.addresses()) == {"b.eth0", "d.eth0", "by-hand"}
        machine.nothing_half_made()
        assert (await runtime.error("GC"))[0] == 7


async def test_garbage_that_resists_does_not_keep_the_rest(
    machine: Machine, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with machine.daemon() as daemon:
        runtime = Runtime(machine, daemon)
        for container in ("a", "b", "c"):
            await runtime.call("ADD", container)
        machine.kernel.refused[f"link.remove {port_name('a.eth0')}"] = "EBUSY"
        code, message = await runtime.error("GC", "", **{"cni.dev/valid-attachments": []})
        assert code == 100
        assert message == "a.eth0: it was not done within 10 s: see fabricctl status"
        assert machine.ports() == {port_name("a.eth0")}


async def test_whether_it_can_serve(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        assert await Runtime(machine, daemon).call("STATUS") == DONE
    async with machine.daemon(synced=False) as daemon:
        assert await Runtime(machine, daemon).error("STATUS") == (
            50,
            "this node has no record in force, and so no subnet to take an address of",
        )


# ---------------------------------------------------------------- by hand


async def test_attached_by_hand(machine: Machine) -> None:
    async with machine.daemon() as daemon:
        runtime = Runtime(machine, daemon)
        wish = {"name": "pod1", "netns": machine.netns(), "addresses": ["2.2.2.9"]}
        document = await runtime.ask("POST /pods/attach", wish)
        assert document == {
            "name": "pod1",
            "state": "attached",
            "reason": "",
            "addresses": ["2.2.2.9/27"],
            "netns": machine.netns(),
            "ifname": "eth0",
            "port": port_name("pod1"),
            "network": "",
        }
        assert await runtime.ask("GET /pods") == {"pods": [document], "faults": []}
        refused = await runtime.ask("POST /pods/attach", {**wish, "name": "pod2"}, 409)
        assert refused["error"].startswith("pod pod1 is attached as eth0 in ")
        assert await runtime.ask("POST /pods/detach", {"name": "pod1"}) == {
            "name": "pod1",
            "detached": True,
        }
        assert not (await runtime.ask("POST /pods/detach", {"name": "pod1"}))["detached"]


@pytest.mark.parametrize("what", ["POST /pods/attach", "POST /pods/detach", "POST /cni"])
@pytest.mark.parametrize("body", [None, {}, {"name": 1}, {"name": "a", "netns": "/x", "more": 1}])
async def test_a_request_that_is_none(what: str, body: object, machine: Machine) -> None:
    async with machine.daemon(synced=False) as daemon:
        document = await Runtime(machine, daemon).ask(what, body, 400)
        assert document["error"].startswith("the request's body: ")


# ---------------------------------------------------------------- the file for runtimes


def test_the_file_for_runtimes_is_kept_as_it_should_be(tmp_path: Path) -> None:
    path = tmp_path / "net.d" / "10-fabric.conflist"
    wanted = conflist.content("fabric", Path("/run/fabricd/fabricd.sock"))
    assert conflist.write(path, wanted)
    assert json.loads(path.read_bytes()) == {
        "cniVersion": "1.0.0",
        "name": "fabric",
        "plugins": [
            {"type": "fabric-cni", "socket": "/run/fabricd/fabricd.sock"},
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }
    assert path.stat().st_mode & 0o777 == 0o644
    assert not conflist.write(path, wanted), "it is right"
    path.write_text("{}")
    assert conflist.write(path, wanted)
    assert path.read_bytes() == wanted
    assert [item.name for item in path.parent.iterdir()] == [path.name]
