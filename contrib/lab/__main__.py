"""`python -m lab demo|up|down`: show the fabric, leave one up to play with, remove it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from lab import rundir
from lab.demo import Narrator
from lab.fabric import PODS, Fabric
from lab.process import LabError

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

COMPLETE = "complete"
"""A file in the run directory of a lab that came up whole."""


def main() -> int:
    arguments = _arguments()
    if os.geteuid() != 0:
        print("the lab makes network namespaces: run it as root", file=sys.stderr)
        return 2
    for number in ENDINGS:
        signal.signal(number, _interrupt)
    run = Path("/run") / f"lab-{arguments.prefix.strip('-')}"
    try:
        with rundir.claim(run):
            return int(arguments.command(arguments, run))
    except LabError as error:
        print(error, file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for command, prefix, about in (
        (demo, "demo-", "build the fabric, try it, remove it"),
        (up, "fab-", "build the fabric and leave it up"),
        (down, "fab-", "remove what `up` left"),
    ):
        sub = commands.add_parser(command.__name__, help=about, description=about)
        sub.set_defaults(command=command)
        sub.add_argument("--prefix", default=prefix, help="of the namespaces' names (%(default)s)")
        sub.add_argument(
            "--esp",
            choices=("auto", "kernel", "userspace"),
            default="auto",
            help="who encrypts: the kernel, or charon where the kernel can't (%(default)s)",
        )
    return parser.parse_args()


def demo(arguments: argparse.Namespace, run: Path) -> int:
    """Removes everything, however it ends."""
    try:
        _say(rundir.clear(run))
        return 0 if Narrator(_fabric(arguments, run)).run() else 1
    finally:
        _remove(run)


def up(arguments: argparse.Namespace, run: Path) -> int:
    """Leaves either a whole lab or none."""
    if (run / COMPLETE).exists() and rundir.all_alive(run):
        print("It is up already.\n")
    else:
        try:
            _say(rundir.clear(run))
            fabric = _fabric(arguments, run)
            fabric.start_all()
            fabric.wait_converged()
        except BaseException:
            _remove(run)
            raise
        (run / COMPLETE).touch()
    _explain(arguments.prefix, run)
    return 0


def down(_: argparse.Namespace, run: Path) -> int:
    _say(_remove(run))
    return 0


def _fabric(arguments: argparse.Namespace, run: Path) -> Fabric:
    userspace = {"auto": None, "kernel": False, "userspace": True}[arguments.esp]
    return Fabric(arguments.prefix, run, userspace_esp=userspace)


def _remove(run: Path) -> list[str]:
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave the half
    return rundir.remove(run)


def _say(removed: list[str]) -> None:
    for what in removed:
        print(f"removed {what}")


def _interrupt(number: int, _: FrameType | None) -> None:
    print(f"{signal.Signals(number).name}: removing everything", file=sys.stderr)
    sys.exit(128 + number)


def _explain(prefix: str, run: Path) -> None:
    scripts = Path(sys.executable).parent
    pods = "\n".join(f"  {pod.ip:<12} {prefix}{pod.name:<10} on {pod.node}" for pod in PODS)
    print(f"""\
The fabric is up: namespaces {prefix}*, files and logs in {run}. `make lab-down` removes it.

Pods:
{pods}

Look at edge2's daemon:
  ip netns exec {prefix}edge2 {scripts}/fabricctl status --config {run}/edge2.toml
Ping from pod to pod:
  ip netns exec {prefix}pod-edge2 ping 2.2.2.34
Enter a node:
  ip netns exec {prefix}edge2 bash
Take edge3 out of its community, and see the ping between the edges stop:
  ip netns exec {prefix}node1 etcdctl --endpoints http://10.20.8.141:2379 put /fabric/nodes/edge3 \\
    '{{"role": "edge", "endpoint": "10.20.8.12", "subnets": ["2.2.2.32/27"]}}'
See charon's view:
  swanctl --list-sas --uri unix://{run}/edge2-charon.vici""")


if __name__ == "__main__":
    sys.exit(main())
