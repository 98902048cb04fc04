#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Names the Debian/Ubuntu packages that a goal needs and installs those that are missing.
# Usage: tools/deps.sh [--check] build|test|gpu|system|deb|cross|lint ...
#   --check  only name what is missing; exit 1 if anything is
set -eu

packages() {
        case "$1" in
        build) echo "gcc g++ libc6-dev make pkg-config protobuf-compiler protobuf-c-compiler libprotobuf-c-dev libsystemd-dev
                     libconfig-dev liburing-dev libseccomp-dev libsqlite3-dev libncurses-dev nettle-dev libjson-c-dev libxxhash-dev" ;;
        test) echo "libcmocka-dev python3 python3-protobuf python3-dbus python3-dbusmock python3-gi dbus libglib2.0-bin mandoc
                    groff-base systemd valgrind procps python3-numpy zsh fish" ;;
        gpu) echo "libcmocka-dev python3 python3-protobuf" ;;
        cross) echo "crossbuild-essential-arm64 qemu-user-static libsystemd-dev:arm64 libprotobuf-c-dev:arm64
                     libconfig-dev:arm64 liburing-dev:arm64 libseccomp-dev:arm64 libsqlite3-dev:arm64
                     libncurses-dev:arm64 nettle-dev:arm64 libjson-c-dev:arm64 libxxhash-dev:arm64 libcmocka-dev:arm64" ;;
        system) echo "systemd systemd-container dbus polkitd libglib2.0-bin" ;;
        deb) echo "debhelper dpkg-dev lintian" ;;
        lint) echo "clang-tidy cppcheck" ;;
        fuzz) echo "clang" ;;
        *) echo "deps: no package group '$1' (build, test, gpu, system, deb, cross, lint, fuzz)" >&2; exit 64 ;;
        esac
}

check_only=0
if [ "${1:-}" = "--check" ]; then
        check_only=1
        shift
fi

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        wanted=$(for group in "$@"; do packages "$group"; done)
        echo "deps: this is not a Debian or Ubuntu system; please install the counterparts of:" $wanted >&2
        exit 1
fi

missing=""
native=$(dpkg --print-architecture)
for group in "$@"; do
        for package in $(packages "$group"); do
                # an arm64 machine needs no cross packages
                case "$package" in
                *:"$native") package=${package%:*} ;;
                crossbuild-essential-*|qemu-user-static) [ "$native" = arm64 ] && continue ;;
                esac
                state=$(dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | head -n 1) || state=""
                [ "$state" = installed ] || missing="$missing $package"
        done
done
[ -n "$missing" ] || exit 0

echo "deps: missing:$missing" >&2
[ "$check_only" = 0 ] || exit 1

root=""
if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
                echo "deps: not root and no sudo; as root run: apt-get install$missing" >&2
                exit 77
        fi
        root=sudo
fi

case "$missing" in
*:arm64*)
        if ! dpkg --print-foreign-architectures | grep -qx arm64; then
                # Ubuntu keeps arm64 on another server, which its default sources do not name
                if ! grep -qi '^ID=debian' /etc/os-release; then
                        echo "deps: arm64 packages need a package source that this system does not have by default" >&2
                        exit 1
                fi
                $root dpkg --add-architecture arm64
        fi
        ;;
esac
echo "deps: installing with apt-get" >&2
$root apt-get update -qq
# shellcheck disable=SC2086
$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
