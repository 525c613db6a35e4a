# SPDX-License-Identifier: GPL-2.0
#
# The stock kernel (vmlinuz) with a busybox initramfs and a virtio disk.
# ring: guest
# timeout: 400
# hosts: amd, amd-4level, amd-shadow, intel, intel-new, intel-old
# ring@intel-new: full
# ring@intel-old: full
. ./tests/system/lib.sh

load_module
cp /images/small.img /tmp/disk.img
test_guest linux-bzimage 360 2 /images/vmlinuz /tmp/disk.img
check "the guest's writes are on the disk" '{ modprobe loop && mkdir -p /tmp/m && mount -o loop,ro /tmp/disk.img /tmp/m && [ -s /tmp/m/guest-was-here ]; }'
umount /tmp/m
check "the module unloads afterwards" 'unload_module'
finish
