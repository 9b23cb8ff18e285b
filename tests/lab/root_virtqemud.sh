#!/bin/sh
# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Builds libvirt's modular daemon for QEMU in a root of Debian, which ships the one for all drivers
# only; root.py runs it. Left in /opt/virtqemud.
#
# It is built from the source package of the libvirt that is installed, whose libraries and driver it
# loads, so that they have to be of the same release.
set -eu

apt-get update --quiet
apt-get install --yes --quiet --no-install-recommends -o DPkg::Options::=--force-unsafe-io \
    gcc gettext libacl1-dev libapparmor-dev libattr1-dev libaudit-dev libblkid-dev libcap-ng-dev \
    libc6-dev libdevmapper-dev libglib2.0-dev libgnutls28-dev libjson-c-dev libnl-3-dev \
    libnl-route-3-dev libnuma-dev libpciaccess-dev libreadline-dev libsasl2-dev libselinux1-dev \
    libtirpc-dev libudev-dev libxml2-dev libxml2-utils meson ninja-build pkg-config \
    python3-docutils xsltproc xz-utils
cd /opt
package=$(dpkg-query --show --showformat '${source:Version}' libvirt-daemon)
version=${package%-*}
apt-get source --tar-only --download-only "libvirt=$package"
tar --extract --file "libvirt_$version.orig.tar.xz"
cd "libvirt-$version"
meson setup build --prefix=/usr --sysconfdir=/etc --localstatedir=/var -Drunstatedir=/run \
    --libdir=lib/x86_64-linux-gnu -Dauto_features=disabled -Dsystem=false -Ddocs=disabled \
    -Dtests=disabled -Dnls=disabled -Ddriver_remote=enabled -Ddriver_libvirtd=enabled \
    -Ddriver_qemu=enabled -Dattr=enabled -Dcapng=enabled -Djson_c=enabled -Dlibnl=enabled \
    -Dnumactl=enabled -Dpciaccess=enabled -Dsasl=enabled -Dudev=enabled \
    -Dqemu_user=libvirt-qemu -Dqemu_group=libvirt-qemu
ninja -C build src/virtqemud
cp build/src/virtqemud /opt/virtqemud
