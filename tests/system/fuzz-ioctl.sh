# SPDX-License-Identifier: GPL-2.0
#
# Random callers of every ioctl for a minute: half of it while CPUs go off and on, half while KVM runs guests
# beside. Where there is one CPU alone, none can go, which is skipped. The host stays as it was. Each run has another seed,
# and says which: FUZZ_SEED repeats it. For longer runs, see scripts/fuzz-host.
#
# Not both at once: when a CPU comes, KVM walks its list of VMs without the lock under which VMs leave it
# (kvm_arch_enable_virtualization_cpu() in 7.3), and the host dies of that now and then.
# ring: system
# timeout: 400
# timeout@intel: 800
. ./tests/system/lib.sh

seconds=${FUZZ_SECONDS:-60} seed=${FUZZ_SEED:-$(($(date +%s) % 1000000))}
echo "# seed $seed"

modprobe tun
has_kvm=
! keep_kvm || has_kvm=yes
load_module
# What the kernel keeps for the next time is not lost.
fuzz-ioctl --seconds 3 --seed "$seed" $(on_emulator) >/dev/null
unload_module
before=$(free_kib)
load_module

callers "CPUs go and come" $((seconds / 2)) "$seed" --hotplug
if [ -n "$has_kvm" ]; then
	callers "KVM beside" $((seconds / 2)) "$seed" --beside kvm-hello
	kill -KILL $keeper
else
	callers "alone" $((seconds / 2)) "$seed"
fi
check "the module unloads afterwards" 'unload_module'
check_memory_comes_back "$before"
check "the log is clean" '! dmesg | grep -E "BUG|WARNING|Oops|blocked for more"'
finish
