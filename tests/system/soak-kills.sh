# SPDX-License-Identifier: GPL-2.0
#
# Guests and other callers are killed at any moment, over and over, some with allocations
# that fail, while KVM's guests run beside and a CPU goes off and on: nothing is left behind.
# ring: soak
# hosts: amd-debug
# allow: Huh VM_FAULT_OOM leaked out to the #PF handler
# loops: 1
# timeout: 300
. ./tests/system/lib.sh

load_kvm
load_module
modprobe tun
tunctl -t rvmm0 >/dev/null
ip link set rvmm0 up
before=$(free_kib)
allow_faults 1

# victim NUMBER: starts one of the callers in the background.
victim() {
	local how
	[ $((RANDOM % 3)) = 0 ] && how=faulty || how=
	truncate -s 8M /tmp/disk-$1.img
	case $((RANDOM % 6)) in
	0) $how rvmm-run --no-reboot --console none --append bench=forever32 --disk /tmp/disk-$1.img tiny-guest ;;
	1) $how rvmm-run --no-reboot --console none --append bench=forever --net tap=rvmm0 tiny-guest ;;
	2) $how rvmm-run --no-reboot --console none -c 2 -m 256M --console-device virtio --initrd /images/guest.cpio \
		--append "console=hvc0 $fast" --disk /tmp/disk-$1.img /images/vmlinux ;;
	3) $how rvmm-run --no-reboot --console pty -c 4 -m 256M --initrd /images/guest.cpio --append "console=ttyS0 $fast" /images/vmlinux ;;
	4) $how abi-tests --limit 600 ;;
	5) $how kvm-hello 100000 /dev/rvmm ;;
	esac >/tmp/victim-$1.log 2>&1 &
}

# victims NUMBER: kills one after the other, after 0 to 4 seconds.
victims() {
	local pid
	while time_left; do
		victim "$1"
		pid=$!
		sleep $((RANDOM % 4)).$((RANDOM % 10))
		kill -9 $(cat /proc/$pid/task/$pid/children 2>/dev/null) $pid 2>/dev/null
		wait $pid 2>/dev/null
		echo x >>/tmp/kills-$1
	done
}

for v in 1 2 3; do
	victims $v &
done
while time_left; do
	kvm-hello 500 >/tmp/kvm.out 2>&1 || cat /tmp/kvm.out >>/tmp/kvm.bad
	echo 0 >/sys/devices/system/cpu/cpu2/online
	sleep 1
	echo 1 >/sys/devices/system/cpu/cpu2/online
	sleep 1
done
wait
allow_faults 0
echo "# $(cat /tmp/kills-* | wc -l) callers killed"
check "callers were killed" '[ "$(cat /tmp/kills-* | wc -l)" -gt 3 ]'
check "KVM's guests ran beside" '[ ! -e /tmp/kvm.bad ]'
check "nobody uses the module any more" 'sleep 2; [ "$(awk "/^rvmm / { print \$3 }" /proc/modules)" = 0 ]'
check "the module runs guests as before" 'kvm-hello 100 /dev/rvmm'
rm -f /tmp/disk-*
after=$(free_kib)
echo "# free before: $before KiB, after: $after KiB"
check "the memory comes back" '[ $((before - after)) -lt 65536 ]'
check "the module unloads" 'unload_module'
finish
