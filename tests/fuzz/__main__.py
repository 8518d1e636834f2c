"""`python -m tests.fuzz [--seconds N] [TARGET …]`: look for input that breaks a surface.

libFuzzer by way of atheris: it keeps what reaches new code in a corpus in .cache/fuzz, which later
runs begin with. What it finds is left in .cache/fuzz/found; mended, it belongs into
tests/fuzz/regressions/TARGET. Exit status 1: something was found.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = ROOT / ".cache/fuzz"

INSTRUMENTED: Final = ["fabricd", "tomllib", "h11", "vici"]

LIMITS: Final = ("-timeout=10", "-rss_limit_mb=2048", "-max_len=8192", "-verbosity=0")
"""Seconds for one input, memory, bytes of one input; and few words."""


def main() -> int:
    """Each target in a process of its own: libFuzzer never comes back."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target [60]")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--list", action="store_true", help="name all targets")
    parser.add_argument("target", nargs="*", help="all, if none is named")
    arguments = parser.parse_args()
    if arguments.inside:
        _fuzz(arguments.inside, arguments.seconds)
    from tests.fuzz.targets import TARGETS

    if arguments.list:
        print("\n".join(TARGETS))
        return 0
    if unknown := set(arguments.target) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}; see --list")
    failed = [
        name
        for name in arguments.target or TARGETS
        if subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.fuzz",
                "--inside",
                name,
                "--seconds",
                str(arguments.seconds),
            ],
            check=False,
            cwd=ROOT,
        ).returncode
    ]
    for name in failed:
        print(f"{name}: see {CACHE / 'found'}", file=sys.stderr)
    return 1 if failed else 0


def _fuzz(name: str, seconds: int) -> None:
    import atheris  # type: ignore[import-untyped]  # it has no types

    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    corpus, found = CACHE / name, CACHE / "found"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    for sample in target.seeds():
        (corpus / hashlib.sha1(sample, usedforsecurity=False).hexdigest()).write_bytes(sample)
    options = [f"-max_total_time={seconds}", *LIMITS, f"-artifact_prefix={found}/{name}-"]
    if target.words:
        dictionary = CACHE / f"{name}.dict"
        dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
        options.append(f"-dict={dictionary}")
    print(f"== {name}", flush=True)
    atheris.Setup([sys.argv[0], str(corpus), *options], target.check)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    sys.exit(main())
