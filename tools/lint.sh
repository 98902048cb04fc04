#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Includes, clang-tidy and cppcheck over our own C, systemd-analyze over the units. Usage: tools/lint.sh BUILD
set -eu

build=$1
failed=0
# the version is a string: by a file, since quotes do not survive the way through xargs
mkdir -p "$build"
echo '#define SPARK_VERSION "lint"' >"$build/lint.h"
# the emulator's CUDA: what it declares is the same, and it is always there
flags="-std=gnu17 -D_GNU_SOURCE -include $build/lint.h -I. -Iipc -iquote daemon/control -I$build/gen -Itests/cuda-host/include"
flags="$flags $(pkg-config --cflags libsystemd libprotobuf-c libconfig liburing libseccomp sqlite3 ncursesw nettle json-c libxxhash)"
sources=$(git ls-files -- '*.c' 2>/dev/null || find daemon ipc kernels client tests -name '*.c')
# Kernels of other instruction sets need other flags (or another machine's headers), and cuBLAS its own; their compilers check them.
plain=$(echo "$sources" | grep -vE -- '-(avx2|avx512|neon|i8mm)\.c$|/gpu/cublas\.c$')

tools/check-includes.py || failed=1
echo "clang-tidy: $(echo "$plain" | wc -l) files"
# shellcheck disable=SC2086
echo "$plain" | xargs -P "$(nproc)" -n 4 sh -c 'clang-tidy --quiet "$@" -- '"$flags"' 2>/dev/null' tidy \
        >"$build/clang-tidy.log" || failed=1
if grep -qE '(warning|error):' "$build/clang-tidy.log"; then
        failed=1
fi
[ "$failed" = 0 ] || cat "$build/clang-tidy.log"

echo "cppcheck: $(echo "$sources" | wc -l) files"
# shellcheck disable=SC2086
cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=2 -j "$(nproc)" \
        --suppressions-list=tools/cppcheck.suppress -D_GNU_SOURCE -D__x86_64__ --include="$build/lint.h" -I. -Iipc -Idaemon/control -Itests/cuda-host/include \
        $plain || failed=1

if command -v systemd-analyze >/dev/null; then
        echo "systemd-analyze: units"
        tools/lint-units.sh "$build" || failed=1
fi
exit $failed
