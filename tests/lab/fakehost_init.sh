#!/bin/sh
# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# The first process of a fake host: fakehost.py runs it in namespaces of its own.
#
# Usage: fakehost_init.sh NAME FOLDER PRELOAD DAEMON SOCKET ROOT. What the host has of its own stands
# in FOLDER, and is mounted over what the machine has, or over what ROOT has where one is named; the
# machine's libvirt is neither seen nor touched.
set -eu
name=$1 folder=$2 preload=$3 daemon=$4 socket=$5 root=$6

[ -z "$root" ] || mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
if [ -n "$root" ]; then
    # Where tests keep what they and the host both use stands at the same place in it.
    for path in /boot /dev /sys /tmp "${folder%/*}"; do
        mkdir -p "$root$path"
        mount --rbind "$path" "$root$path"
    done
    mount --bind "$folder/home" "$root/root"
    mount -o remount,bind,ro "$root"
    cd "$root"
    pivot_root . run
    cd /
    umount --lazy /run
fi
hostname "$name"
for path in sys/devices/system/node sys/devices/system/cpu sys/kernel/mm/hugepages proc/cpuinfo proc/meminfo; do
    if [ -e "$folder/tree/$path" ] && [ -e "/$path" ]; then
        mount --bind "$folder/tree/$path" "/$path"
    fi
done
for node in "$folder"/tree/pci/*; do
    [ ! -e "$node" ] || mount --bind "$node" "/sys/bus/pci/devices/${node##*/}/numa_node"
done
mkdir -p /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /var/lib/kvm-vnuma
mount --bind "$folder/etc-libvirt" /etc/libvirt
mount --bind "$folder/state" /var/lib/kvm-vnuma
for path in lib cache log; do
    mount --bind "$folder/$path" "/var/$path/libvirt"
done
mount --bind "$folder/run" /run
{ cat /etc/hosts; echo "127.0.1.1 $name"; } > "$folder/hosts"
mount --bind "$folder/hosts" /etc/hosts

# Restarted when it ends, as a service manager would; "held" keeps it down.
(
    while :; do
        if [ ! -e "$folder/held" ]; then
            LD_PRELOAD=$preload "/usr/sbin/$daemon" --pid-file "/run/$daemon.pid" ||
                echo "$daemon ended with $?" >> "$folder/init.log"
        fi
        sleep 0.2
    done
) &
if [ -e "$folder/ssh/sshd_config" ]; then
    mkdir -p /run/sshd
    /usr/sbin/sshd -D -e -f "$folder/ssh/sshd_config" 2> "$folder/log/sshd.log" &
fi
(
    until [ -S "/run/libvirt/$socket" ]; do sleep 0.05; done
    : > "$folder/ready"
) &
# The shell stays as pid 1 and reaps what the daemons leave behind.
while :; do
    sleep 3600 &
    wait "$!" || :
done
