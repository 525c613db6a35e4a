# SPDX-License-Identifier: GPL-2.0
#
# A guest's memory stays what it is while the host swaps it, merges it (KSM), makes huge
# pages of it and splits them, and moves it from node to node (NUMA balancing, cpusets,
# compaction).
# ring: soak
# hosts: amd-debug
# loops: 1
# timeout: 400
# append: numa_balancing=enable
. ./tests/system/lib.sh

# put FILE VALUE: sets what may not be there in every kernel.
put() { [ ! -e "$1" ] || echo "$2" >"$1" || echo "# $1 does not take $2"; }

load_module
modprobe zram
echo 1G >/sys/block/zram0/disksize
mkswap /dev/zram0 >/dev/null && swapon /dev/zram0
check "there is swap" 'grep -q zram0 /proc/swaps'
huge=/sys/kernel/mm/transparent_hugepage
put $huge/enabled always
put $huge/defrag always
# Less than a processor's time each: the guest must come forward, or nothing happens to memory that it uses.
put $huge/khugepaged/scan_sleep_millisecs 200
put $huge/khugepaged/alloc_sleep_millisecs 200
put $huge/khugepaged/pages_to_scan 4096
put /sys/kernel/mm/ksm/pages_to_scan 500
put /sys/kernel/mm/ksm/sleep_millisecs 50
put /sys/kernel/mm/ksm/merge_across_nodes 1
put /sys/kernel/mm/ksm/run 1
put /sys/kernel/debug/sched/numa_balancing/scan_delay_ms 100
put /sys/kernel/debug/sched/numa_balancing/scan_period_min_ms 100
nodes=$(ls -d /sys/devices/system/node/node* | wc -l)
check "the host has two nodes" '[ $nodes = 2 ]'
mkdir -p /tmp/cgroup
mount -t cgroup2 none /tmp/cgroup
echo "+memory +cpuset" >/tmp/cgroup/cgroup.subtree_control
mkdir /tmp/cgroup/vm
vm=/tmp/cgroup/vm

# KSM may merge all of it. Once the guest is up, less than it works on stays out of the swap.
cat >/tmp/in-cgroup <<-END
	#!/bin/sh
	echo \$\$ >$vm/cgroup.procs
	exec mergeable "\$@"
END
chmod 755 /tmp/in-cgroup
under=/tmp/in-cgroup
start_guest moved -c 2 -m 256M --initrd /images/guest.cpio --append "console=ttyS0 $fast" /images/vmlinux ||
	{ not_ok "the guest starts"; finish; }
expect moved 300 'login: ' || { not_ok "the guest gives a login prompt"; finish; }
send root
expect moved 60 '# '
# A random part, one that is all alike, and copies of both, again and again.
send 'cd /tmp; head -c 4000000 /dev/urandom >a; head -c 4000000 /dev/zero >>a; sum=$(md5sum <a); n=0; while :; do cp a b; n=$((n+1)); if [ "$(md5sum <b)" = "$sum" ]; then echo "copy $n is right"; else echo "copy $n is WRONG"; fi; rm b; done'
check "the guest copies" 'expect moved 120 "copy 1 is right"'
used=$(cat $vm/memory.current)
echo "# $((used >> 20)) MiB before the pressure"
put $vm/memory.high $((used / 3 * 2))
turn=0
while time_left && kill -0 "$pid" 2>/dev/null; do
	turn=$((turn + 1))
	# Where one node alone is allowed, NUMA balancing has nowhere to move a page.
	[ $((turn % 4)) -ge 2 ] && mems=0-$((nodes - 1)) || mems=$((turn % nodes))
	echo $mems >$vm/cpuset.mems
	echo 1 >/proc/sys/vm/compact_memory
	put $vm/memory.reclaim 4M 2>/dev/null
	[ $((turn % 5)) != 0 ] || echo 3 >/proc/sys/vm/drop_caches
	[ $((turn % 20)) != 0 ] || put $huge/enabled never
	[ $((turn % 20)) != 10 ] || put $huge/enabled always
	sleep 2
done
copies=$(tr -d '\r' </tmp/moved.console | grep -c "^copy .* is right")
check "the guest still runs" 'kill -0 $pid'
check "what it copied is right" '[ $copies -gt 1 ] && ! grep -q "^copy .* is WRONG" /tmp/moved.console'
counted() { awk -v what="$1" '$1 == what { print $2 }' /proc/vmstat; }
echo "# $copies copies in $turn turns"
for what in pswpin pswpout numa_pages_migrated pgmigrate_success thp_split_pmd thp_collapse_alloc ksm_swpin_copy; do
	echo "# $what $(counted $what)"
done
echo "# KSM shares $(cat /sys/kernel/mm/ksm/pages_sharing) pages"
check "pages went to the swap and came back" '[ "$(counted pswpin)" -gt 1000 ]'
check "huge pages were split and made" '[ "$(counted thp_split_pmd)" -gt 0 ] && [ "$(counted thp_collapse_alloc)" -gt 0 ]'
check "NUMA balancing moved pages" '[ "$(counted numa_pages_migrated)" -gt 0 ]'
check "pages moved" '[ "$(counted pgmigrate_success)" -gt 1000 ]'
check "KSM merged pages" '[ "$(cat /sys/kernel/mm/ksm/pages_sharing)" -gt 0 ]'
kill -9 "$pid"
check "rvmm-run dies" 'wait_gone $pid 10'
check "the module unloads" 'unload_module'
finish
