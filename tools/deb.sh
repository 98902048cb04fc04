#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the Debian packages of this tree in a copy of it and leaves them in BUILD/deb. Usage: tools/deb.sh BUILD [CUDA]
# CUDA=1 makes sparkd-cuda, too. Objects are kept in the copy: a second run compiles what has changed.
set -eu

build=$1
cuda=${2:-0}
out=$build/deb
tree=$out/sparkd

version=$(sed -n 's/^VERSION := //p' Makefile)
if [ "$(sed -n '1s/.*(\([0-9.]*\).*/\1/p' debian/changelog)" != "$version" ]; then
        echo "deb: debian/changelog begins with another version than the Makefile's $version" >&2
        exit 1
fi

mkdir -p "$tree"
find "$tree" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
rm -f "$out"/*.deb "$out"/*.buildinfo "$out"/*.changes
# What git knows of, as it stands here; or all, where this is no checkout.
if git ls-files -z --cached --others --exclude-standard >"$out/files" 2>/dev/null && [ -s "$out/files" ]; then
        tar -c --null --no-recursion --ignore-failed-read -T "$out/files" 2>/dev/null | tar -x -C "$tree"
else
        tar -c --exclude="./$build" --exclude=./.git . | tar -x -C "$tree"
fi
rm -f "$out/files"

# Settings of the make that called us are not the packages': debian/rules says what they are built with.
unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL CFLAGS CPPFLAGS CXXFLAGS LDFLAGS
DEB_BUILD_OPTIONS=${DEB_BUILD_OPTIONS-nocheck parallel=$(nproc)}
DEB_BUILD_PROFILES=${DEB_BUILD_PROFILES-nocheck$([ "$cuda" != 1 ] || echo " pkg.sparkd.cuda")}
export DEB_BUILD_OPTIONS DEB_BUILD_PROFILES
cd "$tree"
log=../build.log
if ! dpkg-buildpackage --build=binary --no-sign --no-pre-clean >$log 2>&1; then
        cat $log >&2
        exit 1
fi
cd ..
for deb in *.deb; do
        echo "$out/$deb"
done
