# SPDX-License-Identifier: GPL-2.0
#
# Four virtual CPUs on two, which never poll when they halt: all of them boot and
# count timer interrupts.
# ring: guest
# timeout: 400
# hosts: amd, amd-4level, intel, intel-old
# ring@amd-4level: full
# ring@intel: full
. ./tests/system/lib.sh

load_module halt_poll_ns=0
test_guest smp4 360 4 /images/vmlinux
check "the module unloads afterwards" 'unload_module'
finish
