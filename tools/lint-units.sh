#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The units are sound (systemd-analyze verify) and closed (security, exposure times ten). Usage: tools/lint-units.sh BUILD
set -eu

build=$1
limit=15
dir=$build/units
mkdir -p "$dir"
# verify wants the program to exist; what it is does not matter
sed "s#@BINDIR@/sparkd#/bin/true#" systemd/sparkd.service >"$dir/sparkd.service"
cp systemd/sparkd.socket "$dir/"
said=$(systemd-analyze verify --man=no "$dir/sparkd.service" "$dir/sparkd.socket" 2>&1 | grep "$dir" || true)
if [ -n "$said" ]; then
        echo "$said"
        exit 1
fi
systemd-analyze security --offline=yes --threshold=$limit "$dir/sparkd.service" >"$dir/security.txt" 2>&1 || {
        cat "$dir/security.txt"
        exit 1
}
tail -n 1 "$dir/security.txt"
