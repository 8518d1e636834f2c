"""Certificates that are renewed, revoked, run out or claim too little, on real charons."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from lab.fabric import Fabric
from lab.pki import Authority, Credentials, FirstAuthority
from lab.process import command, wait_until
from lab.topology import RECORDS
from tests.lab.observe import (
    SOON,
    ike,
    or_else,
    sas,
    status,
    wait_converged,
    wait_sas,
    wait_status,
    whole_fabric,
)
from tests.lab.pings import no_ping_lost, ping_taken_over

PATHS = ("c1", "c2", "c3")


def serials(fabric: Fabric, name: str) -> dict[str, str]:
    """The certificates that a node has seen of its peers, by peer."""
    return {
        peer["name"]: (peer["certificate"] or {}).get("serial", "")
        for peer in status(fabric, name)["peers"]
    }


def ike_sas(fabric: Fabric, name: str) -> set[Any]:
    return set(sas(fabric.nodes[name].charon))


def wait_up(fabric: Fabric, name: str, **peers: bool) -> None:
    """Until these peers of a node are up, or not."""
    wait_status(
        fabric,
        name,
        f"has {peers}",
        lambda seen: (
            {peer["name"]: peer["up"] for peer in seen["peers"] if peer["name"] in peers} == peers
        ),
    )


def renew(fabric: Fabric, name: str) -> None:
    """Another key and certificate from the fabric's CA; the daemon sees the files change."""
    subnets = RECORDS[name]["subnets"]
    fabric.nodes[name].install_credentials(fabric.authority.issue(name, subnets))


def wait_warning(fabric: Fabric, name: str, text: str) -> str:
    found = wait_status(
        fabric, name, f"warns: {text}", lambda seen: any(text in w for w in seen["warnings"])
    )
    return next(str(warning) for warning in found["warnings"] if text in warning)


# ---------------------------------------------------------------- renewal


@pytest.mark.parametrize("name", ["edge2", "edge3"])
def test_a_renewed_certificate_takes_over_without_a_lost_ping(fabric: Fabric, name: str) -> None:
    before, known = ike_sas(fabric, name), serials(fabric, "node1")
    with ping_taken_over(fabric, *PATHS):
        renew(fabric, name)
        wait_until(
            lambda: serials(fabric, "node1")[name] not in {"", known[name]},
            f"node1 has seen {name}'s new certificate",
            SOON,
        )
        wait_until(
            lambda: len(ike_sas(fabric, name) & before) < len(before),
            "old IKE_SAs have been replaced",
            SOON,
        )
        wait_converged(fabric)
    assert fabric.fabricctl(name, "plan") == "nothing to do\n"


def test_a_change_of_cas_loses_no_ping(fabric: Fabric) -> None:
    old = fabric.authority
    new = Authority(fabric.run / "next-pki")
    bundle = old.cert.read_bytes() + new.cert.read_bytes()
    with ping_taken_over(fabric, *PATHS, times=4):
        for node in fabric.nodes.values():
            node.install("ca.crt", bundle)
        wait_authorities(fabric, 2)
        for name, node in fabric.nodes.items():
            keys = ike(node.charon)["keys"]
            node.install_credentials(new.issue(name, RECORDS[name]["subnets"]))
            wait_until(
                lambda: ike(node.charon)["keys"] != keys,  # noqa: B023
                f"{name}'s charon has the new private key",
                SOON,
            )
            wait_converged(fabric)
        for node in fabric.nodes.values():
            node.install("ca.crt", new.cert.read_bytes())
        wait_authorities(fabric, 1)
        wait_converged(fabric)
        wait_until(
            lambda: all(serials_are_by(fabric, name, new) for name in fabric.nodes),
            "each node has seen its peers' new certificates",
            SOON,
        )
    fabric.authority = new
    for name in fabric.nodes:
        assert fabric.fabricctl(name, "plan") == "nothing to do\n"
        # The kernel of User Mode Linux has no nftables for IP.
        wait_status(
            fabric,
            name,
            "is content",
            lambda seen: all("nftables can't" in warning for warning in seen["warnings"]),
        )


def wait_authorities(fabric: Fabric, count: int) -> None:
    """Until each node's charon trusts so many CAs of ours."""
    wait_until(
        lambda: all(
            node.charon.swanctl("--list-authorities").count("fabric-ca-") == count
            for node in fabric.nodes.values()
        ),
        f"{count} CAs are trusted",
        SOON,
    )


def serials_are_by(fabric: Fabric, name: str, authority: Authority) -> bool:
    shown = authority.pki("show", "-o", "json")
    return all(serial and serial in shown for serial in serials(fabric, name).values())


# ---------------------------------------------------------------- the end of trust


def test_a_revoked_node_is_cut_off_by_all_others_and_comes_back_with_another(
    fabric: Fabric,
) -> None:
    assert isinstance(fabric.authority, Authority)
    with or_else(lambda: renew(fabric, "edge3")), no_ping_lost(fabric, "c1"):
        fabric.authority.pki("revoke", "edge3", "--reason", "keyCompromise")
        for node in fabric.nodes.values():
            node.install("ca.crl", fabric.authority.crl.read_bytes())
        for name in ("node1", "edge2"):
            wait_up(fabric, name, edge3=False)
            reason = wait_reason(fabric, name, "edge3", "was revoked")
            assert reason.startswith("its certificate ")
        assert "revoked" in wait_warning(fabric, "edge3", "the certificate is revoked")
        for name in ("node1", "edge2"):
            wait_sas(
                fabric,
                name,
                "has no SA with edge3",
                lambda found: not any("edge3" in sa for sa in found),
            )
        assert fabric.ping("pod-edge2", "pod-edge3", 1) == 1
        renew(fabric, "edge3")
        wait_converged(fabric)
    assert fabric.ping("pod-edge2", "pod-edge3") == 0


def wait_reason(fabric: Fabric, name: str, peer: str, text: str) -> str:
    def reason(seen: dict[str, Any]) -> str:
        [found] = [each for each in seen["peers"] if each["name"] == peer]
        return str(found["reason"])

    seen = wait_status(fabric, name, f"{peer}: {text}", lambda seen: text in reason(seen))
    return reason(seen)


def test_a_node_whose_certificate_runs_out_is_cut_off(fabric: Fabric) -> None:
    assert isinstance(fabric.authority, Authority)
    known = serials(fabric, "node1")["edge3"]
    credentials, end = short_lived(fabric.authority, "edge3", 20)
    with or_else(lambda: renew(fabric, "edge3")):
        fabric.nodes["edge3"].install_credentials(credentials)
        wait_until(
            lambda: serials(fabric, "node1")["edge3"] not in {"", known},
            "node1 has seen it while it is good",
            SOON,
        )
        wait_until(lambda: time.time() > end, "the certificate runs out", SOON)
        # edge2 has not seen it: it initiates to edge3, and does so once a day.
        assert wait_reason(fabric, "node1", "edge3", "expired").startswith("its certificate ")
        wait_up(fabric, "node1", edge3=False, edge2=True)
        wait_warning(fabric, "edge3", "expired")
    renew(fabric, "edge3")
    wait_converged(fabric)
    assert fabric.ping("pod-edge2", "pod-edge3") == 0


def short_lived(authority: Authority, name: str, life: int) -> tuple[Credentials, int]:
    """A certificate that is good for so many seconds from now on, and its end, Unix seconds: by
    strongSwan's pki(1).
    """
    made = authority.issue(name, RECORDS[name]["subnets"])
    end = int(time.time()) + life
    start, stop = (
        datetime.fromtimestamp(moment, UTC).strftime("%d.%m.%y %H:%M:%S")
        for moment in (end - 60, end)
    )
    pem = command(
        *("pki", "--issue", "--in", made.key, "--type", "priv", "--outform", "pem"),
        *("--cacert", authority.cert, "--cakey", authority.key, "--dn", made.identity),
        *("--not-before", start, "--not-after", stop, "--flag", "serverAuth"),
        *(word for net in RECORDS[name]["subnets"] for word in ("--addrblock", net)),
    )
    made.cert.write_text(pem, encoding="ascii")
    return made, end


# ---------------------------------------------------------------- bad files


def other_key(fabric: Fabric, name: str) -> None:
    other = fabric.authority.issue("other", ["2.9.0.0/16"])
    fabric.nodes[name].install("node.key", other.key.read_bytes())


def other_authority(fabric: Fabric, name: str) -> None:
    other = FirstAuthority(fabric.run / "other-pki", size=2048)
    fabric.nodes[name].install("ca.crt", other.cert.read_bytes())


def readable_by_all(fabric: Fabric, name: str) -> None:
    (fabric.nodes[name].pki / "node.key").chmod(0o644)


def rubbish(fabric: Fabric, name: str) -> None:
    fabric.nodes[name].install("node.crt", b"rubbish")


def rubbish_crl(fabric: Fabric, name: str) -> None:
    fabric.nodes[name].install("ca.crl", b"rubbish")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (other_key, "node.key: does not belong to the certificate in "),
        (other_authority, "which is none of the CAs in "),
        (readable_by_all, "node.key: others may read the private key: chmod 600 "),
        (rubbish, "node.crt: no certificate in PEM form"),
        (rubbish_crl, "ca.crl: no certificate revocation list in PEM or DER form"),
    ],
)
def test_bad_files_are_refused_and_what_is_in_force_stays(
    fabric: Fabric, damage: Any, reason: str
) -> None:
    node = fabric.nodes["edge2"]
    good = {path.name: path.read_bytes() for path in node.pki.iterdir()}
    before = ike_sas(fabric, "edge2")
    with no_ping_lost(fabric, *PATHS):
        try:
            damage(fabric, "edge2")
            wait_warning(fabric, "edge2", reason)
            assert fabric.fabricctl("edge2", "plan") == "nothing to do\n"
        finally:
            for path in node.pki.iterdir():
                if path.name not in good:
                    path.unlink()
            for name, content in good.items():
                node.install(name, content)
        wait_status(fabric, "edge2", "is content", lambda seen: seen["warnings"] == [])
    assert ike_sas(fabric, "edge2") == before


# ---------------------------------------------------------------- a hostile record


def steal(fabric: Fabric) -> None:
    """What somebody does who can write etcd: edge3 takes edge2's place."""
    fabric.delete_record("edge2")
    fabric.put_record("edge3", {**RECORDS["edge3"], "subnets": RECORDS["edge2"]["subnets"]})


def give_back(fabric: Fabric) -> None:
    for name in ("edge3", "edge2"):
        fabric.put_record(name, RECORDS[name])
    wait_converged(fabric)


def test_a_record_that_claims_anothers_subnet_gets_no_traffic_for_it(fabric: Fabric) -> None:
    try:
        steal(fabric)
        reason = wait_reason(fabric, "node1", "edge3", "which its record claims")
        assert reason == (
            "its certificate is for 2.2.2.32/27, not for 2.2.2.0/27, which its record claims"
        )
        wait_warning(fabric, "edge3", "not for 2.2.2.0/27 of its record: peers refuse those")
        # edge3 holds 2.2.2.1 now, its bridge's address, and would answer.
        assert fabric.namespaces["pod-node1"].lost("2.2.2.1", 2) == 2
        assert "2.2.2.0/27" not in fabric.nodes["node1"].charon.swanctl("--list-sas")
    finally:
        give_back(fabric)


@pytest.fixture
def first_fabric() -> Iterator[Fabric]:
    """With the proof of concept's own certificates: RSA, no address blocks."""
    with whole_fabric(authority=partial(FirstAuthority, size=2048)) as whole:
        yield whole


def test_without_address_blocks_whoever_writes_etcd_gets_it(first_fabric: Fabric) -> None:
    fabric = first_fabric
    seen = wait_status(
        fabric,
        "node1",
        "has seen their certificates",
        lambda seen: all(peer["certificate"] for peer in seen["peers"]),
    )
    assert {peer["certificate"]["subnets"] for peer in seen["peers"]} == {None}
    steal(fabric)
    wait_up(fabric, "node1", edge3=True)
    fabric.wait_ping("pod-node1", "pod-node2")
    wait_until(
        lambda: fabric.namespaces["pod-node1"].lost("2.2.2.1", 1) == 0,
        "the thief answers for 2.2.2.1",
        SOON,
    )
