#!/bin/sh
# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# The first process of a test guest: says on its console what its kernel sees, then waits.
#
# Kernel command line: vnuma.ignore_acpi  keeps running when it is asked to shut down
#                      vnuma.crash_on_power  crashes when it is asked to shut down
#                      vnuma.agent        holds the agent's channel open, as an agent would
#                      vnuma.fill=MIB     fills so much memory on each of its nodes
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec > /dev/ttyS0 2>&1
while read -r module; do
    insmod "/modules/$module"
done < /modules/order

fill=$(sed -n 's/.*vnuma\.fill=\([0-9]*\).*/\1/p' /proc/cmdline)
if [ -n "$fill" ]; then
    for node in /sys/devices/system/node/node[0-9]*; do
        id=${node##*node}
        mkdir -p "/fill/$id"
        # Pages of this file system come from that node and no other.
        mount -t tmpfs -o "size=$((fill + 1))m,mpol=bind:$id" tmpfs "/fill/$id"
        dd if=/dev/zero of="/fill/$id/full" bs=1M count="$fill" 2> /dev/null
    done
fi

echo
echo "VNUMA-BEGIN"
for node in /sys/devices/system/node/node[0-9]*; do
    echo "VNUMA node=${node##*node} cpus=$(cat "$node/cpulist")" \
        "distances=$(tr ' ' ',' < "$node/distance")" \
        "memory_kib=$(awk '/MemTotal/ { print $4 }' "$node/meminfo")" \
        "filled_mib=$(du -m "/fill/${node##*node}/full" 2> /dev/null | cut -f1)"
done
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
    echo "VNUMA cpu=${cpu##*cpu} siblings=$(cat "$cpu/topology/thread_siblings_list")" \
        "package=$(cat "$cpu/topology/physical_package_id")"
done
dmesg > /tmp.log
echo "VNUMA lines=$(wc -l < /tmp.log)"
grep "not on the same node" /tmp.log | sed 's/^/VNUMA-COMPLAINT /'
echo "VNUMA-END"

if grep -q vnuma.agent /proc/cmdline; then
    for port in /dev/vport*; do
        sleep 1000000 3< "$port" &
    done
fi
if ! grep -q vnuma.ignore_acpi /proc/cmdline; then
    mkdir -p /etc/acpi/PWRF
    action="poweroff -f"
    grep -q vnuma.crash_on_power /proc/cmdline && action="echo c > /proc/sysrq-trigger"
    printf '#!/bin/sh\n%s\n' "$action" > /etc/acpi/PWRF/00000080
    chmod +x /etc/acpi/PWRF/00000080
    acpid -d > /dev/null 2>&1 &
fi
echo "VNUMA-READY"
while :; do sleep 1000; done
