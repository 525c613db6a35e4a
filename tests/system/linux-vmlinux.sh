# SPDX-License-Identifier: GPL-2.0
#
# The stock kernel (vmlinux) with a busybox initramfs and a virtio disk.
# ring: guest
# timeout: 400
# hosts: amd, amd-4level, intel
# ring@amd-4level: full
# ring@intel: full
. ./tests/system/lib.sh

load_module
cp /images/small.img /tmp/disk.img
test_guest linux-vmlinux 360 1 /images/vmlinux /tmp/disk.img
check "the guest's writes are on the disk" '{ modprobe loop && mkdir -p /tmp/m && mount -o loop,ro /tmp/disk.img /tmp/m && [ -s /tmp/m/guest-was-here ]; }'
umount /tmp/m
check "the module unloads afterwards" 'unload_module'
finish
