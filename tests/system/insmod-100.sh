# SPDX-License-Identifier: GPL-2.0
#
# Loads and unloads the module a hundred times; memory must come back.
# ring: system
# timeout: 240
# ring@intel: full
. ./tests/system/lib.sh

cycle() { insmod rvmm.ko && [ -c /dev/rvmm ] && rmmod rvmm; }

cycle && cycle
before=$(free_kib)
bad=0
for i in $(seq 100); do
	cycle || { bad=$i; break; }
done
after=$(free_kib)
check "insmod and rmmod work 100 times" '[ $bad = 0 ]'
check "no memory is lost" '[ $((before - after)) -lt 8192 ]'
echo "# free before: $before KiB, after: $after KiB"
check "the log is clean" '! dmesg | grep -E "BUG|WARNING|Oops"'
finish
