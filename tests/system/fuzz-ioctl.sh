# SPDX-License-Identifier: GPL-2.0
#
# Random callers of every ioctl for a minute, while CPUs go off and on and KVM runs guests beside. The host
# stays as it was. For longer runs, and those to be repeated, see scripts/fuzz-host.
# ring: system
# timeout: 400
# hosts: amd
. ./tests/system/lib.sh

seconds=${FUZZ_SECONDS:-60} seed=${FUZZ_SEED:-1}

# Not called until what they do is mended: XRSTOR faults on Intel's processors at what these give it.
known=
! grep -qw vmx /proc/cpuinfo || known="--without SET_FPU --without SET_XSAVE"

modprobe tun
beside=
! load_kvm || beside="--beside kvm-hello"
load_module
# What the kernel keeps for the next time is not lost.
fuzz-ioctl --seconds 3 --seed "$seed" $known >/dev/null
rmmod rvmm
before=$(free_kib)
load_module
fuzz-ioctl --seconds "$seconds" --seed "$seed" --hotplug $beside $known ${FUZZ_ARGS-} >/tmp/fuzz.out 2>&1
code=$?
while read -r line; do
	text=$(echo "$line" | sed -E 's/^(not )?ok [0-9]+ //')
	case $line in
	"not ok "*) not_ok "$text" ;;
	"ok "*) n=$((n + 1)); echo "ok $n $text" ;;
	"KTAP "* | "1.."*) : ;;
	*) echo "# ${line#\# }" ;;
	esac
done </tmp/fuzz.out
check "the random callers find nothing" '[ $code = 0 ]'
check "the module unloads afterwards" 'unload_module'
for try in 1 2 3 4 5 6 7 8 9 10; do
	after=$(free_kib)
	[ $((before - after)) -ge 16384 ] || break
	sleep 1
done
echo "# free before: $before KiB, after: $after KiB"
check "the memory comes back" '[ $((before - after)) -lt 16384 ]'
check "the log is clean" '! dmesg | grep -E "BUG|WARNING|Oops|blocked for more"'
finish
