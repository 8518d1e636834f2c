#!/bin/bash
# Makes a Debian machine able to run the lab and the tests: Debian packages, and the virtual
# environment in .venv. What is done already is not done again, which takes a moment only.
#
#   contrib/setup.sh          everything
#   PYTHON=python3.12 …       with another Python than Debian's own
set -euo pipefail
cd "$(dirname "$0")/.."

packages=contrib/debian-packages.txt
python=${PYTHON:-/usr/bin/python3}
policy=/usr/sbin/policy-rc.d
kept=$policy.before-fabricd

say() { echo "setup: $*" >&2; }

missing_packages() {
    local names
    sed 's/#.*//' "$packages" | xargs -n1 | while IFS='|' read -ra names; do
        # One of several that bring the same is enough; the first is the one to install.
        case $(dpkg-query -W -f '${db:Status-Status} ' "${names[@]}" 2>/dev/null) in
            'installed '* | *' installed '*) ;;
            *) echo "${names[0]}" ;;
        esac
    done
}

# The packages bring services, and the lab wants none of them in the machine's own network:
# not now (policy-rc.d, as invoke-rc.d(8) asks it), and not at the next boot.
guard_services() {
    if [ -e "$policy" ] && [ ! -e "$kept" ]; then mv "$policy" "$kept"; fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

unguard_services() {
    rm -f "$policy"
    if [ -e "$kept" ]; then mv "$kept" "$policy"; fi
}

disable_services() {
    local unit
    command -v systemctl >/dev/null || return 0
    for unit in $(dpkg-query -L "$@" | sed -n 's#.*/systemd/system/\([^/]*\.service\)$#\1#p'); do
        systemctl --quiet disable "$unit" 2>/dev/null || say "could not disable $unit"
    done
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_packages)
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        say "these Debian packages are missing, and only root can install them: ${missing[*]}"
        exit 1
    fi
    say "installing ${missing[*]}"
    trap unguard_services EXIT
    guard_services
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends \
        "${missing[@]}" >/dev/null
    unguard_services
    trap - EXIT
    disable_services "${missing[@]}"
}

# Everything is installed by hash. etcd3 comes as source only; with pip's build isolation its
# setuptools would be fetched outside of the constraints, hence none, and setuptools first.
# fabricd itself stands beside them as it is here; only its programs follow pyproject.toml.
make_venv() {
    local wanted stamp=.venv/.setup
    wanted=$(cat constraints-dev.txt contrib/setup.sh <("$python" --version; pwd) | sha256sum)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return 0; fi
    say "installing Python packages into .venv"
    "$python" -m venv --clear .venv
    build_requirements >.venv/build-requirements.txt
    pip_install -r .venv/build-requirements.txt
    pip_install -r constraints-dev.txt
    echo "$wanted" >"$stamp"
}

install_fabricd() {
    local wanted stamp=.venv/.fabricd
    wanted=$(sha256sum <pyproject.toml)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return 0; fi
    .venv/bin/pip install -qq --no-deps --no-build-isolation --editable .
    echo "$wanted" >"$stamp"
}

build_requirements() {
    awk '/^[a-z]/ { wanted = /^(setuptools|wheel|packaging)==/ } wanted' constraints-dev.txt
}

pip_install() {
    .venv/bin/pip install -qq --no-deps --require-hashes --no-build-isolation "$@"
}

mkdir -p .cache
exec 9>.cache/setup.lock # one at a time
flock 9
if [ -e "$kept" ]; then unguard_services; fi # an earlier set-up was killed
install_packages
make_venv
install_fabricd
