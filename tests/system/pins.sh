# SPDX-License-Identifier: GPL-2.0
#
# Guests without message-signalled interrupts: their devices interrupt by the INTx pins, which the I/O APIC, the 8259 pair
# brings to them, as ACPI or the MP table or the configuration space says.
# ring: guest
# timeout: 500
# hosts: amd, intel
# ring@intel: full
. ./tests/system/lib.sh

# pins NAME CPUS OPTIONS: the test guest, which reads and writes its disk, with these options for its kernel.
pins() {
	local result name=$1
	cp /images/small.img "/tmp/$1.img"
	run_guest "$1" 200 -c "$2" --initrd /images/guest.cpio \
		--append "console=ttyS0 $fast $3 rvmm.test=boot rvmm.cpus=$2 rvmm.utc=$(date +%s)" \
		/images/vmlinux "/tmp/$1.img" --disk "/tmp/program.img,ro"
	for result in "the disk holds the known file" "what was written is read back" "virtio-rng gives bytes" \
		"the kernel log is clean"; do
		check "$1: $result" 'tr -d "\r" <"/tmp/$name.console" | grep -qE "^ok [0-9]+ guest: $result"'
	done
	check "$1: rvmm-run ends with 0 when the guest powers off" '[ $code = 0 ]'
}

load_module
truncate -s 1M /tmp/program.img
pins nomsi 2 'pci=nomsi'
pins nolapic 1 'nolapic'
pins noacpi 2 'pci=nomsi acpi=noirq'
pins pair 1 'nolapic acpi=noirq'
check "the module unloads afterwards" 'unload_module'
finish
