#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Starts a private daemon with the bundled model, streams an answer, stops it. Usage: tools/demo.sh BUILD
set -eu

build=$1
model=$PWD/share/models/spark-tiny.gguf
dir=$(mktemp -d "${TMPDIR:-/tmp}/sparkd-demo.XXXXXX")
daemon=""

stop() {
        [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
        [ -z "$daemon" ] || wait "$daemon" 2>/dev/null || true
        rm -rf "$dir"
}
trap stop EXIT INT TERM

cat >"$dir/demo.conf" <<EOF
socket = "$dir/sparkd.sock";
state_dir = "$dir/state";
bus = "none";
models = ( { name = "spark-tiny"; path = "$model"; default = true; } );
memory = { floor = "256M"; };
EOF
mkdir "$dir/state"
"$build/bin/sparkd" --config "$dir/demo.conf" 2>"$dir/log" &
daemon=$!

export SPARK_SOCKET="$dir/sparkd.sock"
tries=0
until "$build/bin/sparkctl" status --json >"$dir/status" 2>/dev/null && grep -q '"ready"' "$dir/status"; do
        tries=$((tries + 1))
        if [ "$tries" -gt 100 ] || ! kill -0 "$daemon" 2>/dev/null; then
                echo "demo: the daemon did not come up; it said:" >&2
                cat "$dir/log" >&2
                exit 1
        fi
        sleep 0.1
done

echo "A private sparkd is up (socket $SPARK_SOCKET) and keeps the bundled model resident:"
"$build/bin/sparkctl" status
for prompt in "Tell me a short story about a cat." "What is 2 + 3?" "What is the opposite of hot?"; do
        echo
        echo "\$ sparkctl generate \"$prompt\""
        "$build/bin/sparkctl" generate -t 0.7 --seed 3 -n 120 "$prompt"
        [ -t 1 ] || echo
done
echo
echo "It is a very small stand-in model (docs/model.md). Try your own: see README.md, \"Trying it out\"."
