# SPDX-License-Identifier: GPL-2.0
#
# Debian's QEMU, as it is, on /dev/rvmm: its Q35 with OVMF. The firmware runs from a read-only slot, and its variables are in
# a flash chip whose memory is a slot or a device from one moment to the next.
# ring: full
# timeout: 1400
# hosts: amd
# disk: clients
. ./tests/system/lib.sh

mount_qemu
firmware=/usr/share/OVMF
[ -e $root$firmware/OVMF_CODE_4M.fd ] || { skip "ovmf: a guest of its own" "no OVMF on the drive"; finish; }
load_module
cp $root$firmware/OVMF_VARS_4M.fd /tmp/variables.fd
before=$(sha256sum </tmp/variables.fd)
qemu_guest ovmf 1100 -M q35 -drive if=pflash,unit=0,format=raw,readonly=on,file=$firmware/OVMF_CODE_4M.fd \
	-drive if=pflash,unit=1,format=raw,file=/tmp/variables.fd \
	-append "console=ttyS0 $fast loglevel=7 rvmm.test=boot rvmm.cpus=2 rvmm.utc=$(date +%s)"
check "ovmf: the guest runs on EFI" 'grep -q "efi: EFI v" /tmp/ovmf.console'
check "ovmf: the firmware has written its variables" '[ "$(sha256sum </tmp/variables.fd)" != "$before" ]'
check "the module unloads afterwards" 'unload_module'
finish
