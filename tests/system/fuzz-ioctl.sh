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

# Not called: QEMU ends itself ("bql_lock_impl: assertion failed") when a guest's breakpoint is met in the delivery of
# an event.
known=
! grep -q "QEMU TCG" /proc/cpuinfo || known="--without SET_DEBUGREGS"

modprobe tun
has_kvm=
if load_kvm; then
	has_kvm=yes
	# KVM keeps a VM all the while. With the first and the last one the kernel patches the code of its scheduler,
	# and TCG now and then runs an int3 that is not there any more: "Oops: int3" in __schedule().
	kvm-hello 0xffffffff &
	keeper=$!
	sleep 1
	kill -STOP $keeper
fi
load_module
# What the kernel keeps for the next time is not lost.
fuzz-ioctl --seconds 3 --seed "$seed" $known >/dev/null
unload_module
before=$(free_kib)
load_module

# callers NAME SEED OPTION…
callers() {
	local name=$1 seed=$2
	shift 2
	fuzz-ioctl --seconds $((seconds / 2)) --seed "$seed" $known "$@" ${FUZZ_ARGS-} >/tmp/fuzz.out 2>&1
	code=$?
	pass_on /tmp/fuzz.out "$name: "
	check "$name: the random callers find nothing" '[ $code = 0 ]'
}
callers "CPUs go and come" "$seed" --hotplug
if [ -n "$has_kvm" ]; then
	callers "KVM beside" "$seed" --beside kvm-hello
	kill -KILL $keeper
else
	callers "alone" "$seed"
fi
check "the module unloads afterwards" 'unload_module'
check_memory_comes_back "$before"
check "the log is clean" '! dmesg | grep -E "BUG|WARNING|Oops|blocked for more"'
finish
