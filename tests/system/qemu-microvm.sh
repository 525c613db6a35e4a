# SPDX-License-Identifier: GPL-2.0
#
# Debian's QEMU, as it is, on /dev/rvmm: its microvm, which has no PIC of the module's but local APICs, with PCI Express.
# ring: full
# timeout: 600
# hosts: amd
# disk: clients
. ./tests/system/lib.sh

mount_qemu
load_module
qemu_guest microvm 400 -M microvm,pcie=on,rtc=on
check "the module unloads afterwards" 'unload_module'
finish
