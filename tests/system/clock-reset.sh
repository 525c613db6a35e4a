# SPDX-License-Identifier: GPL-2.0
#
# A clock that the guest has set (hwclock -w) goes on over its reset, as one with a battery does.
# ring: system
# timeout: 500
# hosts: amd, intel
# ring@intel: full
. ./tests/system/lib.sh

load_module
resets() { shift 2; exec rvmm-run "$@"; }
under=resets
start_guest clock --initrd /images/guest.cpio --append "console=ttyS0 $fast" /images/vmlinux &&
	expect clock 200 'login: ' || { not_ok "the guest starts"; finish; }
send root
expect clock 30 '# '
send 'date -u -s "2031-05-06 07:08:09" && hwclock -u -w && hwclock -u -r'
check "the guest sets its clock" 'expect clock 60 "2031"'
send 'reboot -f'
check "it starts again" 'expect clock 200 "login: "'
send root
expect clock 30 '# '
send 'echo clock-"$(cat /sys/class/rtc/rtc0/date)"'
check "the clock has what it was set to" 'expect clock 60 "^clock-2031-05-06"'
send 'echo system-"$(date -u +%Y-%m-%d)"'
check "and the system's time comes from it" 'expect clock 60 "^system-2031-05-06"'
kill "$pid"
check "SIGTERM presses the power button, which ends the guest" 'wait_gone $pid 30; [ $code = 0 ]'
check "the module unloads" 'unload_module'
finish
