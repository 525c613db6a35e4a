# SPDX-License-Identifier: GPL-2.0
#
# kill -9 of rvmm-run while its guest does disk I/O leaves nothing behind.
# ring: system
# timeout: 400
# hosts: amd, amd-4level, intel, intel-old
# ring@amd-4level: full
# ring@intel-old: full
. ./tests/system/lib.sh

load_module
cp /images/small.img /tmp/disk.img
before=$(free_kib)
start_guest victim --initrd /images/guest.cpio --append "console=ttyS0 $fast" /images/vmlinux /tmp/disk.img ||
	{ not_ok "the guest starts"; finish; }
if expect victim 300 'login: '; then
	ok "the guest gives a login prompt on the pty"
	send root
	expect victim 30 '# ' && send 'while :; do dd if=/dev/zero of=/mnt/x bs=64k count=64 conv=fsync 2>/dev/null; done'
	sleep 2
else
	not_ok "the guest gives a login prompt on the pty"
fi
kill -9 "$pid"
check "rvmm-run dies at once" 'wait_gone $pid 10'
check "nobody uses the module any more" 'sleep 1; [ "$(awk "/^rvmm / { print \$3 }" /proc/modules)" = 0 ]'
check_memory_comes_back "$before"
check "the module unloads" 'unload_module'
finish
