# SPDX-License-Identifier: GPL-2.0
#
# Loads and unloads the module a hundred times; memory must come back.
# ring: system
# timeout: 240
# ring@intel: full
. ./tests/system/lib.sh

cycle() { insmod rvmm.ko && [ -c /dev/rvmm ] && rmmod rvmm; }

# What the kernel keeps for the next time is not lost.
for i in 1 2 3 4 5 6 7 8 9 10; do cycle; done
before=$(free_kib)
bad=0
for i in $(seq 100); do
	cycle || { bad=$i; break; }
done
for try in 1 2 3 4 5; do
	after=$(free_kib)
	[ $((before - after)) -ge 2048 ] || break
done
check "insmod and rmmod work 100 times" '[ $bad = 0 ]'
check "no memory is lost" '[ $((before - after)) -lt 2048 ]'
echo "# free before: $before KiB, after: $after KiB"
check "the log is clean" '! dmesg | grep -E "BUG|WARNING|Oops"'
finish
