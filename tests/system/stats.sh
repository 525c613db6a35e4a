# SPDX-License-Identifier: GPL-2.0
#
# Counters, histograms and the last exits of a running guest in debugfs, and the
# same by rvmm-run --stats.
# ring: guest
# timeout: 300
# hosts: amd, intel
# ring@intel: full
. ./tests/system/lib.sh

load_module exit_times=1
folder=/sys/kernel/debug/rvmm
run_guest observed 240 -c 2 --initrd /images/guest.cpio --stats \
	--append "console=ttyS0 $fast rvmm.test=boot rvmm.cpus=2 rvmm.utc=$(date +%s)" /images/vmlinuz &
tester=$!
for i in $(seq 100); do
	[ "$(awk '$2 == "exits" { print $3; exit }' $folder/counters)" -gt 1000 ] 2>/dev/null && break
	sleep 0.1
done
cat $folder/counters >/tmp/counters
cat $folder/exits >/tmp/exits
wait $tester
# The number of all exits that the histograms hold.
timed() { awk '$2 ~ /_cycles$/ { for (i = 3; i <= NF; i++) { split($i, p, ":"); all += p[2] } } END { print all + 0 }' /tmp/counters; }
total() { awk -v name="$1" '$2 == name { all += $3 } END { print all + 0 }' /tmp/counters; }
check "the guest ran all its tests" 'grep -q "^1\.\." /tmp/observed.console && ! grep -q "^not ok" /tmp/observed.console'
check "debugfs counts the exits of a running guest" '[ "$(total exits)" -gt 1000 ]'
check "and how long they took" '[ "$(timed)" -gt 900 ]'
# The counters of a processor that runs are read one by one, so a few may have come in between.
check "no exit is timed twice" '[ "$(timed)" -le "$(($(total exits) * 11 / 10))" ]'
check "and has the last 64 exits of a processor" '[ "$(grep -c "/0 0x" /tmp/exits)" = 64 ]'
check "rvmm-run --stats prints the histograms" 'grep -q "^msr_cycles .*<2^" /tmp/observed.log'
# What rvmm-run printed of all virtual CPUs in the end.
printed() { awk -v name="$1" '$1 == name { print $2 }' /tmp/observed.log; }
# Where the host's processors have other work, none polls.
check "polls are counted, and none is met that was not tried" \
	'[ "$(printed halt_successful_poll)" -le "$(printed halt_attempted_poll)" ]'
check "a vCPU that is gone is not listed" '[ ! -s $folder/counters ] && [ ! -s $folder/exits ]'
check "the module unloads afterwards" 'unload_module'
finish
