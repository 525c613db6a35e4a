# SPDX-License-Identifier: GPL-2.0
#
# Debian's QEMU, as it is, on /dev/rvmm: its PC with SeaBIOS boots a kernel on two CPUs, with QEMU's virtio disk: with all
# interrupt controllers in the module, and with the local APICs alone.
# ring: full
# timeout: 1000
# hosts: amd
# disk: clients
. ./tests/system/lib.sh

mount_qemu
load_module
qemu_guest pc 400 -M pc
qemu_guest pc-split 400 -M pc,kernel-irqchip=split
check "the module unloads afterwards" 'unload_module'
finish
