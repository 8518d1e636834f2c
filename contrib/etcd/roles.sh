#!/bin/bash
# Users and roles in etcd: operators write records, a node reads them and writes its own status.
#
#   roles.sh operator [USER] CREDENTIAL             writes nodes and communities, reads everything
#   roles.sh node NAME [--user USER] CREDENTIAL     reads everything, writes status/NAME
#   roles.sh forget NAME [--user USER]              takes a node's user and role away again
#   roles.sh enable CREDENTIAL                      etcd's user root; from now on etcd asks everybody
#
# CREDENTIAL is --password-file FILE, a password without blanks on one line; or --certificate: the
# user comes with a client certificate whose CN is its name. USER is `operator`, or the node's name.
# --prefix PREFIX says below which key the fabric is (/fabric).
#
# Everything is said to etcd by etcdctl, which finds it and proves who it is by its own variables:
# ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY, ETCDCTL_USER=root, ETCDCTL_PASSWORD.
# Done again, a command changes nothing but a password that is another by now. See docs/etcd.md.
set -euo pipefail
export ETCDCTL_API=3

say() { echo "roles.sh: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# ---------------------------------------------------------------- the command line

prefix=/fabric user='' credential='' password='' words=()
while [ $# -gt 0 ]; do
    case $1 in
    --prefix) prefix=${2:?$1 wants a value} && shift ;;
    --user) user=${2:?$1 wants a value} && shift ;;
    --certificate) credential=certificate ;;
    --password-file)
        credential=password
        IFS= read -r password <"${2:?$1 wants a value}" || [ -n "$password" ] ||
            fail "$2 is empty: it has to hold a password"
        [[ $password =~ ^[^[:space:]]+$ ]] ||
            fail "$2: a password with blanks in it can't be told to etcdctl: take another"
        shift
        ;;
    -*) usage ;;
    *) words+=("$1") ;;
    esac
    shift
done
set -- "${words[@]}"
[[ $prefix =~ ^(/[^/[:space:]]+)+$ ]] ||
    fail "--prefix $prefix: has to begin with / and not end with it"

needs_credential() {
    [ -n "$credential" ] || fail "--password-file FILE or --certificate is missing"
}

# ---------------------------------------------------------------- roles

# Whether etcd has this user or role.
known() {
    local names
    names=$(etcdctl "$1" list) || exit 1
    [[ $'\n'$names$'\n' == *$'\n'"$2"$'\n'* ]]
}

# A role that grants exactly this: pairs of `read` or `readwrite`, and a key, or a prefix that ends
# with /. What is there already is not granted again: that would have every user log in anew.
role() {
    local name=$1 wanted reads='' writes='' type key line
    shift
    known role "$name" || etcdctl role add "$name"
    local grants=("$@")
    while [ $# -gt 0 ]; do
        type=$1 key=$2 line=$'\t'$2$'\n'
        case $key in */) line=$'\t'"[$key, ${key%/}0) (prefix $key)"$'\n' ;; esac
        reads+=$line
        [ "$type" = read ] || writes+=$line
        shift 2
    done
    wanted="Role $name"$'\n'"KV Read:"$'\n'$reads"KV Write:"$'\n'${writes%$'\n'}
    [ "$(etcdctl role get "$name")" != "$wanted" ] || return 0
    set -- "${grants[@]}"
    while [ $# -gt 0 ]; do
        type=$1 key=$2
        case $key in
        */) etcdctl role grant-permission "$name" --prefix=true "$type" "$key" ;;
        *) etcdctl role grant-permission "$name" "$type" "$key" ;;
        esac
        shift 2
    done
    [ "$(etcdctl role get "$name")" = "$wanted" ] ||
        say "the role $name grants something else beside: look at etcdctl role get $name"
}

# ---------------------------------------------------------------- users

roles_of() { etcdctl user get "$1" | sed -n 's/^Roles: *//p'; }

# A user has no role but the one that is meant.
may_only() {
    local roles=''
    [ "$1" != root ] || fail "the user root may do everything: choose another with --user"
    ! known user "$1" || roles=$(roles_of "$1")
    [ -z "$roles" ] || [ "$roles" = "$2" ] ||
        fail "the user $1 has the role $roles, not $2: choose another with --user"
}

user() {
    login "$1"
    [ "$(roles_of "$1")" = "$2" ] || etcdctl user grant-role "$1" "$2"
}

# A user that can prove who it is. A password goes through a pipe: arguments are for all to see.
login() {
    if [ "$credential" = certificate ]; then
        known user "$1" || etcdctl user add "$1" --no-password
    else
        local verb=add
        ! known user "$1" || verb=passwd
        etcdctl user "$verb" "$1" --interactive=false <<<"$password"
        logs_in "$1" ||
            fail "the user $1 can't log in with a password: it was made for a certificate." \
                "etcdctl user delete $1, and again"
    fi
}

# What it may read does not matter. As long as etcd does not ask for users, everybody does.
logs_in() {
    local said
    said=$(ETCDCTL_USER=$1 ETCDCTL_PASSWORD=$password etcdctl get "$prefix/" 2>&1) ||
        [[ $said == *"permission denied"* ]]
}

# ---------------------------------------------------------------- commands

[ $# -ge 1 ] || usage
command=$1
shift
case $command in
operator)
    [ $# -le 1 ] || usage
    needs_credential
    name=${1:-operator}
    may_only "$name" "$prefix/operator"
    role "$prefix/operator" \
        read "$prefix/" readwrite "$prefix/communities/" readwrite "$prefix/nodes/"
    user "$name" "$prefix/operator"
    ;;
node)
    [ $# -eq 1 ] || usage
    needs_credential
    [[ $1 =~ ^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$ ]] || fail "$1 is no node's name"
    may_only "${user:-$1}" "$prefix/nodes/$1"
    role "$prefix/nodes/$1" read "$prefix/" readwrite "$prefix/status/$1"
    user "${user:-$1}" "$prefix/nodes/$1"
    ;;
forget)
    [ $# -eq 1 ] || usage
    may_only "${user:-$1}" "$prefix/nodes/$1"
    ! known user "${user:-$1}" || etcdctl user delete "${user:-$1}"
    ! known role "$prefix/nodes/$1" || etcdctl role delete "$prefix/nodes/$1"
    ;;
enable)
    [ $# -eq 0 ] || usage
    needs_credential
    if [ "$credential" = certificate ]; then
        # Nobody could undo it.
        openssl x509 -noout -subject -nameopt multiline <"${ETCDCTL_CERT:-/dev/null}" 2>/dev/null |
            grep -E '^ *commonName *= root$' >/dev/null ||
            fail "ETCDCTL_CERT is no certificate with the CN root, and nobody else could undo this"
    fi
    known role root || etcdctl role add root
    login root
    [ "$credential" = certificate ] || export ETCDCTL_USER=root ETCDCTL_PASSWORD=$password
    etcdctl user grant-role root root
    etcdctl auth enable
    ;;
*) usage ;;
esac
