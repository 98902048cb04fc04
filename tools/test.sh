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

# What is begun goes on beside what follows, and has a log, which its part shows.
begin() {
        name=$1
        shift
        { "$@" >"$build/$name.log" 2>&1 && echo 0 || echo 1; } >"$build/$name.rc" &
        eval "begun_$name=$!"
}

# Most tests leave a processor idle: what only compiles and looks is done beside them, by whoever has time. Begins when the headers
# that are made are there.
beside() {
        aside=$1
        shift
        begin "$aside" nice -n 19 "$@"
}

finish() {
        eval "wait \$begun_$1"
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

# Machine code for GPUs takes long to make, and none of the other parts runs it: CUDA=0 for those.
run="$make --no-print-directory BUILD=$build RECORD=$record"

part "build" $run -j"$jobs" CUDA=0 all unit
beside cuda $run -j1 cuda-check
beside lint $run -j"$jobs" CUDA=0 lint
# package-test finds what was compiled
[ "$packages" = no ] || beside deb tools/deb.sh "$build" 0
part "tests" $run -j"$jobs" CUDA=0 check
beside tsan_build $run -j1 tsan-build
[ "$cross" = no ] || beside cross_build $run -j1 cross-build
part "sanitizers: address, undefined" $run -j"$jobs" asan
part "sanitizers: thread" after tsan_build $run -j"$jobs" tsan
# They mostly wait; what follows computes all the time, and looks at no clock.
if [ "$packages" = yes ]; then
        part "packages are built" finish deb
        begin packages $run package-test
fi
if [ "$cross" = yes ]; then
        part "aarch64" after cross_build $run -j"$jobs" cross
else
        echo "==> aarch64 SKIPPED: no cross packages here (see above)"
fi
[ "$packages" = no ] || part "packages" finish packages
part "cuda: kernels compile and do not spill" finish cuda
part "lint" finish lint
# By itself, since it looks at the clock. Only root can boot a system; anybody else's run says that it was left out.
if [ "$root" = yes ]; then
        part "real systemd" $run -j"$jobs" CUDA=0 system-test
else
        echo "==> real systemd SKIPPED: needs root and systemd-nspawn; so do packages"
fi

echo
python3 tests/run.py --totals "$record" || failed=1
exit $failed
