"""`fabricd --config PATH`: the command line of the daemon."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fabricd import __version__
from fabricd.config import ConfigError, load

DEFAULT_CONFIG = Path("/etc/fabricd/fabricd.toml")


def main() -> None:
    """Check the config, then run until a signal; exit status 2 for a wrong config."""
    parser = argparse.ArgumentParser(
        prog="fabricd", description="Keeps one node's part of an IPsec fabric as the records say."
    )
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="PATH")
    parser.add_argument("--check-config", action="store_true", help="only check the config")
    parser.add_argument("--debug", action="store_true", help="log more")
    parser.add_argument("--version", action="version", version=f"fabricd {__version__}")
    arguments = parser.parse_args()
    try:
        config = load(arguments.config)
    except ConfigError as error:
        sys.stderr.writelines(f"fabricd: {fault}\n" for fault in error.faults)
        sys.exit(2)
    if arguments.check_config:
        return
    # structlog draws tracebacks with rich where it finds it: 4 MB for a daemon that has no use
    # for it.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    # Heavy parts are loaded only now: a check of the config need not wait for them.
    import trio  # noqa: PLC0415

    from fabricd import log  # noqa: PLC0415
    from fabricd.daemon.daemon import run  # noqa: PLC0415

    log.configure(debug=arguments.debug)
    trio.run(run, config)


if __name__ == "__main__":
    main()
