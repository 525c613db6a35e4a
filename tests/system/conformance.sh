# SPDX-License-Identifier: GPL-2.0
#
# KVM's own selftests on rvmm in KVM's place: those that passed when docs/conformance.md was made, but for the slow ones.
# ring: system
# timeout: 1500
# hosts: amd
# disk: selftests
# file: docs/conformance.md
. ./tests/system/lib.sh

# The third column of the table is rvmm on AMD.
awk -F'|' '$2 ~ /`.*`/ && $4 ~ /^ *pass *$/ { gsub(/[ `]/, "", $2); print $2 }' conformance.md >/tmp/passed
grep '^quick ' tests/system/conformance.list | while read -r _ test arguments; do
	! grep -qxF "$test" /tmp/passed || echo "$(limit 300) $test $arguments"
done >/tmp/list
# It compares two looks at the time stamp counter, between which a slow host takes longer than it allows for.
timed=x86/tsc_msrs_test
if [ $slow != 1 ] && grep -q " $timed " /tmp/list; then
	sed -i "\\# $timed #d" /tmp/list
	skip "$timed passes" "this host is too slow for it"
fi
check "the table has tests that pass" '[ "$(wc -l </tmp/list)" -gt 3 ]'
sh tests/system/conformance-run rvmm /tmp/list >/tmp/results 2>&1
cat /tmp/results
while read -r _ test _; do
	check "$test passes" 'grep -q "^# selftest '"$test"' ended 0 " /tmp/results'
done </tmp/list
check "the module unloads afterwards" 'unload_module'
finish
