#!/usr/bin/env bash
# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Installs what the project needs on Debian or Ubuntu, and is done at once where it is there.
# The machine's services are left as they are: nothing is started by the installation.
#
# Usage: bootstrap.sh [PACKAGE...], for packages that are needed besides.
set -euo pipefail

packages=(
    busybox-static cpio debian-archive-keyring debootstrap e2fsprogs gcc git iproute2 libc6-dev
    libvirt-clients libvirt-daemon-driver-qemu libvirt-daemon-system make openssh-client
    openssh-server procps python3 python3-libvirt python3-lxml python3-venv shellcheck qemu-system-x86 qemu-utils
    util-linux "$@"
)

if ! command -v dpkg-query > /dev/null; then
    echo "bootstrap: this is neither Debian nor Ubuntu; install by hand: ${packages[*]}" >&2
    exit 3
fi

# A kernel for the guests that the tests boot. Debian's cloud kernel is small; Ubuntu has its own.
if ! ls /boot/vmlinuz-* > /dev/null 2>&1; then
    if grep -q '^ID=ubuntu' /etc/os-release; then
        packages+=(linux-image-virtual)
    else
        packages+=(linux-image-cloud-amd64)
    fi
fi

# Ubuntu has Chromium as a snap alone. What needs a browser says so where there is none.
if grep -q '^ID=ubuntu' /etc/os-release; then
    kept=()
    for package in "${packages[@]}"; do
        [ "$package" = chromium ] || kept+=("$package")
    done
    packages=("${kept[@]}")
fi

missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f='${Status}' "$package" 2> /dev/null || true)
    [ "$status" = "install ok installed" ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "bootstrap: every package is there"
    exit 0
fi

sudo=()
if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2> /dev/null; then
        echo "bootstrap: needs root or sudo to install: ${missing[*]}" >&2
        exit 3
    fi
    sudo=(sudo -n)
fi

# Debian starts a service when its package is installed, unless this policy forbids it.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '"${sudo[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" > /dev/null
    "${sudo[@]}" chmod 755 "$policy"
fi

echo "bootstrap: installing ${missing[*]}"
"${sudo[@]}" apt-get -o DPkg::Lock::Timeout=300 update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
echo "bootstrap: installed"
