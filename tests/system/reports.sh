# SPDX-License-Identifier: GPL-2.0
#
# What users of other hypervisors ran into, as their public reports have it, tried on this one: files, descriptors and
# interfaces that are not there for it, a tap that goes down, the first sector of a raw disk, a run that was killed.
# ring: system
# timeout: 400
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

tunctl -t t0 >/dev/null
ip link set t0 up
start_guest reports --initrd /images/guest.cpio --append "console=ttyS0 $fast -- one -- two" --net tap=t0 $k /tmp/s.img &&
	expect reports 150 'login: ' || { not_ok "a command line with two -- boots"; finish; }
ok "a command line with two -- boots"
refuses "a tap in use" 'in use by another program' rvmm-run --net tap=t0 $k
refuses "a disk in use" 'in use by another VM' rvmm-run $k /tmp/s.img
send root
expect reports 30 '# '
send 'umount /mnt; yes | head -c 512 >/tmp/r; dd if=/tmp/r of=/dev/vda conv=fsync 2>/dev/null; echo sector-"written"'
check "the first sector of a raw disk can be written" \
	'expect reports 30 "^sector-written" && [ "$(head -c 2 /tmp/s.img)" = y ]'
send 'ip link set eth0 up; ip addr add 10.9.9.2/24 dev eth0; echo net-"up"'
expect reports 30 'net-up'
ip link set t0 down
send 'arp -s 10.9.9.1 2:0:0:0:0:9; ping -c 3 -w 4 10.9.9.1; echo tap-"down"'
check "a tap that goes down ends nothing" 'expect reports 30 "^tap-down" && kill -0 $pid'
kill -KILL "$pid"
wait "$pid" 2>/dev/null
run_guest after 60 --append "console=ttyS0 $fast panic=-1" $k /tmp/s.img >/dev/null
check "after kill -9 the disk and the tap are free" '[ $code = 3 ]'
check "the module unloads" 'unload_module'
finish
