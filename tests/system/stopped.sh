# SPDX-License-Identifier: GPL-2.0
#
# rvmm-run is stopped for longer than a guest's watchdogs wait, and goes on: the guest is told, so none of them barks,
# and its clock is right.
# ring: system
# timeout: 400
# ring@intel: full
. ./tests/system/lib.sh

load_module
# The watchdogs bark after 3 and 4 seconds.
start_guest stopped -c 2 --initrd /images/guest.cpio \
	--append "console=ttyS0 $fast rcupdate.rcu_cpu_stall_timeout=3 watchdog_thresh=2" /images/vmlinux &&
	expect stopped 200 'login: ' || { not_ok "the guest starts"; finish; }
send root
expect stopped 30 '# '
# Work on both processors, so that someone waits for them.
send 'for i in 1 2; do while :; do :; done & done; read before rest </proc/uptime; echo "work"-ing'
check "the guest works" 'expect stopped 60 "^work-ing"'
kill -STOP "$pid"
sleep 12
kill -CONT "$pid"
sleep 8
send 'read now rest </proc/uptime; [ $((${now%.*} - ${before%.*})) -ge 12 ] && echo "time"-right'
check "its clock went on meanwhile" 'expect stopped 100 "^time-right"'
check "none of its watchdogs barks" '! grep -qiE "stall|lockup|hung|not responding" /tmp/stopped.console'
send 'poweroff'
check "it powers off" 'wait_gone $pid 100'
check "the module unloads" 'unload_module'
finish
