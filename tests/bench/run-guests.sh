# SPDX-License-Identifier: GPL-2.0
#
# Runs in the emulated host: Linux guests under QEMU on KVM and under rvmm-run,
# each alone on the machine. Usage: run-guests.sh "NODE…" ["WHAT…"], a node being kvm or rvmm.
nodes=$1
fast="quiet mitigations=off nokaslr audit=0 raid=noautodetect cryptomgr.notests console=ttyS0 rdinit=/bench"
if [ "$1" = --one ]; then
	one=$2
fi
dmesg -n 4
[ -n "${one-}" ] || cat /images/guest.cpio bench.cpio >/tmp/initrd
[ -n "${one-}" ] || dd if=/dev/zero of=/tmp/disk bs=1M count=32 2>/dev/null

qemu() {
	exec qemu/ld.so --library-path qemu qemu/qemu -L qemu -accel kvm -cpu host -m 512 -nodefaults \
		-no-user-config -display none -no-reboot -serial file:/tmp/console "$@"
}

kvm_boot() {
	qemu -M microvm,pit=off,pic=off,rtc=on -kernel /images/vmlinuz -initrd /tmp/initrd \
		-append "$fast bench=boot"
}

kvm_console() {
	qemu -M q35 -kernel /images/vmlinuz -initrd /tmp/initrd -append "$fast bench=console"
}

kvm_blk() {
	qemu -M q35 -kernel /images/vmlinuz -initrd /tmp/initrd -append "$fast bench=blk" -object iothread,id=t \
		-drive if=none,id=d,file=/tmp/disk,format=raw,cache=none,aio=native \
		-device virtio-blk-pci,drive=d,iothread=t,num-queues=1
}

rvmm_guest() {
	exec ./rvmm-run --no-reboot -m 512M --console file:/tmp/console --initrd /tmp/initrd --stats \
		--append "$fast bench=$1" /images/vmlinuz $2
}

rvmm_boot() { rvmm_guest boot; }
rvmm_console() { rvmm_guest console; }
rvmm_blk() { rvmm_guest blk /tmp/disk; }

# One guest, in a process of its own, whose CPU time is taken. It has 100 s of the host's clock.
if [ -n "${one-}" ]; then
	$one
	exit
fi

# The exits of the guest that runs, as long as it does.
watch_kvm() {
	while [ -e /tmp/running ]; do
		for f in exits io_exits mmio_exits halt_exits irq_exits irq_injections pf_taken insn_emulation; do
			echo "$f $(cat /sys/kernel/debug/kvm/$f)"
		done >/tmp/exits.new
		grep -q '^exits 0' /tmp/exits.new || mv /tmp/exits.new /tmp/exits
		usleep 50000
	done
}

for node in $nodes; do
	case $node in
	kvm) modprobe kvm_amd || continue ;;
	rvmm) insmod rvmm.ko || continue ;;
	esac
	echo "node $node"
	for what in ${2:-boot console blk}; do
		rm -f /tmp/console /tmp/exits
		: >/tmp/running
		[ $node = rvmm ] || watch_kvm &
		watcher=$!
		cputime timeout -s KILL 100 sh "$0" --one ${node}_$what >/tmp/log 2>&1
		rm -f /tmp/running
		wait $watcher
		tr -d '\r' </tmp/console | grep '^guest ' | grep -v boot-to-init-tsc
		if [ $what = boot ]; then
			sed -n 's/^cputime \([0-9]*\)/guest boot-work instructions \1000/p' /tmp/log
			if [ $node = rvmm ]; then
				awk '/^counter/ { on = 1; next } on && NF == 2 && $1 != "cputime" { print "exits", $1, $2 }' /tmp/log
			else
				sed 's/^/exits /' /tmp/exits
			fi
		fi
		grep -q '^guest ' /tmp/console || { echo "# $node $what:"; tail -n 5 /tmp/log /tmp/console | sed 's/^/# /'; }
	done
	case $node in
	kvm) rmmod kvm_amd ccp kvm ;;
	rvmm) rmmod rvmm ;;
	esac
done
echo "node end"
