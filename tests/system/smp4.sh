# SPDX-License-Identifier: GPL-2.0
#
# Four virtual CPUs on two: all of them boot and count timer interrupts.
# ring: guest
# timeout: 400
# hosts: amd, amd-4level, intel, intel-old
# ring@amd-4level: full
# ring@intel: full
. ./tests/system/lib.sh

load_module
test_guest smp4 360 4 /images/vmlinux
check "the module unloads afterwards" 'unload_module'
finish
