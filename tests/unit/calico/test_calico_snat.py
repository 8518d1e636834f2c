"""Rules that change the source of packets between pods and edges, told from those that don't."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from fabricd.calico.snat import (
    Addresses,
    Always,
    Finding,
    Flow,
    Holds,
    OutLink,
    Rule,
    Table,
    Verdict,
    findings,
)

PODS = (ip_network("10.233.64.0/18"),)
EDGES = (ip_network("2.0.0.0/8"),)
FLOW = Flow("pods to edges", PODS, EDGES, frozenset({"eth0"}))

SNAT = Verdict.SNAT
UNKNOWN = Always(Holds.UNKNOWN)


def to(*networks: str, negated: bool = False) -> Addresses:
    return Addresses(True, tuple(map(ip_network, networks)), negated)


def of(*networks: str, negated: bool = False) -> Addresses:
    return Addresses(False, tuple(map(ip_network, networks)), negated)


def rule(verdict: Verdict, *conditions: Addresses | OutLink | Always, target: str = "") -> Rule:
    return Rule(f"{verdict.value} {target}".strip(), conditions, verdict, target)


def judge(chains: dict[str, list[Rule]], flow: Flow = FLOW) -> str:
    """What becomes of a flow: `kept`, `changed`, `unknown`."""
    table = Table("nat", frozenset({4}), chains, ("out",))
    found = findings([table], [flow])
    if any(finding.certain for finding in found):
        return "changed"
    return "unknown" if found else "kept"


@pytest.mark.parametrize(
    ("conditions", "becomes"),
    [
        ((), "changed"),
        ((to("2.0.0.0/8"),), "changed"),
        ((to("2.2.2.0/24"),), "changed"),
        ((to("3.0.0.0/8"),), "kept"),
        ((to("2.0.0.0/8", negated=True),), "kept"),
        ((to("2.0.0.0/9", "2.128.0.0/9", negated=True),), "kept"),
        ((to("2.0.0.0/9", negated=True),), "changed"),
        ((of("10.233.64.0/18"), to("10.0.0.0/8", negated=True)), "changed"),
        ((of("172.17.0.0/16"),), "kept"),
        ((to("fd00::/8"),), "kept"),
        ((OutLink(("eth0",)),), "changed"),
        ((OutLink(("eth*",)),), "changed"),
        ((OutLink(("docker0",)),), "kept"),
        ((OutLink(("docker0",), negated=True),), "changed"),
        ((Always(Holds.SOME),), "changed"),
        ((UNKNOWN,), "unknown"),
        ((UNKNOWN, to("3.0.0.0/8")), "kept"),
    ],
)
def test_a_single_rule(conditions: tuple[Addresses | OutLink | Always, ...], becomes: str) -> None:
    assert judge({"out": [rule(SNAT, *conditions)]}) == becomes


@pytest.mark.parametrize("verdict", [Verdict.END, Verdict.RETURN])
@pytest.mark.parametrize(
    ("condition", "becomes"),
    [
        (to("2.0.0.0/8"), "kept"),
        (to("2.2.0.0/16"), "changed"),
        (to("3.0.0.0/8"), "changed"),
        (UNKNOWN, "unknown"),
    ],
)
def test_an_exemption_before_it(
    verdict: Verdict, condition: Addresses | Always, becomes: str
) -> None:
    assert judge({"out": [rule(verdict, condition), rule(SNAT)]}) == becomes


def test_an_exemption_after_it_comes_too_late() -> None:
    assert judge({"out": [rule(SNAT), rule(Verdict.END)]}) == "changed"


@pytest.mark.parametrize(
    ("inner", "becomes"),
    [
        ([rule(SNAT)], "changed"),
        ([rule(Verdict.RETURN), rule(SNAT)], "kept"),
        ([rule(Verdict.END)], "kept"),
        ([rule(Verdict.NEXT), rule(SNAT, UNKNOWN)], "unknown"),
        ([], "kept"),
    ],
)
@pytest.mark.parametrize("verdict", [Verdict.JUMP, Verdict.GOTO])
def test_the_rules_of_another_chain(verdict: Verdict, inner: list[Rule], becomes: str) -> None:
    assert judge({"out": [rule(verdict, target="inner")], "inner": inner}) == becomes


def test_what_ends_in_another_chain_does_not_come_back() -> None:
    inner = [rule(Verdict.END, to("2.0.0.0/8"))]
    chains = {"out": [rule(Verdict.JUMP, target="inner"), rule(SNAT)], "inner": inner}
    assert judge(chains) == "kept"


def test_what_returns_from_another_chain_goes_on() -> None:
    inner = [rule(Verdict.RETURN)]
    chains = {"out": [rule(Verdict.JUMP, target="inner"), rule(SNAT)], "inner": inner}
    assert judge(chains) == "changed"


def test_a_goto_does_not_come_back() -> None:
    chains = {"out": [rule(Verdict.GOTO, target="inner"), rule(SNAT)], "inner": []}
    assert judge(chains) == "kept"


def test_a_loop_and_a_chain_that_is_not_there_end() -> None:
    assert judge({"out": [rule(Verdict.JUMP, target="out"), rule(Verdict.JUMP, target="?")]}) == (
        "kept"
    )


def test_what_is_not_known_of_the_traffic_is_not_judged() -> None:
    flow = Flow("pods to edges", (), EDGES)
    assert judge({"out": [rule(SNAT, of("10.0.0.0/8"))]}, flow) == "unknown"
    assert judge({"out": [rule(SNAT, OutLink(("eth0",)))]}, flow) == "unknown"
    assert judge({"out": [rule(SNAT)]}, flow) == "changed"


def test_a_finding_says_where() -> None:
    tables = [
        Table("six", frozenset({6}), {"out": [rule(SNAT)]}, ("out",)),
        Table("four", frozenset({4}), {"out": [rule(SNAT)]}, ("out",)),
    ]
    assert findings(tables, [FLOW]) == [Finding("pods to edges", "four", "snat", certain=True)]
