"""The lab's pieces as fixtures. All need root; each is removed whatever the test does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import rundir
from lab.charon import Charon
from lab.etcd import Etcd
from lab.fabric import Fabric
from lab.netns import Namespace, veth
from lab.pki import Authority, Credentials
from lab.process import tail
from tests.lab import purged
from tests.lab.observe import whole_fabric


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A short directory of the test's own; what is recorded in it is gone after the test."""
    run = rundir.make("lt-")
    yield run
    rundir.remove(run)


@pytest.fixture
def namespace(run_dir: Path) -> Callable[[str], Namespace]:
    """Make a namespace: `namespace("left")`. Its full name is unique."""

    def create(name: str) -> Namespace:
        return Namespace.create(f"{run_dir.name}-{name}", run_dir)

    return create


@pytest.fixture
def etcd(run_dir: Path) -> Etcd:
    """An etcd on loopback, serving."""
    server = Etcd(run_dir)
    server.start()
    return server


@dataclass(frozen=True)
class CharonPair:
    """Two charons on one cable, without connections; certificates of one CA."""

    left: Charon
    """`left.namespace` has 192.0.2.1/24 and, on lo, 2.2.2.1/27."""
    right: Charon
    """`right.namespace` has 192.0.2.2/24 and, on lo, 2.2.2.33/27."""
    authority: Authority
    left_credentials: Credentials
    right_credentials: Credentials


@pytest.fixture(scope="session")
def certified(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Authority, Credentials, Credentials]:
    """A CA, left's and right's credentials: made once, as that takes longer than a test."""
    authority = Authority(tmp_path_factory.mktemp("certified") / "pki")
    return authority, authority.issue("left"), authority.issue("right")


@pytest.fixture
def charon_pair(
    run_dir: Path,
    namespace: Callable[[str], Namespace],
    certified: tuple[Authority, Credentials, Credentials],
) -> CharonPair:
    left, right = namespace("left"), namespace("right")
    veth(left, "u0", right, "u0")
    left.add_address("u0", "192.0.2.1/24")
    right.add_address("u0", "192.0.2.2/24")
    left.add_address("lo", "2.2.2.1/27")
    right.add_address("lo", "2.2.2.33/27")
    pair = CharonPair(
        Charon(left, run_dir, name="left"), Charon(right, run_dir, name="right"), *certified
    )
    pair.left.start()
    pair.right.start()
    return pair


@pytest.fixture(scope="module")
def fabric() -> Iterator[Fabric]:
    """The whole fabric, converged; one for all tests of a module."""
    with whole_fabric() as whole:
        yield whole


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failed test shows the ends of its logs, which are about to be removed."""
    report: pytest.TestReport = yield  # type: ignore[assignment]  # a wrapper is sent the result
    arguments = getattr(item, "funcargs", {})
    runs = [arguments["run_dir"]] if "run_dir" in arguments else []
    runs += [value.run for value in arguments.values() if isinstance(value, Fabric)]
    if report.failed:
        purged.failed.update(runs)
    for run in runs if report.failed else ():
        for log in sorted(run.glob("*.log")):
            report.sections.append((log.name, tail(log, 40)))
    return report  # type: ignore[return-value]
