#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The inner half of run.py, in a mount namespace of its own: builds the container's root and boots it.
# From the environment: WORK, OUT (folders), CGROUPS (of ours), HERE (this folder), SCRIPT (what to run there); HESITATE (docs/testing.md).
set -eu

# nspawn leaves groups behind where it was started; here they can be removed afterwards
for group in $CGROUPS; do
        echo $$ >"$group/cgroup.procs"
done

root=$WORK/root
mkdir "$root"
mount -t tmpfs -o mode=0755 none "$root"
mkdir "$root/up" "$root/wk" "$root/m"
mount -t overlay overlay -o "lowerdir=${SPARK_TEST_BASE:-/},upperdir=$root/up,workdir=$root/wk" "$root/m"
mount -t tmpfs none /run/systemd 2>/dev/null || { mkdir -p /run/systemd && mount -t tmpfs none /run/systemd; }

m=$root/m
cp -a "$WORK/installed/." "$m/"
# the tests, where they find each other as in the tree
tests=/opt/sparkd-test/tests
mkdir -p "$m$tests/integration" "$m$tests/reference"
cp -r "$HERE" "$m$tests/"
cp "$HERE/../integration/"*harness.py "$HERE/../integration/bus_draw.py" "$HERE/../integration/memory_group.py" "$m$tests/integration/"
cp "$HERE/../reference/make-gguf.py" "$m$tests/reference/"
cp -r "$HERE/../../proto" "$m/opt/sparkd-test/"
mkdir -p "$m/opt/sparkd-test/share"
ln -s /usr/share/sparkd "$m/opt/sparkd-test/share/models"
# where the outer system is itself a container, this keeps packages from starting their services
rm -f "$m/usr/sbin/policy-rc.d"
units=$m/etc/systemd/system
mkdir -p "$units"
cat >"$units/sdtest.target" <<EOF
[Unit]
Requires=sdtest.service dbus.socket
After=dbus.socket
EOF
cat >"$units/sdtest.service" <<EOF
[Unit]
Wants=dbus.socket
After=dbus.socket
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=exec
Environment=SPARK_BUILD=/opt/sparkd-test/build $(env | grep -E '^SPARK_(TEST_KILLS|MEMORY_ROUNDS|BUS_FUZZ_[A-Z]+)=' | tr '\n' ' ')
ExecStart=/usr/bin/python3 -B $tests/system/$SCRIPT
StandardOutput=append:/out/output
StandardError=append:/out/output
EOF
ln -sf /dev/null "$units/timers.target"
[ -z "${SPARK_TEST_BROKER:-}" ] || ln -sf /lib/systemd/system/dbus-broker.service "$units/dbus.service"
if [ -n "${HESITATE:-}" ]; then
        cp "$HESITATE" "$m/usr/lib/hesitate.so"
        for unit in sparkd dbus polkit systemd-logind sdtest; do
                mkdir -p "$units/$unit.service.d"
                printf '[Service]\nEnvironment=LD_PRELOAD=/usr/lib/hesitate.so %s\n' \
                        "$(env | grep '^HESITATE_' | tr '\n' ' ')" >"$units/$unit.service.d/hesitate.conf"
        done
fi
rm -rf "$m/var/log/journal"

# what the service may call on a real machine and nspawn denies by default; without bpf IPAddressDeny= does nothing
calls="bpf landlock_create_ruleset landlock_add_rule landlock_restrict_self io_uring_setup io_uring_enter io_uring_register"
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 exec systemd-nspawn -q -D "$m" --register=no --keep-unit --private-network \
        --machine=sdtest --console=pipe --link-journal=no --system-call-filter="$calls" \
        --capability=CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN --bind="$OUT:/out" \
        --boot systemd.unit=sdtest.target systemd.show_status=no
