# SPDX-License-Identifier: GPL-2.0
#
# The random callers of fuzz-ioctl for as long as the soak gives, in the last third of it with allocations and copies
# that fail.
# ring: soak
# hosts: amd-debug
# loops: 2
# allow: Huh VM_FAULT_OOM leaked out to the #PF handler
# timeout: 300
. ./tests/system/lib.sh

third=$((${SOAK_SECONDS:-60} / 3)) seed=${FUZZ_SEED:-$(($(date +%s) % 1000000))}
echo "# seed $seed"
modprobe tun
keep_kvm
load_module
callers "CPUs go and come" $third "$seed" --limit "$(limit 20)" --hotplug
callers "KVM beside" $third "$seed" --limit "$(limit 20)" --beside kvm-hello
# Calls fail now that do not otherwise, the callers' own alone.
allow_faults 1
callers "with faults" $third "$seed" --limit "$(limit 20)" --faults
allow_faults 0
kill -KILL $keeper
check "nobody uses the module any more" 'sleep 2; [ "$(awk "/^rvmm / { print \$3 }" /proc/modules)" = 0 ]'
check "the module runs guests as before" 'kvm-hello 100 /dev/rvmm'
check "the module unloads" 'unload_module'
finish
