# SPDX-License-Identifier: GPL-2.0
#
# A guest that resets itself, by each way that a kernel knows: the tool says so,
# or starts the guest again.
# ring: system
# timeout: 400
# hosts: amd, intel, intel-old
# ring@intel: full
# ring@intel-old: full
. ./tests/system/lib.sh

load_module
for way in acpi kbd pci bios; do
	run_end "reset-$way" reset "reboot=$way" 3
done
# Without --no-reboot the tool starts the guest again, also after a triple fault.
for way in acpi triple; do
	cp /images/small.img /tmp/twice.img
	timeout -s KILL "$(limit 180)" rvmm-run --console file:/tmp/twice.console -m 256M --initrd /images/guest.cpio \
		--append "console=ttyS0 $fast rvmm.test=twice reboot=$way" /images/vmlinux /tmp/twice.img >/tmp/twice.log 2>&1
	code=$?
	[ $code = 0 ] || show_guest twice
	check "twice-$way: the guest was started again" 'grep -q "started again" /tmp/twice.console'
	check "twice-$way: exit code 0 in the end" '[ $code = 0 ]'
done
check "a triple fault is told" 'grep -q "triple fault: the guest is reset" /tmp/twice.log'
check "the module unloads afterwards" 'unload_module'
finish
