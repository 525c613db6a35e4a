# SPDX-License-Identifier: GPL-2.0
#
# Debian's QEMU, as it is, on /dev/rvmm: its Q35 with SeaBIOS, whose interrupt pins are level triggered and shared: with all
# interrupt controllers in the module, and with the local APICs alone.
# ring: full
# timeout: 1000
# hosts: amd
# disk: clients
. ./tests/system/lib.sh

mount_qemu
load_module
qemu_guest q35 400 -M q35
qemu_guest q35-split 400 -M q35,kernel-irqchip=split
check "the module unloads afterwards" 'unload_module'
finish
