# SPDX-License-Identifier: GPL-2.0
#
# The random callers of fuzz-ioctl for as long as the soak gives, and then in the second half with allocations and
# copies that fail.
# ring: soak
# hosts: amd-debug
# loops: yes
# timeout: 300
. ./tests/system/lib.sh

third=$((${SOAK_SECONDS:-60} / 3)) seed=${FUZZ_SEED:-$(($(date +%s) % 1000000))}
echo "# seed $seed"
# As in fuzz-ioctl.sh: QEMU ends itself when a guest's breakpoint is met in the delivery of an event.
known="--without SET_DEBUGREGS"
modprobe tun
load_kvm
load_module

# callers NAME OPTION…: what they print, with what failed as a result.
callers() {
	local name=$1
	shift
	fuzz-ioctl --seconds $third --seed "$seed" --limit "$(limit 20)" $known "$@" >/tmp/fuzz.out 2>&1
	code=$?
	pass_on /tmp/fuzz.out "$name: "
	check "$name: the random callers find nothing" '[ $code = 0 ]'
}
callers "CPUs go and come" --hotplug
callers "KVM beside" --beside kvm-hello
# Calls fail now that do not otherwise, so only what the kernel says counts, and that they end.
allow_faults 1
faulty fuzz-ioctl --seconds $third --seed "$seed" --limit "$(limit 20)" $known >/tmp/fuzz.out 2>&1
code=$?
allow_faults 0
grep -v '^KTAP' /tmp/fuzz.out | sed 's/^/# /'
check "with faults: the random callers end by themselves" '[ $code -lt 2 ]'
check "nobody uses the module any more" 'sleep 2; [ "$(awk "/^rvmm / { print \$3 }" /proc/modules)" = 0 ]'
check "the module runs guests as before" 'kvm-hello 100 /dev/rvmm'
check "the module unloads" 'unload_module'
finish
