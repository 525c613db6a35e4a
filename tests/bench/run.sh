# SPDX-License-Identifier: GPL-2.0
#
# Runs in the emulated host: the floor, then the rows on KVM, then on rvmm, each
# alone on the machine. Usage: run.sh "NODE…" [ROW…], a node being kvm or rvmm.
nodes=$1
shift
dmesg -n 4
insmod rvmm_floor.ko 2>/dev/null
dmesg | sed -n 's/.*rvmm_floor: bare/floor bare/p; s/.*\] bare \([0-9]* gprs\)/floor bare \1/p' | head -n 1
for node in $nodes; do
	case $node in
	kvm)
		modprobe kvm_amd || continue
		echo "node kvm"
		rvmm-bench /dev/kvm "$@"
		rmmod kvm_amd ccp kvm
		;;
	rvmm)
		insmod rvmm.ko || continue
		echo "node rvmm"
		rvmm-bench /dev/rvmm "$@"
		rmmod rvmm
		;;
	esac
done
echo "node end"
