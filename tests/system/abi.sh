# SPDX-License-Identifier: GPL-2.0
#
# The ioctl interface: tests/abi passes on /dev/rvmm, and on stock /dev/kvm of
# the same machine, so what it asks for is what KVM does.
# ring: guest
# timeout: 400
. ./tests/system/lib.sh

# abi NODE: runs tests/abi against it and passes the results on.
abi() {
	local node=$1 line text
	abi-tests --device "$node" >/tmp/abi.out 2>&1
	code=$?
	while read -r line; do
		text=$(echo "$line" | sed -E 's/^(not )?ok [0-9]+ //')
		case $line in
		"not ok "*) not_ok "$node: $text" ;;
		"ok "*) n=$((n + 1)); echo "ok $n $node: $text" ;;
		"KTAP "* | "1.."*) : ;;
		*) echo "# ${line#\# }" ;;
		esac
	done </tmp/abi.out
	check "$node: no test failed" '[ $code = 0 ]'
}

load_module
abi /dev/rvmm
check "the module unloads afterwards" unload_module
if modprobe kvm_amd; then
	abi /dev/kvm
else
	skip "/dev/kvm" "no kvm_amd"
fi
finish
