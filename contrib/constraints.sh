#!/bin/bash
# Resolves the dependencies of pyproject.toml anew, with hashes, for every Python that it allows:
#   constraints.txt      what fabricd needs to be built and to run
#   constraints-dev.txt  the same, and what its development needs
# Neither names a package index: that is the machine's own affair.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-/usr/bin/python3}" -m venv "$tools"
"$tools/bin/pip" install -qq uv

resolve() {
    "$tools/bin/uv" pip compile --quiet --universal --python-version 3.11 \
        --generate-hashes --no-emit-index-url --no-annotate --upgrade \
        --custom-compile-command 'make constraints' \
        pyproject.toml contrib/build-requirements.in "$@"
}

resolve --output-file constraints.txt
resolve --extra dev --constraints constraints.txt --output-file constraints-dev.txt
