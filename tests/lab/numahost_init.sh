#!/bin/sh
# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# The first process of an emulated KVM host: what its image needs to be one, and no service manager.
#
# Kernel command line: numahost=NAME  the host's name
#                      lan=ADDRESS    its address on the network that it shares with others
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

mount_on() {
    # What the kernel's first file system had is there already.
    mkdir -p "$1"
    mountpoint -q "$1" || mount -t "$2" "$2" "$1"
}
mount_on /proc proc
mount_on /sys sysfs
mount_on /run tmpfs
mount_on /tmp tmpfs
mount_on /dev/pts devpts
mount_on /dev/shm tmpfs
mount_on /sys/fs/cgroup cgroup2
# A service manager would hand the controller down; without it libvirt says it is not mounted.
echo +cpuset > /sys/fs/cgroup/cgroup.subtree_control
mkdir -p /run/sshd /run/libvirt /run/lock
for module in virtio_net virtio_rng kvm_amd; do
    modprobe "$module"
done
# libvirt passes no device through where nothing has loaded vfio_pci.
grep -q intel_iommu=on /proc/cmdline && modprobe vfio_pci
word() {
    sed -n "s/.*\<$1=\([^ ]*\).*/\1/p" /proc/cmdline
}
hostname "$(word numahost)"
ip link set lo up
for path in /sys/class/net/e*; do
    card=${path##*/}
    case $(cat "$path/address") in
    # As numahost.py makes the cards of the shared network.
    02:*) address=$(word lan) ;;
    # QEMU's own network has this address for its one machine.
    *) address=10.0.2.15 ;;
    esac
    ip addr add "$address/24" dev "$card"
    ip link set "$card" up
done
/usr/sbin/sshd
libvirtd -d
if [ ! -c /dev/kvm ]; then
    echo "NUMAHOST-FAILED there is no /dev/kvm"
elif ! virsh --quiet --keepalive-interval 0 --connect qemu:///system version > /dev/null; then
    echo "NUMAHOST-FAILED libvirtd does not answer: $(tail -n 3 /var/log/libvirt/libvirtd.log)"
fi
echo "NUMAHOST-READY"
exec sleep infinity
