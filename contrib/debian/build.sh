#!/bin/bash
# Builds build/fabricd_VERSION_ARCHITECTURE.deb: what contrib/install.sh installs, with /usr for
# /usr/local, and the maintainer scripts beside this file. It fits the Debian release that it is
# built on, whose Python the virtual environment needs. Nothing is needed but dpkg and python3-venv.
#
#   VERSION=0.2.0~rc1   instead of fabricd's own
set -euo pipefail
cd "$(dirname "$0")/../.."

own=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' fabricd/__init__.py)
version=${VERSION:-$own}
architecture=$(dpkg --print-architecture)
python=$("${PYTHON:-/usr/bin/python3}" -c 'import sys; print("3.%d" % sys.version_info[1])')
tree=build/deb
package=build/fabricd_${version}_$architecture.deb

rm -rf "$tree"
mkdir -p "$tree"
chmod 0755 "$tree"
DESTDIR=$PWD/$tree PREFIX=/usr contrib/install.sh install

mkdir -m 0755 "$tree/DEBIAN"
echo /etc/strongswan.d/fabricd.conf >"$tree/DEBIAN/conffiles"
(cd "$tree" && find opt usr -type f -print0 | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
for script in postinst prerm postrm; do
    install -m 0755 "contrib/debian/$script" "$tree/DEBIAN/$script"
done
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" \
    -e "s/@SIZE@/$(du -sk --exclude=DEBIAN "$tree" | cut -f1)/" \
    -e "s/@PYTHON@/$python/" -e "s/@NEXT_PYTHON@/3.$((${python#3.} + 1))/" \
    contrib/debian/control >"$tree/DEBIAN/control"

dpkg-deb --root-owner-group -Zzstd --build "$tree" "$package" >/dev/null
rm -rf "$tree"
echo "$package"
