# SPDX-License-Identifier: GPL-2.0
#
# The ioctl interface: tests/abi passes on /dev/rvmm, and on stock /dev/kvm of
# the same machine, so what it asks for is what KVM does.
# ring: guest
# timeout: 400
# hosts: amd, amd-4level, intel, intel-new, intel-old
# ring@amd-4level: full
# ring@intel-new: full
# ring@intel-old: full
. ./tests/system/lib.sh

load_module
abi /dev/rvmm
if grep -q "^flags.* vmx" /proc/cpuinfo; then
	check "the log names the rule that an entry broke" 'dmesg | grep -q "rvmm: VM [0-9]*-[0-9]*: vcpu 0 stopped: .*64-bit CS must have D/B clear"'
fi
check "the module unloads afterwards" unload_module
if grep -q "^flags.* vmx" /proc/cpuinfo; then
	# With kvm_intel on Bochs 3.0 they had not ended after nine minutes. The likely cause: Bochs holds
	# interrupts back from a guest that was entered with RFLAGS.IF clear, and some of these guests spin.
	skip "/dev/kvm" "the tests do not end with KVM on Bochs"
elif load_kvm; then
	abi /dev/kvm
else
	skip "/dev/kvm" "no $kvm"
fi
finish
