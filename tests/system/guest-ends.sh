# SPDX-License-Identifier: GPL-2.0
#
# However a guest ends, the tool says how: resets by each way that a kernel
# knows, and a triple fault with registers and the exits that led to it.
# ring: system
# timeout: 400
# hosts: amd, intel, intel-old
# ring@intel-old: full
. ./tests/system/lib.sh

load_module
# ends NAME TEST OPTION CODE: the exit code of a guest that runs TEST.
ends() {
	run_guest "$1" 90 -m 256M --initrd /images/guest.cpio \
		--append "console=ttyS0 $fast rvmm.test=$2 $3" /images/vmlinux >/dev/null
	check "$1: exit code $4" "[ $code = $4 ]"
	check "$1: the guest did not go on" '! grep -q "still there" /tmp/'"$1"'.console'
}

for way in acpi kbd pci; do
	ends "reset-$way" reset "reboot=$way" 3
done
ends triple triple reboot=triple 4
check "the dump has the registers" 'grep -q "rip [0-9a-f]* rflags" /tmp/triple.log'
check "the dump has the exits before" 'grep -q "last exits in the module (64 of them)" /tmp/triple.log'
check "the last of them is the triple fault" '[ "$(grep -c shutdown /tmp/triple.log)" = 1 ]'
# Without --no-reboot the tool starts the guest again.
cp /images/small.img /tmp/twice.img
timeout -s KILL 180 rvmm-run --console file:/tmp/twice.console -m 256M --initrd /images/guest.cpio \
	--append "console=ttyS0 $fast rvmm.test=twice" /images/vmlinux /tmp/twice.img >/tmp/twice.log 2>&1
code=$?
[ $code = 0 ] || show_guest twice
check "twice: the guest was started again" 'grep -q "started again" /tmp/twice.console'
check "twice: exit code 0 in the end" '[ $code = 0 ]'
check "the module unloads afterwards" 'unload_module'
finish
