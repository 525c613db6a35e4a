# SPDX-License-Identifier: GPL-2.0
#
# What users of other hypervisors ran into, as their public reports have it, tried on this one: files, descriptors and
# interfaces that are not there for it, a tap that goes down, the first sector of a raw disk, a flush of a read-only
# disk, a run that was killed, output that nobody wants and input without an end.
# ring: system
# timeout: 500
# ring@intel: full
. ./tests/system/lib.sh

k=/images/vmlinux
# refuses NAME TEXT ARG…: the run ends by itself with what TEXT matches, and without a panic.
refuses() {
	local name=$1 text=$2
	shift 2
	timeout -s KILL "$(limit 20)" "$@" >/tmp/refused 2>&1 </dev/null
	code=$?
	check "$name" '{ [ $code = 1 ] || [ $code = 2 ]; } && grep -qE "$text" /tmp/refused'
	sed 's/^/# /' /tmp/refused
}

refuses "without the module its absence is told" 'insmod rvmm.ko' rvmm-run $k
load_module
modprobe tun
refuses "an interface that is no tap" 'is no tap' rvmm-run --net tap=lo $k
refuses "a group's address for one card" 'group' rvmm-run --net tap=t9,mac=01:00:00:00:00:01 $k
refuses "an initrd larger than memory" 'has room for' sh -c "truncate -s 1G /tmp/i; exec rvmm-run --initrd /tmp/i $k"
refuses "less memory than the kernel takes" 'more with --memory' rvmm-run -m 32M $k
refuses "a command line longer than the kernel's" 'the kernel takes 2047' rvmm-run --append "$(seq -s, 1000)" $k
cp /images/small.img /tmp/s.img
refuses "a disk twice" 'has it twice' rvmm-run $k /tmp/s.img /tmp/s.img
refuses "too few descriptors" 'Too many open files' sh -c "ulimit -n 16; exec rvmm-run $k /tmp/s.img"
refuses "too little address space" 'memory' sh -c "ulimit -v 300000; exec rvmm-run $k"

cp /images/small.img /tmp/ro.img
tunctl -t t0 >/dev/null
ip link set t0 up
start_guest reports --initrd /images/guest.cpio --append "console=ttyS0 $fast -- one -- two" --net tap=t0 \
	--disk /tmp/ro.img,ro $k /tmp/s.img &&
	expect reports 150 'login: ' || { not_ok "a command line with two -- boots"; finish; }
ok "a command line with two -- boots"
refuses "a tap in use" 'in use by another program' rvmm-run --net tap=t0 $k
refuses "a disk in use" 'in use by another VM' rvmm-run $k /tmp/s.img
send root
expect reports 30 '# '
send 'umount /mnt; yes | head -c 512 >/tmp/r; dd if=/tmp/r of=/dev/vda conv=fsync 2>/dev/null; echo sector-"written"'
check "the first sector of a raw disk can be written" \
	'expect reports 30 "^sector-written" && [ "$(head -c 2 /tmp/s.img)" = y ]'
# A flush is answered although the disk takes no writes; busybox's sync gives fsync(2) the disk itself.
send 'for d in vda vdb; do echo $d $(cat /sys/block/$d/ro) $(cat /sys/block/$d/queue/write_cache); done; sync /dev/vda && sync /dev/vdb && echo flush-"done"'
check "fsync of a read-only disk" 'expect reports 30 "^flush-done"'
send 'dd if=/tmp/r of=/dev/vdb conv=fsync 2>/tmp/e || echo write-"refused"'
check "which takes no writes" 'expect reports 30 "^write-refused" && cmp -s /tmp/ro.img /images/small.img'
grep -a '^vd[ab] [01] write' /tmp/reports.console | tr -d '\r' | sed 's/^/# /'
send 'ip link set eth0 up; ip addr add 10.9.9.2/24 dev eth0; echo net-"up"'
expect reports 30 'net-up'
ip link set t0 down
send 'arp -s 10.9.9.1 2:0:0:0:0:9; ping -c 3 -w 4 10.9.9.1; echo tap-"down"'
check "a tap that goes down ends nothing" 'expect reports 30 "^tap-down" && kill -0 $pid'
kill -KILL "$pid"
wait "$pid" 2>/dev/null
run_guest after 60 --append "console=ttyS0 $fast panic=-1" $k /tmp/s.img >/dev/null
check "after kill -9 the disk and the tap are free" '[ $code = 3 ]'

# ticks PID [NAME]: processor time that a process' threads took so far, in 10 ms; of those of one name.
ticks() {
	cat /proc/"$1"/task/*/stat 2>/dev/null |
		awk -v name="${2-}" 'name == "" || index($0, "(" name ")") { sub(/^.*\) /, ""); all += $12 + $13 } END { print all + 0 }'
}
# resident PID: the memory of a process, in KiB.
resident() { awk '/^VmRSS:/ { print $2 }' /proc/"$1"/status; }

# A guest whose first process is `yes` writes for ever, and here to nobody.
rvmm-run --stats --console none --initrd /images/guest.cpio --append "console=ttyS0 $fast rdinit=/bin/yes" $k >/tmp/talk.log 2>&1 &
pid=$!
sleep "$(limit 25)"
all=$(ticks $pid)
cpu=$(ticks $pid vcpu0)
before=$(resident $pid)
sleep 10
all=$(($(ticks $pid) - all))
cpu=$(($(ticks $pid vcpu0) - cpu))
echo "# of 10 s: $((cpu * 10)) ms in its vCPU, $(((all - cpu) * 10)) ms in the rest of rvmm-run; $before KiB then, $(resident $pid) KiB now"
check "output that nobody wants: the guest talks on" '[ $cpu -gt 300 ]'
check "and costs rvmm-run nothing beside the guest's own time" '[ $((all - cpu)) -lt 20 ]'
check "nor memory" '[ $(($(resident $pid) - before)) -lt 1024 ]'
kill -TERM $pid
check "it ends" 'wait_gone $pid 20 && [ $code = 143 ]'
sed 's/^/# /' /tmp/talk.log | head -n 40

# idles PID: whether a process comes to rest, with less than a tenth of a processor for ten seconds.
idles() {
	local i all
	for i in $(seq "$(limit 15)"); do
		all=$(ticks "$1")
		sleep 10
		all=$(($(ticks "$1") - all))
		echo "# of 10 s $((all * 10)) ms"
		[ $all -ge 100 ] || return 0
	done
	return 1
}
# flooded NAME OPTION [CHECK]: input without an end for a guest whose kernel has OPTION and whose only process sleeps.
flooded() {
	yes >/tmp/in &
	source=$!
	rvmm-run --console stdio --initrd /images/guest.cpio --append "$2 $fast rdinit=/bin/sleep -- 1000" $k \
		</tmp/in >/tmp/flood.log 2>&1 &
	pid=$!
	sleep "$(limit 25)"
	[ -z "${3-}" ] || check "$1: what waits takes no time" "$3 $pid"
	before=$(resident $pid)
	memory=$(free_kib)
	sleep 10
	memory=$((memory - $(free_kib)))
	used=$(($(resident $pid) - before))
	echo "# $1: $before KiB, ten seconds later $used KiB more; the host has $memory KiB less"
	check "$1: endless input takes no memory" '[ $used -lt 1024 ] && [ $memory -lt 8192 ]'
	kill -TERM $pid
	check "$1: the run can be ended" 'wait_gone $pid 20 && [ $code = 143 ]'
	kill $source 2>/dev/null
}
mkfifo /tmp/in
# Linux takes what comes and throws it away; without a driver for the UART the input waits where it comes from.
flooded "a guest that throws it away" console=ttyS0
flooded "a guest that reads nothing" "" idles
check "the module unloads" 'unload_module'
finish
