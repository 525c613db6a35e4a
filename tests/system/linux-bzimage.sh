# SPDX-License-Identifier: GPL-2.0
#
# The stock kernel (vmlinuz) with a busybox initramfs and a virtio disk.
# ring: guest
# timeout: 400
# hosts: amd, amd-4level, amd-shadow, intel, intel-new, intel-old, intel-shadow, intel-core2
# ring@intel-new: full
# ring@intel-old: full
# ring@intel-shadow: full
# ring@intel-core2: full
. ./tests/system/lib.sh

load_module
cp /images/small.img /tmp/disk.img
# Where Bochs has no VMX-preemption timer, a guest that waits for its other CPU with interrupts off waits for ever: it keeps
# the host's interrupts away.
cpus=2
! grep -q "^vmx flags" /proc/cpuinfo || grep -q "^vmx flags.* preemption_timer" /proc/cpuinfo || cpus=1
test_guest linux-bzimage 360 $cpus /images/vmlinuz /tmp/disk.img
check "the guest's writes are on the disk" '{ modprobe loop && mkdir -p /tmp/m && mount -o loop,ro /tmp/disk.img /tmp/m && [ -s /tmp/m/guest-was-here ]; }'
umount /tmp/m
check "the module unloads afterwards" 'unload_module'
finish
