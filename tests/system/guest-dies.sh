# SPDX-License-Identifier: GPL-2.0
#
# A guest that ends in a triple fault: the tool says so, with the registers and
# the exits that led to it.
# ring: system
# timeout: 200
# hosts: amd, intel, intel-old
# ring@intel-old: full
. ./tests/system/lib.sh

load_module
run_end triple triple reboot=triple 4
check "the dump has the registers" 'grep -q "rip [0-9a-f]* rflags" /tmp/triple.log'
check "the dump has the exits before" 'grep -q "last exits in the module (64 of them)" /tmp/triple.log'
check "the last of them is the triple fault" '[ "$(grep -c shutdown /tmp/triple.log)" = 1 ]'
check "the module unloads afterwards" 'unload_module'
finish
