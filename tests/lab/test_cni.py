"""`fabric-cni` driven as a runtime drives it, and CNI's stock plugins on the same bridge."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lab.cni import STOCK, CniFailed, Network
from lab.fabric import Fabric
from lab.netns import Namespace
from lab.process import wait_until
from lab.topology import ATTACHED, UNDERLAY
from tests.lab.attached import (
    Attached,
    attach,
    call,
    entries,
    leases,
    listening,
    namespace,
    nothing_half_made,
    restart,
    supplant,
)
from tests.lab.observe import SOON, or_else, wait_converged, whole_fabric

OURS = Path(sys.executable).parent
"""Where `fabric-cni` is."""

PLUGINS = (OURS, STOCK)
BRIDGE = Path(__file__).parents[2] / "contrib" / "cni" / "10-fabric-bridge.conflist"
PUBLISHED = 18_080


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    with whole_fabric(ATTACHED) as whole:
        yield whole


@pytest.fixture(scope="module")
def conflist(fabric: Fabric) -> Path:
    """The one that edge2's daemon writes."""
    path = fabric.run / "net.d" / "10-fabric.conflist"
    restart(fabric, "edge2", "cni", "conflist", f'"{path}"')
    wait_until(path.exists, "the daemon has written the conflist", SOON)
    wait_converged(fabric)
    return path


@pytest.fixture(scope="module")
def network(fabric: Fabric, conflist: Path) -> Network:
    return Network.read(fabric.nodes["edge2"].namespace, conflist, PLUGINS)


@pytest.fixture(scope="module")
def far(fabric: Fabric) -> Attached:
    """A pod on edge3."""
    return attach(fabric, "edge3", "far")


def plugin(fabric: Fabric) -> dict[str, Any]:
    """Our entry in the list."""
    return {"type": "fabric-cni", "socket": str(fabric.run / "edge2.sock")}


def at(fabric: Fabric, version: str) -> Network:
    """A list of our plugin alone, by a version."""
    conflist = {"cniVersion": version, "name": "fabric", "plugins": [plugin(fabric)]}
    return Network(fabric.nodes["edge2"].namespace, conflist, PLUGINS)


def address(result: dict[str, Any]) -> str:
    return str(result["ips"][0]["address"]).partition("/")[0]


# ---------------------------------------------------------------- the daemon's conflist


def test_the_file_is_put_right_when_somebody_spoils_it(fabric: Fabric, conflist: Path) -> None:
    before = conflist.read_bytes()
    names = [item["type"] for item in json.loads(before)["plugins"]]
    assert names == ["fabric-cni", "portmap"]
    for spoil in (lambda: conflist.write_text("{"), conflist.unlink):
        spoil()
        wait_until(
            lambda: conflist.exists() and conflist.read_bytes() == before, "it is right", SOON
        )
    assert [path.name for path in conflist.parent.iterdir()] == [conflist.name]


def test_a_containers_life_with_a_published_port(
    fabric: Fabric, network: Network, far: Attached
) -> None:
    inside = namespace(fabric, "web")
    ports = [{"hostPort": PUBLISHED, "containerPort": 7777, "protocol": "tcp"}]
    result = network.add("web-1", inside.path, capabilities={"portMappings": ports})
    assert result["cniVersion"] == "1.0.0"
    assert result["interfaces"][1]["sandbox"] == str(inside.path)
    assert leases(fabric, "edge2")[address(result)] == "web-1"
    network.check("web-1", inside.path)
    assert inside.lost(far.ip) == 0
    with listening(inside):
        assert call(far.namespace, address(result)) == (far.ip, 1)
        wan = Namespace(fabric.prefix + "node2", fabric.run)
        script = f"exec 3<>/dev/tcp/{UNDERLAY['edge2']}/{PUBLISHED}; echo hello >&3"
        wan.run("bash", "-c", script)

    network.delete("web-1", inside.path)
    assert not inside.has_link("eth0")
    assert address(result) not in leases(fabric, "edge2")
    network.delete("web-1", inside.path)
    inside.delete()
    network.delete("web-1", None)
    network.delete("web-1", inside.path)
    nothing_half_made(fabric, "edge2")


def test_what_is_wrong_with_a_container_is_found_by_a_check(
    fabric: Fabric, network: Network
) -> None:
    inside = namespace(fabric, "checked")
    network.add("checked", inside.path)
    supplant(fabric, Attached("checked", "edge2", inside, {}))

    def code() -> int:
        try:
            network.check("checked", inside.path)
        except CniFailed as failed:
            return int(failed.document["code"])
        return 0

    wait_until(lambda: code() == 101, "CHECK tells of it", SOON)
    inside.ip("link", "delete", "eth0")
    wait_until(lambda: code() == 0, "it is repaired", SOON)
    network.delete("checked", inside.path)
    assert code_of_check(fabric, inside) == 3
    inside.delete()


def code_of_check(fabric: Fabric, inside: Namespace) -> int:
    """Of a container that was deleted: what a runtime that has lost its memory is told."""
    words = {
        "CNI_COMMAND": "CHECK",
        "CNI_CONTAINERID": "checked",
        "CNI_NETNS": str(inside.path),
        "CNI_IFNAME": "eth0",
    }
    named = {"cniVersion": "1.0.0", "name": "fabric", "prevResult": {"ips": []}}
    with pytest.raises(CniFailed) as caught:
        at(fabric, "1.0.0").run("fabric-cni", words, plugin(fabric) | named)
    return int(caught.value.document["code"])


# ---------------------------------------------------------------- versions, and the other commands


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_each_version_from_add_to_delete(fabric: Fabric, version: str) -> None:
    network, inside = at(fabric, version), namespace(fabric, f"v{version}")
    assert network.versions(plugin(fabric)) == ["0.4.0", "1.0.0", "1.1.0"]
    result = network.add(f"v{version}", inside.path)
    [link] = json.loads(inside.ip("-j", "address", "show", "dev", "eth0"))
    assert result["cniVersion"] == version
    assert result["interfaces"][1]["mac"] == link["address"]
    if version == "1.1.0":
        assert result["interfaces"][1]["mtu"] == link["mtu"]
    assert result["ips"][0].get("version", "") == ("4" if version == "0.4.0" else "")
    assert {item["local"] for item in link["addr_info"]} >= {address(result)}
    assert [route["gw"] for route in result["routes"]] == ["2.2.4.1"]
    assert "default via 2.2.4.1 dev eth0" in inside.ip("route")
    network.check(f"v{version}", inside.path)
    network.delete(f"v{version}", inside.path)
    inside.delete()


@pytest.mark.parametrize("version", ["0.3.1", "2.0.0"])
def test_versions_that_are_not_supported(fabric: Fabric, version: str) -> None:
    inside = namespace(fabric, "odd")
    with pytest.raises(CniFailed) as caught:
        at(fabric, version).add("odd", inside.path)
    assert caught.value.document["code"] == 1
    assert not inside.has_link("eth0")
    inside.delete()


def test_garbage_is_collected(fabric: Fabric) -> None:
    network = at(fabric, "1.1.0")
    before = entries(fabric, "edge2").keys()
    spaces = [namespace(fabric, f"gc{number}") for number in range(3)]
    for space in spaces:
        network.add(space.name, space.path)
    by_hand = attach(fabric, "edge2", "by-hand")
    network.collect((spaces[1].name, "eth0"))
    assert [space.has_link("eth0") for space in spaces] == [False, True, False]
    assert by_hand.namespace.has_link("eth0"), "it is no runtime's"
    nothing_half_made(fabric, "edge2")
    network.collect()
    assert not spaces[1].has_link("eth0")
    for space in (*spaces, by_hand.namespace):
        space.delete()
    wait_until(lambda: entries(fabric, "edge2").keys() <= before, "nothing is left", SOON)


def test_whether_it_can_serve(fabric: Fabric) -> None:
    network = at(fabric, "1.1.0")
    network.status(plugin(fabric))
    fabric.stop_fabricd("edge2")
    with or_else(lambda: fabric.start_fabricd("edge2")):
        with pytest.raises(CniFailed) as caught:
            network.status(plugin(fabric))
        assert caught.value.document["code"] == 50
        inside = namespace(fabric, "early")
        with pytest.raises(CniFailed) as caught:
            network.add("early", inside.path)
        assert caught.value.document["code"] == 11
    fabric.start_fabricd("edge2")
    wait_converged(fabric)
    network.status(plugin(fabric))
    network.add("early", inside.path)
    network.delete("early", inside.path)
    inside.delete()
    gateway = {"type": "fabric-cni", "socket": str(fabric.run / "node1.sock")}
    with pytest.raises(CniFailed) as caught:
        network.status(gateway)
    assert caught.value.document["code"] == 50
    assert "gateway" in caught.value.document["msg"]


def test_what_is_asked_for(fabric: Fabric, network: Network) -> None:
    inside = namespace(fabric, "asked")
    arguments = "IgnoreUnknown=1;K8S_POD_NAME=web-0;IP=2.2.4.99"
    result = network.add("asked", inside.path, "net1", arguments=arguments)
    assert address(result) == "2.2.4.99"
    assert inside.has_link("net1")
    with pytest.raises(CniFailed) as caught:
        network.add("other", inside.path, "net3", arguments=arguments)
    assert caught.value.document["code"] == 100
    assert "2.2.4.99 is taken" in caught.value.document["msg"]
    network.delete("other", inside.path, "net3")
    network.delete("asked", inside.path, "net1")
    inside.delete()


# ---------------------------------------------------------------- beside the stock plugins


@pytest.fixture(scope="module")
def stock(fabric: Fabric, conflist: Path) -> Network:
    """By the list in contrib, with this fabric's subnet and the daemon's folder of leases."""
    text = BRIDGE.read_text(encoding="utf-8")
    for old, new in {"2.2.2.0/27": "2.2.4.0/24", "2.2.2.1": "2.2.4.1"}.items():
        assert old in text
        text = text.replace(old, new)
    found = json.loads(text)
    found["plugins"][0]["ipam"]["dataDir"] = str(fabric.run / "edge2.leases")
    return Network(fabric.nodes["edge2"].namespace, found, (STOCK,))


def test_the_stock_plugins_serve_the_same_bridge(
    fabric: Fabric, stock: Network, far: Attached
) -> None:
    inside = namespace(fabric, "stock")
    result = stock.add("stock", inside.path)
    assert inside.lost(far.ip) == 0
    assert far.namespace.lost(address(result)) == 0
    with listening(far.namespace):
        assert call(inside, far.ip, 1 << 20) == (address(result), 1 << 20)
    stock.check("stock", inside.path)
    wait_converged(fabric)
    assert fabric.ask("edge2", "/plan")["actions"] == [], "it is nothing to the daemon"
    stock.delete("stock", inside.path)
    stock.delete("stock", inside.path)
    inside.delete()


def test_both_take_their_addresses_from_one_pot(
    fabric: Fabric, network: Network, stock: Network
) -> None:
    """At the same time, and neither lets go of what the other has."""
    spaces = [namespace(fabric, f"both{number}") for number in range(20)]

    def add(number: int) -> str:
        which = network if number % 2 else stock
        return address(which.add(spaces[number].name, spaces[number].path))

    with ThreadPoolExecutor(10) as threads:
        given = list(threads.map(add, range(len(spaces))))
    assert len(set(given)) == len(spaces)
    assert {a: h for a, h in leases(fabric, "edge2").items() if a in given} == {
        given[number]: space.name for number, space in enumerate(spaces)
    }
    neighbours = list(zip(spaces, given[1:], strict=False))
    assert [space.lost(other, 1, wait=5) for space, other in neighbours] == [0] * len(neighbours)

    def delete(number: int) -> None:
        which = network if number % 2 else stock
        which.delete(spaces[number].name, spaces[number].path)

    with ThreadPoolExecutor(10) as threads:
        list(threads.map(delete, range(len(spaces))))
    assert not set(given) & set(leases(fabric, "edge2"))
    nothing_half_made(fabric, "edge2")
    for space in spaces:
        space.delete()


def test_the_next_address_is_behind_the_last_of_either(
    fabric: Fabric, network: Network, stock: Network
) -> None:
    spaces = [namespace(fabric, f"turn{number}") for number in range(4)]
    given = [
        int(address(which.add(space.name, space.path)).rpartition(".")[2])
        for which, space in zip((network, stock, network, stock), spaces, strict=True)
    ]
    assert given == list(range(given[0], given[0] + 4))
    for which, space in zip((network, stock, network, stock), spaces, strict=True):
        which.delete(space.name, space.path)
        space.delete()
