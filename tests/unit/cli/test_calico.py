"""`fabricctl calico` without a cluster: the manifest, and what is said when nobody answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.unit.cli.conftest import Ctl


def test_the_manifest_for_calicoctl_and_kubectl(ctl: Ctl) -> None:
    result = ctl("calico", "ippool")
    assert result.exit_code == 0
    assert (
        result.output
        == """\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: fabric-pool
spec:
  cidr: 2.0.0.0/8
  blockSize: 24
  disabled: true
  ipipMode: Always
  natOutgoing: false
  nodeSelector: all()
  vxlanMode: Never
"""
    )


@pytest.mark.parametrize(
    "words", [("calico", "ippool", "-o", "json"), ("calico", "-o", "json", "ippool")]
)
def test_the_manifest_as_json(ctl: Ctl, words: tuple[str, ...]) -> None:
    assert json.loads(ctl(*words).output) == yaml.safe_load(ctl("calico", "ippool").output)


def test_the_manifest_in_contrib_is_the_same(ctl: Ctl) -> None:
    manifest = Path(__file__).parents[3] / "contrib/calico/fabric-pool.yaml"
    assert yaml.safe_load(manifest.read_text()) == yaml.safe_load(ctl("calico", "ippool").output)


def test_the_manifest_as_a_table(ctl: Ctl) -> None:
    assert (
        ctl("calico", "ippool", "-o", "table").output
        == """\
NAME         CIDR       IPIP    VXLAN  NAT    DISABLED  SELECTOR
fabric-pool  2.0.0.0/8  always  never  false  true      all()
"""
    )


def test_several_networks_are_one_list(ctl: Ctl, config: Path) -> None:
    with config.open("a") as file:
        file.write('[fabric]\nnetworks = ["2.0.0.0/8", "fd00:2::/32"]\n')
        file.write('[calico]\nipip_mode = "CrossSubnet"\nblock_size = 26\n')
    document = yaml.safe_load(ctl("calico", "ippool").output)
    assert (document["apiVersion"], document["kind"]) == ("projectcalico.org/v3", "IPPoolList")
    assert [
        (item["metadata"]["name"], item["spec"]["ipipMode"], item["spec"]["blockSize"])
        for item in document["items"]
    ] == [("fabric-pool", "CrossSubnet", 26), ("fabric-pool-2", "Never", 122)]


def test_apply_needs_to_know_calicos_etcd(ctl: Ctl, config: Path) -> None:
    result = ctl("calico", "apply")
    assert result.exit_code == 1
    assert (
        f"fabricctl: {config}: calico.endpoints: is needed to find Calico's etcd" in result.stderr
    )
    assert "fabricctl calico ippool | kubectl apply -f -" in result.stderr


def test_apply_says_that_etcd_is_away(ctl: Ctl, config: Path) -> None:
    with config.open("a") as file:
        file.write('[calico]\nendpoints = ["http://127.0.0.1:1"]\n')
    result = ctl("calico", "apply")
    assert result.exit_code == 1
    assert result.stderr.startswith("fabricctl: store: http://127.0.0.1:1: ")


@pytest.mark.parametrize("text", ["", "[", "pools", "[1, 2]", "items: 5", "items: [5]"])
def test_a_file_that_holds_no_pools(ctl: Ctl, text: str) -> None:
    result = ctl("calico", "check", "--pools", "-", stdin=text)
    assert result.exit_code == 1
    assert result.stderr.startswith("fabricctl: --pools: no list of IPPools in it: ")
