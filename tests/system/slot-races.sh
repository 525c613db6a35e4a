# SPDX-License-Identifier: GPL-2.0
#
# Pages that the host takes away while a guest's memory slots change, or while the guest faults them in: the guest never
# finds an old page. Stock KVM passes the same.
# ring: system
# hosts: amd, intel
# ring@intel: full
# timeout@intel: 900
. ./tests/system/lib.sh

# Each slot that is made takes as long as there are slots, and Bochs is slow.
crowd=8000
! grep -q "^flags.* vmx" /proc/cpuinfo || crowd=2000
load_module
for case in "aliases 100" "deletion 10" "move 10" "faults 2000" "crowd $crowd"; do
	check "/dev/rvmm: ${case% *}" "timeout -s KILL 100 slot-races /dev/rvmm $case >/tmp/races"
	sed 's/^/# /' /tmp/races
done
check "the module unloads" unload_module
if grep -q "^flags.* vmx" /proc/cpuinfo; then
	# Bochs holds interrupts back from a guest that was entered with RFLAGS.IF clear, which these are.
	skip "/dev/kvm" "KVM on Bochs does not get its processor back from such a guest"
	finish
fi
load_kvm || { skip "/dev/kvm" "no $kvm"; finish; }
for case in "aliases 30" "deletion 5" "move 5" "faults 300" "crowd $crowd"; do
	check "/dev/kvm: ${case% *}" "timeout -s KILL 100 slot-races /dev/kvm $case >/tmp/races"
	sed 's/^/# /' /tmp/races
done
finish
