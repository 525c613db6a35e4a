# SPDX-License-Identifier: GPL-2.0
#
# Loads and unloads the module over and over, every other time with allocations that fail:
# it is there or it is not, and memory comes back.
# ring: soak
# hosts: amd-debug
# allow: Huh VM_FAULT_OOM leaked out to the #PF handler
# allow: insmod: vmalloc error: size
# allow: WARNING: at event_define_fields
# loops: 1
# timeout: 200
. ./tests/system/lib.sh

is_there() { [ -c /dev/rvmm ] && grep -q ^rvmm /proc/modules; }
is_gone() { [ ! -e /dev/rvmm ] && ! grep -q ^rvmm /proc/modules; }

for i in 1 2 3; do
	insmod rvmm.ko && kvm-hello 10 /dev/rvmm >/dev/null && rmmod rvmm
done
before=$(free_kib)
loads=0 refused=0 bad=
while time_left && [ -z "$bad" ]; do
	allow_faults 0
	loads=$((loads + 1))
	insmod rvmm.ko && is_there && kvm-hello 10 /dev/rvmm >/tmp/hello 2>&1 && rmmod rvmm && is_gone || bad="load $loads"
	allow_faults 1
	if faulty insmod rvmm.ko 2>/dev/null; then
		is_there || bad="load $loads with faults: no node"
		faulty kvm-hello 10 /dev/rvmm >/dev/null 2>&1
		rmmod rvmm || bad="unload $loads after faults"
	else
		refused=$((refused + 1))
		is_gone || bad="load $loads with faults: something stays"
	fi
done
allow_faults 0
check "the module is there or gone each time" '[ -z "$bad" ]'
echo "# $loads loads and as many with faults, $refused of these refused; ${bad:-all well}"
[ -z "$bad" ] || sed 's/^/# /' /tmp/hello
after=$(free_kib)
echo "# free before: $before KiB, after: $after KiB"
check "no memory is lost" '[ $((before - after)) -lt 16384 ]'
finish
