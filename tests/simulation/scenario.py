"""What happens in a simulation, drawn from a seed: who is there, and one thing after the other.

A scenario is plain data. Leaving steps out of it gives another scenario, which is how a failure is
made smaller; so nothing that happens later may depend on how many steps came before.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

CASTS: Final = (
    ("edge1", "edge2"),
    ("edge1", "gw1"),
    ("edge1", "edge2", "edge3"),
    ("edge1", "edge2", "gw1"),
    ("edge1", "gw1", "gw2"),
    ("edge1", "edge2", "gw1", "gw2"),
)

ADDRESSES: Final = {
    "edge1": "10.20.8.1",
    "edge2": "10.20.8.2",
    "edge3": "10.20.8.3",
    "gw1": "10.20.8.11",
    "gw2": "10.20.8.12",
}
NOBODY: Final = "10.20.8.99"

OWN: Final = {
    "edge1": ("2.2.1.0/27", "2.2.1.32/27"),
    "edge2": ("2.2.2.0/27", "2.2.2.32/27"),
    "edge3": ("2.2.3.0/27", "2.2.3.32/27"),
    "gw1": ("10.233.0.0/16",),
    "gw2": ("10.233.0.0/16",),
}

GHOSTS: Final = {
    "nodes/ghost1": b'{"subnets": ["2.2.9.1/27"]}',
    "nodes/ghost2": b"{",
    "nodes/ghost3": b'{"subnets": ["0.0.0.0/0"], "endpoint": "10.20.8.9"}',
    "nodes/-": b'{"subnets": ["2.2.9.0/27"]}',
    "communities/app9": b'{"members": "all"}',
}
"""Records that nobody can take, under keys of nobody: they never come right."""


@dataclass(frozen=True)
class Step:
    """After `wait` seconds this happens: a function of `steps`, and its arguments."""

    wait: float
    name: str
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.args))})"


@dataclass(frozen=True)
class Scenario:
    """All that a run depends on."""

    seed: int
    cast: tuple[str, ...]
    userspace_esp: bool
    steps: tuple[Step, ...]

    def without(self, dropped: frozenset[int]) -> Scenario:
        """Steps left out: what they were to wait for is waited for all the same."""
        steps = tuple(
            Step(step.wait, "nothing") if number in dropped else step
            for number, step in enumerate(self.steps)
        )
        return replace(self, steps=steps)


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    rng = random.Random(f"scenario {seed}")
    cast = rng.choice(CASTS)
    drawn = _Drawn(rng, cast)
    steps = tuple(drawn.step() for _ in range(rng.randint(2, 9)))
    return Scenario(seed, cast, rng.random() < 0.25, steps)


class _Drawn:
    """Draws one step after the other."""

    def __init__(self, rng: random.Random, cast: tuple[str, ...]) -> None:
        self.rng = rng
        self.cast = cast

    def step(self) -> Step:
        [make] = self.rng.choices([make for _, make in _STEPS], [weight for weight, _ in _STEPS])
        name, *args = make(self)
        wait = self.rng.choice((0.0, 0.05, 0.5, 3.0, 12.0)) * self.rng.uniform(0.5, 1.5)
        return Step(round(wait, 3), name, tuple(args))

    def node(self) -> str:
        return self.rng.choice(self.cast)

    def some(self, low: float, high: float) -> float:
        return round(self.rng.uniform(low, high), 2)

    def two(self) -> tuple[str, str]:
        one, other = self.rng.sample(self.cast, 2)
        return one, other

    def record(self, name: str) -> dict[str, Any]:
        """A record that is right, of this node."""
        rng = self.rng
        if name.startswith("gw"):
            record: dict[str, Any] = {"role": "cloud", "endpoint": ADDRESSES[name]}
            record["subnets"] = [*OWN[name], *rng.choice(([], [], ["10.96.0.0/16"]))]
            record["priority"] = rng.choice((50, 100, 200))
            if rng.random() < 0.2:
                record["drained"] = True
            return record
        record = {"subnets": rng.choice(([OWN[name][0]], [*OWN[name]], [OWN[name][1]]))}
        record["community"] = rng.choice(("app1", "app1", "app1;app2", "app2", ""))
        if rng.random() < 0.8:
            record["endpoint"] = ADDRESSES[name]
        return record

    def wrong(self, name: str) -> Any:
        """What somebody may write there by mistake: text that is no record, or a record."""
        other = self.rng.choice([n for n in self.cast if n != name])
        return self.rng.choice(
            (
                "{",
                "[]",
                {"subnets": []},
                {"subnets": ["2.2.9.1/27"]},
                {"subnets": ["0.0.0.0/0"]},
                {"subnets": [OWN[other][0]], "endpoint": ADDRESSES[name], "community": "app1"},
                {"subnets": ["2.2.0.0/16"], "endpoint": ADDRESSES[name], "community": "app1"},
                {"subnets": [OWN[name][0]], "endpoint": NOBODY, "community": "app1"},
                {"subnets": [OWN[name][0]], "community": 5},
                {"subnets": [OWN[name][0]], "identity": "CN=*"},
            )
        )

    # ------------------------------------------------------------ steps

    def put(self) -> tuple[Any, ...]:
        name = self.node()
        return "put", name, self.record(name)

    def put_wrong(self) -> tuple[Any, ...]:
        name = self.node()
        return "put", name, self.wrong(name)

    def put_many(self) -> tuple[Any, ...]:
        return "put_many", {name: self.record(name) for name in self.cast}

    def by_hand(self) -> tuple[Any, ...]:
        return "by_hand", self.node(), self.rng.choice(DAMAGE)

    def foreign(self) -> tuple[Any, ...]:
        return "by_hand", self.node(), self.rng.choice(FOREIGN)

    def sa(self) -> tuple[Any, ...]:
        what = self.rng.choice(("forget_sa", "end_sa", "end_child", "rekey"))
        return what, self.node(), self.rng.randrange(4)


DAMAGE: Final = (
    "link delete fabric0",
    "link delete br-edge",
    "link set fabric0 down",
    "link set br-edge down",
    "address delete 2.2.1.1/27 dev br-edge",
    "address delete 2.2.2.1/27 dev br-edge",
    "route delete 2.2.1.0/27 table 198",
    "route delete 2.2.2.0/27 table 198",
    "route delete 10.233.0.0/16 table 198",
    "route delete 2.0.0.0/8 table 198",
    "route delete 2.0.0.0/8 table main",
    "route replace 2.2.2.0/27 dev eth0 table 198 metric 100 protocol 198",
    "route replace blackhole 2.2.1.0/27 table 198 metric 100 protocol 198",
    "route add 9.9.9.0/24 dev eth0 table 198 metric 5 protocol 198",
    "rule delete priority 198",
    "rule delete priority 197",
    "rule add priority 199 table 77 protocol 198",
)
"""What hands do to what is ours: some of it is not there on every node."""

FOREIGN: Final = (
    "link add docker0 type bridge",
    "link set docker0 up",
    "route add 2.2.2.0/27 dev eth0 table 198 metric 100",
    "route add 172.16.0.0/12 dev eth0",
    "route add blackhole 2.0.0.0/8",
    "rule add priority 300 table 77",
    "rule add priority 198 table 77",
    "address add 192.0.2.7/24 dev eth0",
    "route delete 172.16.0.0/12",
    "link delete docker0",
)
"""What others do beside us."""

REFUSED_LOADS: Final = ("conn.load", "key.load")
REFUSED_SETS: Final = ("route.set", "rule.add", "link.add")

_STEPS: Final[tuple[tuple[int, Callable[[_Drawn], tuple[Any, ...]]], ...]] = (
    (10, _Drawn.put),
    (6, _Drawn.put_wrong),
    (3, _Drawn.put_many),
    (3, lambda d: ("delete", d.node())),
    (1, lambda d: ("delete_all",)),
    (2, lambda d: ("community", d.rng.choice(("app1", "app2")), [d.node(), d.node()])),
    (2, lambda d: ("ghost", d.rng.choice(sorted(GHOSTS)))),
    (3, lambda d: ("store_down", d.some(0.5, 40))),
    (3, lambda d: ("store_cut", d.node(), d.some(0.5, 40))),
    (2, lambda d: ("store_late", d.node(), d.some(0.5, 6))),
    (2, lambda d: ("store_doubt",)),
    (2, lambda d: ("store_repeat",)),
    (1, lambda d: ("store_compact",)),
    (2, lambda d: ("store_wipe",)),
    (2, lambda d: ("store_restore", d.rng.randrange(6))),
    (6, lambda d: ("mood", d.node(), d.rng.choice(("late", "twice", "lost")), d.some(1, 40))),
    (2, lambda d: ("overrun", d.node())),
    (5, lambda d: ("charon_kill", d.node(), d.some(0.01, 30))),
    (3, lambda d: ("charon_stop", d.node(), d.some(0.01, 30))),
    (4, lambda d: ("charon_hang", d.node(), d.some(0.5, 60))),
    (
        2,
        lambda d: (
            "charon_refuses",
            d.node(),
            d.rng.choice(("conn.load", "key.load")),
            d.some(1, 30),
        ),
    ),
    (2, lambda d: ("unload", d.node(), d.rng.randrange(4))),
    (8, _Drawn.sa),
    (6, lambda d: ("cut", *d.two(), d.some(0.5, 60))),
    (2, lambda d: ("alone", d.node(), d.some(0.5, 60))),
    (4, lambda d: ("clock", d.node(), d.rng.choice((-86400, -3600, -60, 60, 3600, 86400)))),
    (8, lambda d: ("kill", d.node(), d.some(0, 20))),
    (8, lambda d: ("kill_after", d.node(), d.rng.randrange(1, 25), d.some(0, 5))),
    (2, lambda d: ("hup", d.node())),
    (3, lambda d: ("renew", d.node())),
    (1, lambda d: ("disk_full", d.node(), d.some(1, 40))),
    (1, lambda d: ("disk_damaged", d.node())),
    (1, lambda d: ("kernel_away", d.node(), d.some(1, 20))),
    (
        2,
        lambda d: (
            "kernel_refuses",
            d.node(),
            d.rng.choice(("route.set", "rule.add", "link.add")),
            d.some(1, 20),
        ),
    ),
    (10, _Drawn.by_hand),
    (4, _Drawn.foreign),
)
