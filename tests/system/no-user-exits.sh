# SPDX-License-Identifier: GPL-2.0
#
# A guest runs in the kernel alone: all its time with disk, timers, console and
# two CPUs takes one return to user space, the power-off.
# ring: guest
# timeout: 300
# hosts: amd, amd-4level, intel
# ring@amd-4level: full
# ring@intel: full
. ./tests/system/lib.sh

load_module
cp /images/small.img /tmp/disk.img
test_guest kernel-only 240 2 /images/vmlinux --stats /tmp/disk.img
user_exits=$(awk '$1 == "user_exits" { for (i = 2; i <= NF; i++) sum += $i; print sum }' /tmp/kernel-only.log)
exits=$(awk '$1 == "exits" { for (i = 2; i <= NF; i++) sum += $i; print sum }' /tmp/kernel-only.log)
sed -n '/^counter/,$s/^/# /p' /tmp/kernel-only.log
check "the guest exited to the kernel" '[ "${exits:-0}" -gt 1000 ]'
check "one exit to user space: the power-off" '[ "${user_exits:-none}" = 1 ]'
check "the module unloads afterwards" 'unload_module'
finish
