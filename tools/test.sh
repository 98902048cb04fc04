#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Everything that CI runs, part after part; the closing line adds up what all parts said.
# Usage: tools/test.sh BUILD MAKE
set -u

build=$1
make=$2
record=$build/test-counts
failed=0
jobs=$(nproc)

# The two GPUs that matter most: more take longer to compile and show nothing else.
export CUDA_ARCHS="${CUDA_ARCHS:-90 121}"

mkdir -p "$build"
: >"$record"

part() {
        name=$1
        shift
        echo "==> $name"
        began=$(date +%s)
        "$@" || { failed=1; echo "==> $name FAILED"; }
        echo "==> $name took $(($(date +%s) - began)) s"
}

# Most tests leave a processor idle: what only compiles and looks is done beside them, by whoever has time. Each has a log, which its
# part shows; begins when the headers that are made are there.
beside() {
        name=$1
        shift
        { nice -n 19 "$@" >"$build/$name.log" 2>&1 && echo 0 || echo 1; } >"$build/$name.rc" &
        eval "beside_$name=$!"
}

finish() {
        eval "wait \$beside_$1"
        cat "$build/$1.log"
        return "$(cat "$build/$1.rc")"
}

# A part of something that was begun beside others.
after() {
        finish "$1" || return 1
        shift
        "$@"
}

root=no
[ "$(id -u)" != 0 ] || ! tools/deps.sh system || root=yes
# Where the distribution has no packages for a second architecture that part is left out, and says so.
cross=no
! tools/deps.sh cross || cross=yes
packages=no
[ "$root" = no ] || ! tools/deps.sh deb || packages=yes

part "build" "$make" --no-print-directory -j"$jobs" BUILD="$build" all unit
beside lint "$make" --no-print-directory -j"$jobs" BUILD="$build" lint
# package-test finds what was compiled
[ "$packages" = no ] || beside deb tools/deb.sh "$build" 0
part "tests" "$make" --no-print-directory -j"$jobs" BUILD="$build" RECORD="$record" check
part "cuda: kernels compile and do not spill" "$make" --no-print-directory -j"$jobs" BUILD="$build" RECORD="$record" cuda-check
beside tsan_build "$make" --no-print-directory -j1 BUILD="$build" tsan-build
[ "$cross" = no ] || beside cross_build "$make" --no-print-directory -j1 BUILD="$build" cross-build
part "sanitizers: address, undefined" "$make" --no-print-directory -j"$jobs" BUILD="$build" RECORD="$record" asan
part "sanitizers: thread" after tsan_build "$make" --no-print-directory -j"$jobs" BUILD="$build" RECORD="$record" tsan
if [ "$cross" = yes ]; then
        part "aarch64" after cross_build "$make" --no-print-directory -j"$jobs" BUILD="$build" RECORD="$record" cross
else
        echo "==> aarch64 SKIPPED: no cross packages here (see above)"
fi
# Only root can boot a system; anybody else's run says that it was left out.
if [ "$root" = yes ]; then
        part "real systemd" "$make" --no-print-directory -j"$jobs" BUILD="$build" RECORD="$record" system-test
        if [ "$packages" = yes ]; then
                part "packages are built" finish deb
                part "packages" "$make" --no-print-directory BUILD="$build" RECORD="$record" package-test
        fi
else
        echo "==> real systemd SKIPPED: needs root and systemd-nspawn; so do packages"
fi
part "lint" finish lint

echo
python3 tests/run.py --totals "$record" || failed=1
exit $failed
