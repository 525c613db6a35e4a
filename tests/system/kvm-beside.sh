# SPDX-License-Identifier: GPL-2.0
#
# KVM guests run beside rvmm guests on the same CPUs.
# ring: system
# timeout: 500
# hosts: amd, intel, intel-old
# ring@intel-old: full
. ./tests/system/lib.sh

load_kvm || { skip "KVM beside rvmm" "no $kvm"; finish; }
check "KVM runs a guest before rvmm is there" 'kvm-hello 100'
load_module
check "KVM runs a guest with rvmm loaded" 'kvm-hello 100'
# More of them than a small processor has ASIDs, so that the last one is used, too.
check "guests of both that take turns meet nothing of each other's" 'two-tlbs /dev/kvm 18 /dev/rvmm 2 300'
check "the same beside a KVM that comes and goes" '
	two-tlbs /dev/rvmm 2 /dev/rvmm 1 100 && rmmod $kvm && two-tlbs /dev/rvmm 3 /dev/rvmm 3 100 && load_kvm &&
	two-tlbs /dev/kvm 3 /dev/rvmm 3 100'
(
	n=0
	test_guest beside 340 2 /images/vmlinux
) >/tmp/results &
guest=$!
runs=0 bad=0
while kill -0 $guest 2>/dev/null; do
	kvm-hello 2000 >/tmp/kvm.out || bad=$((bad + 1))
	runs=$((runs + 1))
	sleep 0.2
done
wait $guest
cat /tmp/results
n=$(grep -cE '^(not )?ok ' /tmp/results)
check "KVM guests ran all the while" '[ $runs -ge 2 ] && [ $bad = 0 ]'
echo "# $runs KVM guests, $bad failed: $(tail -n 1 /tmp/kvm.out)"
check "rvmm unloads beside KVM" 'unload_module'
check "KVM runs a guest after rvmm went" 'kvm-hello 100'
check "KVM unloads" 'rmmod $kvm'
finish
