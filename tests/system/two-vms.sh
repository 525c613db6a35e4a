# SPDX-License-Identifier: GPL-2.0
#
# Two guests at once on different disks.
# ring: system
# timeout: 500
# hosts: amd, amd-4level, intel
# ring@amd-4level: full
# ring@intel: full
. ./tests/system/lib.sh

load_module
for v in a b; do
	cp /images/small.img /tmp/disk-$v.img
	(
		n=0
		test_guest "vm-$v" 440 1 /images/vmlinux /tmp/disk-$v.img
	) >/tmp/results-$v &
done
wait
cat /tmp/results-a /tmp/results-b
n=$(grep -cE '^(not )?ok ' /tmp/results-a)
n=$((n + $(grep -cE '^(not )?ok ' /tmp/results-b)))
check "the module unloads afterwards" 'unload_module'
finish
