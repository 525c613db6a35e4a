# SPDX-License-Identifier: GPL-2.0
#
# QEMU's gdb stub on /dev/rvmm: a breakpoint in the guest's kernel is hit, single steps go on from it, a watchpoint is
# met; then the guest goes on as if nothing had been. Breakpoints are of the processor's own: INT3 does not exit on
# QEMU's emulated AMD processors, on stock KVM neither.
# ring: full
# timeout: 700
# hosts: amd
# disk: clients
. ./tests/system/lib.sh

mount_qemu
load_module
cp /images/small.img /tmp/disk.img
# The guest runs the host's own kernel, and both lie where they are linked.
symbol() { sed -n "s/^\([0-9a-f]*\) [a-zA-Z] $1\$/\1/p" /proc/kallsyms; }
timer=$(symbol ktime_get) jiffies=$(symbol jiffies)
qemu gdb 500 -M pc -vga none -monitor none -gdb unix:/tmp/gdb,server=on,wait=off &
pid=$!
expect gdb 200 "ok 1 guest"

# little HEX: the same number, as the bytes of a register are told.
little() { echo "$1" | sed 's/\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)/\8\7\6\5\4\3\2\1/'; }
# tells N: the Nth answer; rip N: of one that is all registers, RIP, the seventeenth of eight bytes.
tells() { sed -n "${1}p" /tmp/rsp.out; }
rip() { tells "$1" | cut -c257-272; }

debug_it() {
	rsp /tmp/gdb "$(limit 120)" >/tmp/rsp.out 2>/tmp/rsp.err <<-END
	?
	Z1,$timer,1
	c
	g
	z1,$timer,1
	s
	g
	s
	g
	Z2,$jiffies,8
	c
	g
	z2,$jiffies,8
	D
	END
	code=$?
	cut -c1-80 /tmp/rsp.out /tmp/rsp.err | sed 's/^/# rsp: /'
	check "the debugger has all its answers" '[ $code = 0 ] && [ "$(wc -l </tmp/rsp.out)" = 14 ]'
	check "a breakpoint in the guest's kernel is hit" 'tells 3 | grep -q ^T05 && [ "$(rip 4)" = "$(little $timer)" ]'
	check "a step goes on from there" 'tells 6 | grep -q ^T05 && [ "$(rip 7)" != "$(rip 4)" ]'
	check "so does another" 'tells 8 | grep -q ^T05 && [ "$(rip 9)" != "$(rip 7)" ]'
	check "a watchpoint is met, and told as one" 'tells 11 | grep -q "^T05.*watch:$jiffies"'
}

if tr -d '\r' </tmp/gdb.console | grep -q "^# $(uname -r), up"; then
	debug_it
else
	skip "the debugger" "the guest does not run the host's kernel, whose symbols these are"
fi
wait_gone $pid 300
guest_results gdb
check "gdb: QEMU ends with 0 when the guest powers off" '[ $code = 0 ]'
sed 's/^/# qemu: /' /tmp/gdb.log
[ $code = 0 ] || show_guest gdb
check "the module unloads afterwards" 'unload_module'
finish
