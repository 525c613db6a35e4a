# SPDX-License-Identifier: GPL-2.0
#
# A guest that takes processors' and interrupts' wiring from the MP table, for it is told to leave ACPI's alone.
# ring: guest
# timeout: 400
# hosts: amd, intel
# ring@intel: full
. ./tests/system/lib.sh

load_module
cp /images/small.img /tmp/mp.img
run_guest mp 360 -c 2 --initrd /images/guest.cpio \
	--append "console=ttyS0 $fast acpi=noirq rvmm.test=boot rvmm.cpus=2 rvmm.utc=$(date +%s)" /images/vmlinux /tmp/mp.img
guest_results mp
check "rvmm-run ends with 0 when the guest powers off" '[ $code = 0 ]'
check "the module unloads afterwards" 'unload_module'
finish
