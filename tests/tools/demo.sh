#!/usr/bin/env bash
# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Partitions the guest of the libvirt RFC on a private libvirt daemon that reports the RFC's host:
# 8 nodes, 240 pCPUs. The machine's own libvirt is neither used nor changed, and KVM is not needed.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" -ne 0 ] && sudo -n true 2> /dev/null; then
    exec sudo -n env VNUMA_CACHE="${VNUMA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvm-vnuma}" "$0" "$@"
fi

environment=$(/usr/bin/python3 tests/tools/run.py --install)
folder=$(mktemp -d)
name=demo-$$
page=$PWD/build/demo.html
part=
export ANSIBLE_COLLECTIONS_PATH=$PWD/build/installed ANSIBLE_LOCALHOST_WARNING=false
export ANSIBLE_INVENTORY_UNPARSED_WARNING=false ANSIBLE_HOME=$folder/ansible

finish() {
    status=$?
    /usr/bin/python3 tests/lab/fakehost.py stop "$name" > /dev/null 2>&1 || true
    rm -rf "$folder" "${VNUMA_LAB:-/tmp/vnuma-lab}/$name"
    if [ "$status" -eq 0 ]; then
        echo "make demo: the report of what it did is file://$page"
        echo "make demo: PASSED$part"
    else
        echo "make demo: FAILED"
    fi
}
trap finish EXIT

if ! reason=$(/usr/bin/python3 tests/lab/fakehost.py check 2>&1); then
    echo "$reason"
    part=", the planner alone"
    echo "make demo: a private libvirt cannot run here, so only the planner is shown, by the filter"
    "$environment/bin/ansible-playbook" tests/demo/filter.yml --extra-vars "state_dir=$folder page=$page"
    exit 0
fi

echo "A private libvirt daemon with the RFC's host:"
uri=$(/usr/bin/python3 tests/lab/fakehost.py start "$name" tests/hosts/rfc-8n240c.json)
cp tests/demo/anuma.xml "$folder/anuma.xml"
if ! virsh --quiet --connect "$uri" domcapabilities --virttype kvm > /dev/null 2>&1; then
    echo "This machine has no KVM, so the guest is defined for plain emulation: type='qemu', cpu mode 'maximum'."
    sed -i "s/type='kvm'/type='qemu'/; s/host-passthrough/maximum/" "$folder/anuma.xml"
fi
virsh --quiet --connect "$uri" define --validate "$folder/anuma.xml"
before=$(virsh --connect "$uri" dumpxml --inactive anuma)
/usr/bin/python3 - "$uri" "$folder" "$before" "$page" > "$folder/vars.json" << 'PYTHON'
import json
import sys

uri, folder, before, page = sys.argv[1:]
# Ansible strips the end of what a command prints.
json.dump({"uri": uri, "state_dir": folder, "before": before.rstrip(), "page": page}, sys.stdout)
PYTHON
"$environment/bin/ansible-playbook" tests/demo/demo.yml --extra-vars "@$folder/vars.json" \
    --extra-vars ansible_python_interpreter=/usr/bin/python3
