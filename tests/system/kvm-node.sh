# SPDX-License-Identifier: GPL-2.0
#
# The module in KVM's place: with kvm_node=1 it makes /dev/kvm too, if nobody else has.
# ring: system
# timeout: 120
# hosts: amd, intel
. ./tests/system/lib.sh

load_module
check "without the parameter there is no /dev/kvm" '[ ! -e /dev/kvm ]'
check "the module unloads" 'unload_module'

load_module kvm_node=1
check "/dev/kvm has the number that is KVM's" '[ -c /dev/kvm ] && [ "$(stat -c %t:%T /dev/kvm)" = a:e8 ]'
check "a program that opens /dev/kvm runs its guest" 'kvm-hello 100'
check "and one that opens /dev/rvmm does" 'kvm-hello 100 /dev/rvmm'
sleep 1000 </dev/kvm &
holder=$!
sleep 0.3
check "rmmod refuses while /dev/kvm is open" '! rmmod rvmm 2>/dev/null'
kill $holder
wait $holder 2>/dev/null
load_kvm 2>/dev/null
check "KVM's module for this processor does not load beside it" '! grep -q "^$kvm " /proc/modules'
check "a program that opens /dev/kvm still runs its guest" 'kvm-hello 100'
check "the module unloads" 'unload_module'
check "rmmod leaves neither node behind" '[ ! -e /dev/kvm ] && [ ! -e /dev/rvmm ]'

# The part of KVM that is for all processors may be loaded: it takes no place.
rmmod kvm 2>/dev/null
if modprobe kvm && load_module kvm_node=1; then
	check "with no more of KVM than kvm.ko there is room" 'kvm-hello 100'
	check "the module unloads" 'unload_module'
fi
load_kvm || { skip "KVM beside it" "no $kvm"; finish; }
check_refused "/dev/kvm is taken" kvm_node=1
check "KVM's guests go on" 'kvm-hello 100'
load_module
check "without the parameter it loads beside KVM" 'kvm-hello 100 /dev/rvmm && kvm-hello 100'
check "the module unloads" 'unload_module'
finish
