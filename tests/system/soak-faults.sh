# SPDX-License-Identifier: GPL-2.0
#
# Every allocation and every copy of every ioctl that the tests of the ABI and rvmm-run make
# fails once, and so does every one of a load of the module; what was asked for then works at
# the next try, and nothing is left behind.
# ring: soak
# hosts: amd-debug
# allow: Huh VM_FAULT_OOM leaked out to the #PF handler
# allow: insmod: vmalloc error: size
# allow: WARNING: at event_define_fields
# timeout: 1800
. ./tests/system/lib.sh

KVM_RUN=ae80
allow_faults 0
load_module
# What KVM_RUN cannot read is memory that the VMM has taken away, which a guest is told of.
abi /dev/rvmm nth-fault -x $KVM_RUN
truncate -s 8M /tmp/disk.img
modprobe tun
tunctl -t rvmm0 >/dev/null
ip link set rvmm0 up
guest="rvmm-run --no-reboot --append bench=kicks --disk /tmp/disk.img,queues=1 --net tap=rvmm0 tiny-guest"
timeout -s KILL 600 nth-fault -x $KVM_RUN $guest --console file:/tmp/faults.console >/tmp/faults.log 2>&1
code=$?
check "a guest with a disk and a network card runs after every fault of its making" '[ $code = 0 ]'
show_guest faults
# With faults in KVM_RUN too, the guest may end in any way; the kernel's log counts.
timeout -s KILL 600 nth-fault $guest --console none >/tmp/run.log 2>&1
echo "# with faults in KVM_RUN: exit code $?"
sed 's/^/# /' /tmp/run.log
timeout -s KILL 900 nth-fault abi-tests --limit 600 >/tmp/run.log 2>&1
echo "# tests of the ABI with faults in KVM_RUN: exit code $?"
grep -v '^ok' /tmp/run.log | sed 's/^/# /'
check "nobody uses the module any more" 'sleep 1; [ "$(awk "/^rvmm / { print \$3 }" /proc/modules)" = 0 ]'
check "the module unloads" 'unload_module'
timeout -s KILL 900 nth-fault insmod rvmm.ko kvm_node=1 >/tmp/insmod.log 2>&1
code=$?
sed 's/^/# /' /tmp/insmod.log
check "the module loads after every fault of a load" '[ $code = 0 ] && [ -c /dev/rvmm ]'
check "it runs guests" 'kvm-hello 100 /dev/rvmm'
check "it unloads" 'unload_module'
finish
