"""fabricd.toml: what is read from it, and what is said about one that is wrong."""

from __future__ import annotations

import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fabricd.config import Config, ConfigError, load, parse
from fabricd.sources import parse_endpoint

PATH = Path("fabricd.toml")

CONTRACT = """\
[node]
name = "edge2"
[store]
type = "etcd"
endpoints = ["http://10.20.8.141:2379"]
prefix = "/fabric"
state_dir = "/var/lib/fabricd"
[ike]
socket = "unix:///var/run/charon/charon.vici"
ca = ["/etc/fabricd/pki/ca.crt"]
cert = "/etc/fabricd/pki/node.crt"
key = "/etc/fabricd/pki/node.key"
identity = "C=CN, O=StrongSwan, CN={name}"
[kernel]
bridge = "br-edge"
masquerade = true
[fabric]
networks = ["2.0.0.0/8"]
[http]
listen = "127.0.0.1:9815"
[control]
socket = "/run/fabricd/fabricd.sock"
"""


def read(text: str) -> Config:
    return parse(tomllib.loads(text), PATH)


def faults(text: str) -> list[str]:
    """What is said about a config, without the file's name, which every line must begin with."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert all(line.startswith("fabricd.toml: ") for line in caught.value.faults)
    assert all("\n" not in line for line in caught.value.faults)
    return [line.removeprefix("fabricd.toml: ") for line in caught.value.faults]


def keys(text: str) -> list[str]:
    """The keys that are at fault, one a line."""
    return [line.partition(": ")[0] for line in faults(text)]


# ---------------------------------------------------------------- what is right


def test_every_key_of_the_contract_is_taken() -> None:
    config = read(CONTRACT)
    assert config.node.name == "edge2"
    assert (config.store.type, config.store.prefix) == ("etcd", "/fabric")
    assert config.store.endpoints == ("http://10.20.8.141:2379",)
    assert config.store.state_dir == Path("/var/lib/fabricd")
    assert config.vici_socket == "/var/run/charon/charon.vici"
    assert config.ike.ca == (Path("/etc/fabricd/pki/ca.crt"),)
    assert config.ike.cert == Path("/etc/fabricd/pki/node.crt")
    assert config.ike.key == Path("/etc/fabricd/pki/node.key")
    assert config.ike.identity == "C=CN, O=StrongSwan, CN={name}"
    assert (config.kernel.bridge, config.kernel.masquerade) == ("br-edge", True)
    assert config.networks == ("2.0.0.0/8",)
    assert config.listen == ("127.0.0.1", 9815)
    assert config.control.socket == Path("/run/fabricd/fabricd.sock")


def test_what_the_contract_shows_is_what_an_empty_file_means() -> None:
    shown, empty = read(CONTRACT), read("")
    for section in ("ike", "kernel", "fabric", "http", "control"):
        assert getattr(shown, section) == getattr(empty, section)
    assert (empty.store.type, empty.store.prefix) == ("etcd", "/fabric")
    assert empty.store.state_dir == shown.store.state_dir


def test_the_name_is_the_host_name_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Edge7.Example")
    assert read("").node.name == "edge7.example"
    assert read('[node]\nname = "edge2"').node.name == "edge2"


def test_a_host_name_that_can_not_be_a_name_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "my_host")
    assert faults("")[0].startswith("node.name: the host name 'my_host' is no node's name")


def test_tls_and_a_user_for_etcd() -> None:
    store = read(
        """\
        [store]
        endpoints = ["https://etcd-1:2379", "https://[fd00::2]:2379"]
        ca = "/pki/ca.crt"
        cert = "/pki/client.crt"
        key = "/pki/client.key"
        username = "edge2"
        password_file = "/pki/password"
        """
    ).store
    assert store.endpoints == ("https://etcd-1:2379", "https://[fd00::2]:2379")
    assert (store.ca, store.cert) == (Path("/pki/ca.crt"), Path("/pki/client.crt"))
    assert (store.username, store.password_file) == ("edge2", Path("/pki/password"))


def test_a_directory_as_store() -> None:
    store = read('[store]\ntype = "dir"\npath = "/etc/fabricd/records"').store
    assert (store.type, store.path) == ("dir", Path("/etc/fabricd/records"))


def test_kubernetes_as_store() -> None:
    store = read('[store]\ntype = "kubernetes"').store
    assert (store.type, store.kubeconfig) == ("kubernetes", None)
    store = read('[store]\ntype = "kubernetes"\nkubeconfig = "/etc/fabricd/kubeconfig"').store
    assert store.kubeconfig == Path("/etc/fabricd/kubeconfig")


def test_where_the_store_is_reached_outside_the_tunnels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etcd = read(
        '[store]\nendpoints = ["http://etcd:1", "http://[fd00::1]:1", "http://192.0.2.1:1"]'
    )
    assert etcd.store_addresses == ("192.0.2.1/32", "fd00::1/128")

    kubeconfig = tmp_path / "kubeconfig"
    text = f'[store]\ntype = "kubernetes"\nkubeconfig = "{kubeconfig}"'
    assert read(text).store_addresses == ()
    for server, addresses in {
        "https://10.20.8.141:6443": ("10.20.8.141/32",),
        "https://api.example": (),
        "https://[": (),
    }.items():
        kubeconfig.write_text(
            f"""
            current-context: c
            contexts: [{{name: c, context: {{cluster: c}}}}]
            clusters: [{{name: c, cluster: {{server: "{server}"}}}}]
            """
        )
        assert read(text).store_addresses == addresses

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert read('[store]\ntype = "kubernetes"').store_addresses == ()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.233.0.1")
    assert read('[store]\ntype = "kubernetes"').store_addresses == ("10.233.0.1/32",)


def test_probes_are_on_unless_they_are_switched_off() -> None:
    assert (read("").health.probe, read("").health.port) == (15, 9816)
    assert read("[health]\nprobe = 0").health.probe == 0
    assert read("[health]\nprobe = 2.5\nport = 99").health.probe == 2.5
    assert faults("[health]\nprobe = 0.5") == [
        "health.probe: 0.5 s is too often: at least 1 s, or 0 for no probes"
    ]
    assert keys("[health]\nprobe = -1\nport = 0") == ["health.port", "health.probe"]


@pytest.mark.parametrize("share", ["0.25", "1", "1.0"])
def test_the_share_of_a_sudden_loss(share: str) -> None:
    assert read(f"[store]\nhold_share = {share}").store.hold_share == float(share)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("0.0.0.0:9815", ("0.0.0.0", 9815)),
        ("localhost:80", ("localhost", 80)),
        ("[::1]:9815", ("::1", 9815)),
        ("[fe80::1%eth0]:9815", ("fe80::1%eth0", 9815)),
    ],
)
def test_where_http_listens(listen: str, expected: tuple[str, int]) -> None:
    assert read(f'[http]\nlisten = "{listen}"').listen == expected


def test_networks_in_canonical_form() -> None:
    assert read('[fabric]\nnetworks = ["2.0.0.0/8", "FD00:2:0::/32"]').networks == (
        "2.0.0.0/8",
        "fd00:2::/32",
    )


def test_calicos_etcd_is_the_store_s_unless_it_has_its_own() -> None:
    config = read('[store]\nendpoints = ["https://a:1"]\nca = "/ca"')
    assert config.calico_etcd is config.store
    config = read('[store]\nendpoints = ["https://a:1"]\n[calico]\nendpoints = ["http://c:1"]')
    assert config.calico_etcd is config.calico
    assert read('[store]\ntype = "dir"\npath = "/records"').calico_etcd is None


def test_the_pool_for_calico() -> None:
    calico = read("").calico
    assert (calico.ipip_mode, calico.block_size, calico.node_selector) == ("Always", 24, "all()")
    calico = read(
        """\
        [calico]
        ipip_mode = "Never"
        block_size = 26
        node_selector = "zone == 'cloud'"
        """
    ).calico
    assert (calico.ipip_mode, calico.block_size) == ("Never", 26)
    assert calico.node_selector == "zone == 'cloud'"


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ('[node]\nname = "Edge2"', "node.name", "'Edge2' is no node's name"),
        ('[node]\nname = "-edge"', "node.name", "is no node's name"),
        ('[node]\nname = "edge2\\n"', "node.name", "is no node's name"),
        (f'[node]\nname = "{"e" * 64}"', "node.name", "is no node's name"),
        ("[node]\nname = 2", "node.name", "Expected `str`, got `int`"),
        ('[store]\ntype = "consul"', "store.type", "(known: etcd, dir"),
        ('[store]\ntype = ""', "store.type", "length >= 1"),
        ('[store]\ntype = "dir"', "store.path", 'is required for type = "dir"'),
        ('[store]\nkubeconfig = "/k"', "store.kubeconfig", 'goes with type = "kubernetes"'),
        ('[store]\ntype = "kubernetes"\nkubeconfig = ""', "store.kubeconfig", "Expected a path"),
        ("[store]\nendpoints = []", "store.endpoints", "names no etcd member"),
        ('[store]\nendpoints = "http://etcd:2379"', "store.endpoints", "Expected `array`"),
        ('[store]\nprefix = "fabric"', "store.prefix", "must begin with /"),
        ('[store]\nprefix = "/fabric/"', "store.prefix", "and not end with it"),
        ('[store]\nprefix = "/"', "store.prefix", "must begin with /"),
        ('[store]\nca = ""', "store.ca", "Expected a path"),
        ('[store]\nca = "/ca"', "store.endpoints", "endpoints are http, not https"),
        (
            '[store]\nendpoints = ["https://a:1"]\ncert = "/c"',
            "store.key",
            "cert and key go together",
        ),
        (
            '[store]\nendpoints = ["https://a:1"]\nkey = "/c"',
            "store.cert",
            "cert and key go together",
        ),
        ('[store]\nusername = "u"', "store.password_file", "go together"),
        ('[store]\npassword_file = "/p"', "store.username", "go together"),
        (
            '[store]\nendpoints = ["http://a:1", "https://b:1"]',
            "store.endpoints",
            "mixes http and https",
        ),
        ("[store]\nstate_dir = 1", "store.state_dir", "Expected a path"),
        ("[store]\nhold_share = 0", "store.hold_share", "> 0"),
        ("[store]\nhold_share = 1.5", "store.hold_share", "<= 1"),
        ('[ike]\nsocket = "/run/charon.vici"', "ike.socket", "is no unix:///PATH"),
        ('[ike]\nsocket = "tcp://127.0.0.1:4502"', "ike.socket", "is no unix:///PATH"),
        ("[ike]\nca = []", "ike.ca", "length >= 1"),
        ('[ike]\nca = "/ca.crt"', "ike.ca", "Expected `array`"),
        ("[ike]\ncert = true", "ike.cert", "Expected a path"),
        ('[ike]\nidentity = "CN=me"', "ike.identity", "has no {name} in it"),
        ('[kernel]\nbridge = "a-name-too-long-"', "kernel.bridge", "1 to 15"),
        ('[kernel]\nbridge = "brücke-der-pods"', "kernel.bridge", "1 to 15"),
        ('[kernel]\nbridge = "br/edge"', "kernel.bridge", "is no interface name"),
        ('[kernel]\nbridge = "br%d"', "kernel.bridge", "is no interface name"),
        ('[kernel]\nbridge = ".."', "kernel.bridge", "is no interface name"),
        ('[kernel]\nbridge = "fabric0"', "kernel.bridge", "taken for another purpose"),
        ('[kernel]\nbridge = "ipsec0"', "kernel.bridge", "taken for another purpose"),
        ('[kernel]\nmasquerade = "yes"', "kernel.masquerade", "Expected `bool`"),
        ("[fabric]\nnetworks = []", "fabric.networks", "length >= 1"),
        ('[fabric]\nnetworks = ["2.0.0.1/8"]', "fabric.networks", "has host bits set"),
        ('[fabric]\nnetworks = ["0.0.0.0/0"]', "fabric.networks", "whole address space"),
        ('[fabric]\nnetworks = ["pods"]', "fabric.networks", "'pods'"),
        ('[http]\nlisten = "9815"', "http.listen", "is no ADDRESS:PORT"),
        ('[http]\nlisten = ":9815"', "http.listen", "is no ADDRESS:PORT"),
        ('[http]\nlisten = "127.0.0.1"', "http.listen", "is no ADDRESS:PORT"),
        ('[http]\nlisten = "127.0.0.1:99999"', "http.listen", "is no ADDRESS:PORT"),
        ('[http]\nlisten = "127.0.0.1:9815/metrics"', "http.listen", "is no ADDRESS:PORT"),
        ('[http]\nlisten = "127.0.0.1 :9815"', "http.listen", "is no ADDRESS:PORT"),
        ('[http]\nlisten = "me@127.0.0.1:9815"', "http.listen", "is no ADDRESS:PORT"),
        ('[http]\nlisten = "[::1:9815"', "http.listen", "is no ADDRESS:PORT"),
        ('[http]\nlisten = "[nonsense]:9815"', "http.listen", "is no ADDRESS:PORT"),
        ('[control]\nsocket = ""', "control.socket", "Expected a path"),
        (f'[control]\nsocket = "/{"s" * 107}"', "control.socket", "longer than a socket's path"),
        (f'[ike]\nsocket = "unix:///{"s" * 107}"', "ike.socket", "longer than a socket's path"),
        ('[calico]\nendpoints = ["etcd:2379"]', "calico.endpoints", "is no http://HOST:PORT"),
        ('[calico]\nca = "/ca"', "calico.ca", "goes with endpoints"),
        (
            '[calico]\nendpoints = ["https://a:1"]\ncert = "/c"',
            "calico.key",
            "cert and key go together",
        ),
        ('[calico]\nipip_mode = "always"', "calico.ipip_mode", "Invalid enum value 'always'"),
        ("[calico]\nblock_size = 19", "calico.block_size", ">= 20"),
        ('[calico]\nnode_selector = ""', "calico.node_selector", "length >= 1"),
        ("store = 1", "store", "must be a section, [store]"),
    ],
)
def test_a_fault_is_one_line_with_its_key(text: str, key: str, says: str) -> None:
    [line] = faults(text)
    assert line.startswith(f"{key}: ")
    assert says in line


@pytest.mark.parametrize(
    "url",
    [
        "etcd:2379",
        "ftp://etcd:2379",
        "http://etcd",
        "http://:2379",
        "http://etcd:0",
        "http://etcd:port",
        "http://[::1:2379",
        "http://[nonsense]:2379",
        "http://me:secret@etcd:2379",
        "http://et cd:2379",
        "http://etcd:2379/v3",
        "http://etcd:2379?x",
        "http://etcd:2379#x",
    ],
)
def test_an_endpoint_that_is_none(url: str) -> None:
    [line] = faults(f'[store]\nendpoints = ["{url}"]')
    assert line.startswith("store.endpoints: ")
    assert repr(url) in line


@pytest.mark.parametrize(
    "url",
    ["http://10.20.8.141:2379", "http://etcd-1.example:2379/", "http://[::1]:2379", "http://e_1:1"],
)
def test_an_endpoint_that_passes_is_one_to_the_store_too(url: str) -> None:
    config = read(f'[store]\nendpoints = ["{url}"]')
    assert [parse_endpoint(endpoint).tls for endpoint in config.store.endpoints] == [False]


def test_all_faults_are_told_at_once() -> None:
    assert keys(
        """\
        [node]
        name = "Edge2"
        [store]
        type = "consul"
        prefix = "fabric"
        hold_share = 2
        [kernle]
        [http]
        listen = 9815
        lisden = "127.0.0.1:9815"
        [fabric]
        networks = ["2.0.0.1/8", "0.0.0.0/0"]
        """
    ) == [
        "[kernle]",
        "fabric.networks",
        "fabric.networks",
        "http.lisden",
        "http.listen",
        "node.name",
        "store.hold_share",
        "store.prefix",
        "store.type",
    ]


def test_one_mistake_is_not_told_twice() -> None:
    assert keys('[store]\ntype = "dir"\npath = 1') == ["store.path"]
    assert keys('[store]\nendpoints = ["https://a:1"]\ncert = "/c"\nkey = 1') == ["store.key"]
    assert keys('[store]\nendpoints = "https://a:1"\nca = "/ca"') == ["store.endpoints"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[stor]", "[stor]: unknown section, did you mean store?"),
        (
            "[peers]",
            "[peers]: unknown section "
            "(known: node, store, ike, kernel, fabric, health, http, control, calico, cni)",
        ),
        ("[ike]\nidentitty = 1", "ike.identitty: unknown key, did you mean identity?"),
        (
            "[kernel]\nspeed = 1400",
            "kernel.speed: unknown key (known: bridge, masquerade, netns_helper, mtu)",
        ),
    ],
)
def test_an_unknown_word_comes_with_a_hint(text: str, line: str) -> None:
    assert faults(text) == [line]


# ---------------------------------------------------------------- the file itself


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.toml")
    assert caught.value.faults == [
        f"{tmp_path}/none.toml: cannot be read: No such file or directory"
    ]


def test_a_file_that_is_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert caught.value.faults == [f"{tmp_path}: cannot be read: Is a directory"]


@pytest.mark.parametrize("content", [b"[node\nname", b"\xff\xfe", b"name = ", b"a = 1\na = 2"])
def test_a_file_that_is_not_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fabricd.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    [line] = caught.value.faults
    assert line.startswith(f"{path}: not TOML: ")


# ---------------------------------------------------------------- the daemon's command line


def fabricd(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fabricd.daemon.main", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "fabricd.toml"
    path.write_text(CONTRACT)
    return path


def test_check_config_only_checks(config_file: Path) -> None:
    done = fabricd("--check-config", "--config", config_file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("options", [["--check-config"], []])
def test_a_wrong_config_ends_the_daemon_at_once(config_file: Path, options: list[str]) -> None:
    config_file.write_text('[http]\nlisten = "9815"\n[nodes]\n[ike]\nsokcet = "x"\n')
    done = fabricd("--config", config_file, *options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"fabricd: {config_file}: [nodes]: unknown section, did you mean node?",
        f"fabricd: {config_file}: http.listen: '9815' is no ADDRESS:PORT, such as 127.0.0.1:9815",
        f"fabricd: {config_file}: ike.sokcet: unknown key, did you mean socket?",
    ]


def test_a_config_that_is_not_there_ends_the_daemon_at_once(tmp_path: Path) -> None:
    done = fabricd("--config", tmp_path / "none.toml")
    assert done.returncode == 2
    assert done.stderr == (
        f"fabricd: {tmp_path}/none.toml: cannot be read: No such file or directory\n"
    )
