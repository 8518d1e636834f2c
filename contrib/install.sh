#!/bin/bash
# Installs fabricd on this node, or takes it away again: `make install`, `make uninstall`.
#
#   contrib/install.sh install
#   contrib/install.sh uninstall           also what fabricd made in the kernel and in charon
#   contrib/install.sh uninstall --purge   also /etc/fabricd: the config, certificates and keys
#
#   DESTDIR=DIR     install below DIR and touch nothing of the running system, as packagers do
#   PREFIX=/usr     instead of /usr/local
#   PYTHON=…        instead of /usr/bin/python3; the virtual environment goes on needing it
#
# pip finds packages as it always does; PIP_NO_INDEX=1 PIP_FIND_LINKS=DIR lets it do without a
# network.
set -euo pipefail
cd "$(dirname "$0")/.."

destdir=${DESTDIR:-}
prefix=${PREFIX:-/usr/local}
python=${PYTHON:-/usr/bin/python3}
home=/opt/fabricd
programs=(fabricd fabricctl fabric-cni)

# What goes where beside the virtual environment: source, target.
files=(
    systemd/fabricd.service "$prefix/lib/systemd/system/fabricd.service"
    systemd/fabricd-netns.socket "$prefix/lib/systemd/system/fabricd-netns.socket"
    systemd/fabricd-netns.service "$prefix/lib/systemd/system/fabricd-netns.service"
    systemd/fabricd.sysusers "$prefix/lib/sysusers.d/fabricd.conf"
    systemd/fabricd.tmpfiles "$prefix/lib/tmpfiles.d/fabricd.conf"
    systemd/fabricd.sysctl "$prefix/lib/sysctl.d/60-fabricd.conf"
    contrib/strongswan/fabricd.conf /etc/strongswan.d/fabricd.conf
    contrib/fabricd.toml "$prefix/share/doc/fabricd/examples/fabricd.toml"
    contrib/strongswan/large-gateway.conf "$prefix/share/doc/fabricd/examples/large-gateway.conf"
    LICENSE "$prefix/share/doc/fabricd/copyright"
)

# Files that are made here, or not at all: their targets, to be removed again. What is in /usr is a
# vendor's to Debian's zsh.
zsh=$([ "$prefix" = /usr ] && echo vendor-completions || echo site-functions)
made=(
    "$prefix/share/man/man1/fabricctl.1"
    "$prefix/share/man/man5/fabricd.toml.5"
    "$prefix/share/man/man8/fabricd.8"
    "$prefix/share/bash-completion/completions/fabricctl"
    "$prefix/share/zsh/$zsh/_fabricctl"
    "$prefix/share/fish/vendor_completions.d/fabricctl.fish"
)

say() { echo "fabricd: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

booted_with_systemd() { [ -d /run/systemd/system ]; }

# The environment is made beside the one in use and takes its place when it is whole. Everything is
# installed by hash, without build isolation, for which pip would fetch what no constraint names.
# What only built it goes.
make_environment() {
    local new=$destdir$home.new
    work=$(mktemp -d)
    trap 'rm -rf "$work" "$destdir$home.new"' EXIT
    rm -rf "$new"
    mkdir -p "$(dirname "$new")"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$python is too old: fabricd needs Python 3.11 or later"
    "$python" -m venv "$new" || fail "no virtual environment: apt-get install python3-venv"
    cp -r LICENSE README.md pyproject.toml fabricd "$work"
    awk '/^[a-z]/ { wanted = /^(setuptools|wheel|packaging)==/ } wanted' constraints.txt \
        >"$work/build.txt"
    pip_install "$new" --require-hashes -r "$work/build.txt"
    pip_install "$new" --require-hashes -r constraints.txt
    pip_install "$new" "$work"
    "$new/bin/pip" -qq uninstall -y setuptools wheel packaging pip
    # A container's start waits for it, and it needs none of the packages: without them it starts
    # in two thirds of the time.
    { echo "#!$python -IS" && cat fabricd/cni/plugin.py; } >"$new/bin/fabric-cni"
    # Scripts name their interpreter by the path at which they were made.
    grep -rlIF "$new" "$new/bin" "$new/pyvenv.cfg" | xargs sed -i "s#$new#$home#g"
    rm -f "$new"/bin/[Aa]ctivate*
    rm -rf "$destdir$home.old"
    if [ -d "$destdir$home" ]; then mv "$destdir$home" "$destdir$home.old"; fi
    mv "$new" "$destdir$home"
    rm -rf "$destdir$home.old" "$work"
    trap - EXIT
}

pip_install() {
    PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
        "$1/bin/pip" install -q --no-cache-dir --no-deps --no-build-isolation "${@:2}"
}

install_files() {
    local i program
    for ((i = 0; i < ${#files[@]}; i += 2)); do
        install -D -m 0644 "${files[i]}" "$destdir${files[i + 1]}"
    done
    for program in "${programs[@]}"; do
        [ -e "$destdir$home/bin/$program" ] || continue
        mkdir -p "$destdir$prefix/bin"
        ln -sf "$home/bin/$program" "$destdir$prefix/bin/$program"
    done
    # Where container runtimes look for their plugins, if there are any.
    if [ -d "$destdir/opt/cni/bin" ]; then
        ln -sf "$home/bin/fabric-cni" "$destdir/opt/cni/bin/fabric-cni"
    fi
}

# The man pages, if `make man` has built them, and what fabricctl has to say to shells.
make_files() {
    local target page shell
    for target in "${made[@]}"; do
        page=build/man/$(basename "$target")
        if [ -e "$page" ]; then install -D -m 0644 "$page" "$destdir$target"; fi
        case $target in
            */bash-completion/*) shell=bash ;;
            */zsh/*) shell=zsh ;;
            */fish/*) shell=fish ;;
            *) continue ;;
        esac
        mkdir -p "$destdir$(dirname "$target")"
        "$destdir$home/bin/python" -c 'from fabricd.cli.main import main; main()' \
            completion "$shell" >"$destdir$target"
        chmod 0644 "$destdir$target"
    done
}

activate() {
    systemd-sysusers fabricd.conf
    systemd-tmpfiles --create fabricd.conf
    booted_with_systemd || return 0
    "$(command -v systemd-sysctl || echo /lib/systemd/systemd-sysctl)" \
        "$prefix/lib/sysctl.d/60-fabricd.conf"
    systemctl daemon-reload
    systemctl try-restart fabricd
    [ ! -e /etc/systemd/system/fabricd.service ] ||
        say "/etc/systemd/system/fabricd.service is used instead of the unit installed: remove it"
}

next_steps() {
    [ ! -e /etc/fabricd/fabricd.toml ] || return 0
    say "installed. Next:"
    say "  cp $prefix/share/doc/fabricd/examples/fabricd.toml /etc/fabricd/, and edit it"
    say "  put the node's certificates into /etc/fabricd/pki"
    say "  systemctl restart strongswan, so that it reads /etc/strongswan.d/fabricd.conf"
    say "  systemctl enable --now fabricd"
}

# While fabricctl is still there: afterwards nobody knows what is fabricd's.
withdraw() {
    if booted_with_systemd; then
        systemctl -q disable --now fabricd fabricd-netns.socket 2>/dev/null || true
        systemctl -q stop fabricd-netns.service 2>/dev/null || true
    fi
    if [ -x "$home/bin/fabricctl" ] && [ -e /etc/fabricd/fabricd.toml ]; then
        "$home/bin/fabricctl" purge >&2 || say "what is named above stays in the kernel or charon"
    fi
}

remove_files() {
    local i program target
    rm -rf "$destdir$home"
    for program in "${programs[@]}"; do rm -f "$destdir$prefix/bin/$program"; done
    rm -f "$destdir/opt/cni/bin/fabric-cni"
    for ((i = 1; i < ${#files[@]}; i += 2)); do
        rm -f "$destdir${files[i]}"
        remove_empty "$(dirname "$destdir${files[i]}")"
    done
    for target in "${made[@]}"; do
        rm -f "$destdir$target"
        remove_empty "$(dirname "$destdir$target")"
    done
}

# A directory that is empty now, and those above it, but none that every system has.
remove_empty() {
    case $1 in
        *"$prefix/lib" | *"$prefix/share" | *"$prefix/share/man") return 0 ;;
    esac
    if rmdir "$1" 2>/dev/null; then remove_empty "$(dirname "$1")"; fi
}

remove_traces() {
    rm -rf --one-file-system /var/lib/fabricd-root
    rm -rf /var/lib/fabricd /run/fabricd /var/lib/cni/networks/fabric
    rmdir /var/lib/cni/networks /var/lib/cni 2>/dev/null || true
    rm -f /etc/cni/net.d/10-fabric.conflist
    if [ "$1" = --purge ]; then rm -rf /etc/fabricd; fi
    rmdir /etc/fabricd/pki /etc/fabricd 2>/dev/null || true
    if getent passwd fabricd >/dev/null; then
        userdel fabricd || say "the user fabricd is left"
    fi
    if booted_with_systemd; then
        systemctl daemon-reload
        systemctl reset-failed fabricd 2>/dev/null || true
    fi
    if [ -e /etc/fabricd ]; then
        say "left: $(find /etc/fabricd -type f -printf '%p ')(make uninstall PURGE=yes)"
    fi
}

if [ -z "$destdir" ]; then
    [ "$(id -u)" -eq 0 ] || fail "only root can do that"
    ! dpkg-query -W -f '${db:Status-Status}' fabricd 2>/dev/null | grep -qx installed ||
        fail "the Debian package fabricd is installed: apt-get remove fabricd, or upgrade that"
fi
case ${1:-} in
    install)
        make_environment
        install_files
        make_files
        if [ -z "$destdir" ]; then
            activate
            next_steps
        fi
        ;;
    uninstall)
        if [ -z "$destdir" ]; then withdraw; fi
        remove_files
        if [ -z "$destdir" ]; then remove_traces "${2:-}"; fi
        ;;
    *) fail "usage: contrib/install.sh install | uninstall [--purge]" ;;
esac
