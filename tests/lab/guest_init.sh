#!/bin/sh
# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# The first process of a test guest: says on its console what its kernel sees, then waits.
#
# Kernel command line: vnuma.ignore_acpi  keeps running when it is asked to shut down
#                      vnuma.slow_acpi=SECONDS  takes so long to shut down when it is asked to
#                      vnuma.crash_on_power  crashes when it is asked to shut down
#                      vnuma.agent        holds the agent's channel open, as an agent would
#                      vnuma.fill=MIB     fills so much memory on each of its nodes
#                      vnuma.lscpu        says what lscpu prints, too
#                      vnuma.pci          says where each PCI device is, and what NVMe disks begin with
#                      vnuma.watch        says every second for how long it runs, and what it sees
#                      vnuma.fill_per_cpu=MIB  each of its CPUs fills so much, on its own node
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
console=/dev/ttyS0
[ -e /dev/ttyAMA0 ] && console=/dev/ttyAMA0
exec > $console 2>&1
while read -r module; do
    insmod "/modules/$module"
done < /modules/order
# From here on the kernel leaves its own code alone (see maxcpus=1 in guestboot.py).
for online in /sys/devices/system/cpu/cpu[1-9]*/online; do
    [ -e "$online" ] && echo 1 > "$online"
done

given() {
    sed -n "s/.*vnuma\.$1=\([0-9]*\).*/\1/p" /proc/cmdline
}
fill=$(given fill)
if [ -n "$fill" ]; then
    for node in /sys/devices/system/node/node[0-9]*; do
        id=${node##*node}
        mkdir -p "/fill/$id"
        # Pages of this file system come from that node and no other.
        mount -t tmpfs -o "size=$((fill + 1))m,mpol=bind:$id" tmpfs "/fill/$id"
        dd if=/dev/zero of="/fill/$id/full" bs=1M count="$fill" 2> /dev/null
    done
fi
share=$(given fill_per_cpu)
if [ -n "$share" ]; then
    # All at once, as a load that uses every CPU would.
    for cpu in /sys/devices/system/node/node[0-9]*/cpu[0-9]*; do
        id=${cpu%/*} id=${id##*node} cpu=${cpu##*cpu}
        if [ ! -d "/fill/$id" ]; then
            mkdir -p "/fill/$id"
            mount -t tmpfs -o "size=100%,mpol=bind:$id" tmpfs "/fill/$id"
        fi
        taskset "$(printf '%x' $((1 << cpu)))" \
            dd if=/dev/zero of="/fill/$id/$cpu" bs=1M count="$share" 2> /dev/null &
    done
    wait
fi

echo
echo "VNUMA-BEGIN"
du -sm /fill/* > /filled 2> /dev/null
# A guest without an L3 cache has no such lists, and on aarch64 CPUs have no dies.
set --
for file in /sys/devices/system/cpu/cpu[0-9]*/cache/index3/shared_cpu_list \
    /sys/devices/system/cpu/cpu[0-9]*/topology/die_id; do
    [ -e "$file" ] && set -- "$@" "$file"
done
# One process for all of it: each takes half a second where virtualization itself is emulated.
awk '
    FILENAME == "/filled" { sub(".*/", "", $2); filled[$2] = $1; next }
    { split(FILENAME, path, "/"); id = path[6]; sub(/^[a-z]+/, "", id) }
    FILENAME ~ /cpulist$/ { cpus[id] = $1 }
    FILENAME ~ /distance$/ { gsub(" ", ","); distances[id] = $0 }
    FILENAME ~ /meminfo$/ && /MemTotal/ { memory[id] = $4 }
    FILENAME ~ /siblings_list$/ { siblings[id] = $1 }
    FILENAME ~ /package_id$/ { package[id] = $1 }
    FILENAME ~ /die_id$/ { die[id] = $1 }
    FILENAME ~ /shared_cpu_list$/ { l3[id] = $1 }
    END {
        for (id in distances)
            print "VNUMA node=" id " cpus=" cpus[id] " distances=" distances[id] \
                " memory_kib=" memory[id] " filled_mib=" filled[id]
        for (id in siblings)
            print "VNUMA cpu=" id " siblings=" siblings[id] " package=" package[id] \
                " die=" die[id] " l3=" l3[id]
    }
' /filled /sys/devices/system/node/node[0-9]*/cpulist \
    /sys/devices/system/node/node[0-9]*/distance /sys/devices/system/node/node[0-9]*/meminfo \
    /sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list \
    /sys/devices/system/cpu/cpu[0-9]*/topology/physical_package_id \
    "$@"
dmesg > /tmp.log
echo "VNUMA lines=$(wc -l < /tmp.log)"
grep -E "not on the same node|topology borken" /tmp.log | sed 's/^/VNUMA-COMPLAINT /'
if grep -q vnuma.lscpu /proc/cmdline; then
    /usr/bin/lscpu | sed 's/^/VNUMA-LSCPU /'
fi
if grep -q vnuma.pci /proc/cmdline; then
    for device in /sys/bus/pci/devices/*; do
        [ -e "$device" ] || continue
        read -r node < "$device/numa_node"
        driver=$(readlink "$device/driver")
        driver=${driver##*/}
        echo "PCI ${device##*/} node $node driver ${driver:--}"
    done
    # Disks are told apart by what is on them.
    for disk in /sys/class/nvme/nvme[0-9]*; do
        [ -e "$disk" ] || continue
        # Another thread of the kernel looks what is behind the controller.
        for _second in 1 2 3 4 5 6 7 8 9 10; do
            [ -b "/dev/${disk##*/}n1" ] && break
            sleep 1
        done
        read -r address < "$disk/address"
        read -r content < "/dev/${disk##*/}n1"
        echo "DISK $address $content"
    done
    for interface in /sys/class/net/*/device; do
        [ -e "$interface" ] || continue
        read -r mac < "${interface%/device}/address"
        echo "MAC $mac $(readlink -f "$interface")"
    done
fi
echo "VNUMA-END"

if grep -q vnuma.agent /proc/cmdline; then
    for port in /dev/vport*; do
        sleep 1000000 3< "$port" &
    done
fi
if ! grep -q vnuma.ignore_acpi /proc/cmdline; then
    mkdir -p /etc/acpi/PWRF
    action="poweroff -f"
    slow=$(given slow_acpi)
    [ -n "$slow" ] && action="sleep $slow; poweroff -f"
    grep -q vnuma.crash_on_power /proc/cmdline && action="echo c > /proc/sysrq-trigger"
    printf '#!/bin/sh\n%s\n' "$action" > /etc/acpi/PWRF/00000080
    chmod +x /etc/acpi/PWRF/00000080
    acpid -d > /dev/null 2>&1 &
fi
echo "VNUMA-READY"
if grep -q vnuma.watch /proc/cmdline; then
    while :; do
        read -r uptime _idle < /proc/uptime
        seen=$(cat /sys/devices/system/node/online /sys/devices/system/node/node*/cpulist \
            /sys/devices/system/node/node*/distance \
            /sys/devices/system/cpu/cpu*/topology/thread_siblings_list \
            /sys/devices/system/cpu/cpu*/topology/physical_package_id | tr '\n' ';')
        total=$(sed -n 's/.*MemTotal: *//p' /sys/devices/system/node/node*/meminfo | tr '\n' ';')
        echo "VNUMA-SEES $uptime $seen $total"
        sleep 1
    done
fi
while :; do sleep 1000; done
