# SPDX-License-Identifier: GPL-2.0
#
# The console loses nothing silently: a reader that comes late gets every byte, a sink that fails is told, and what
# was ignored when the run began stays ignored.
# timeout: 400
# hosts: amd, intel
# ring@intel: full
. ./tests/system/lib.sh

load_module
seq 0 2499 | sed 's/^/flood /' >/tmp/wanted

# late NAME TEXT ARG…: a reader that waits for longer than the guest runs, behind a pipe.
late() {
	local name=$1 console=$2
	shift 2
	{
		timeout -s KILL 200 rvmm-run --no-reboot --console stdio "$@" --initrd /images/guest.cpio \
			--append "console=$console $fast rvmm.test=flood" /images/vmlinux </dev/null 2>/tmp/late.err
		echo $? >/tmp/late.code
	} | { sleep 40; tr -d '\r' | grep -o 'flood [0-9]*' >/tmp/late.out; }
	check "$name: a late reader gets every line" 'cmp -s /tmp/wanted /tmp/late.out'
	check "$name: the run ends with 0" '[ "$(cat /tmp/late.code)" = 0 ]'
	wc -l </tmp/late.out | sed 's/^/# lines: /'
	sed 's/^/# /' /tmp/late.err
}
late uart ttyS0
late "virtio console" hvc0 --console-device virtio

# Nobody reads at all: that is told.
timeout -s KILL 100 rvmm-run --no-reboot --initrd /images/guest.cpio \
	--append "console=ttyS0 $fast rvmm.test=flood" /images/vmlinux >/tmp/alone.log 2>&1
code=$?
check "a pty that nobody opens does not hold the guest up" '[ $code = 0 ]'
check "what had no reader is counted" \
	'grep -qE "console: [0-9]+ bytes of the guest.s output had no reader" /tmp/alone.log'

timeout -s KILL 100 rvmm-run --no-reboot --console file:/dev/full --initrd /images/guest.cpio \
	--append "console=ttyS0 $fast rvmm.test=flood" /images/vmlinux >/tmp/full.log 2>&1
code=$?
check "a file that is full: the guest runs to its end, and the run ends with 2" '[ $code = 2 ]'
check "the error is told once" '[ "$(grep -c "console: cannot write to its file: No space left" /tmp/full.log)" = 1 ]'

# As under nohup, and as a script starts its jobs.
(
	trap '' HUP INT
	exec rvmm-run --console none --initrd /images/guest.cpio --append "$fast rdinit=/bin/sh" /images/vmlinux
) >/tmp/ignored.log 2>&1 &
pid=$!
sleep 3
kill -HUP $pid
kill -INT $pid
sleep 2
check "what was ignored before stays ignored" 'kill -0 $pid'
kill -TERM $pid
check "what was not ends the run" 'wait_gone $pid 20 && [ $code = 143 ]'
check "the module unloads" unload_module
finish
