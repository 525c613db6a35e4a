# SPDX-License-Identifier: GPL-2.0
#
# A process that is killed ends within a second, whatever it does or waits for in the module.
# ring: system
# timeout: 180
. ./tests/system/lib.sh

load_module
killed-busy "$(limit 1)" >/tmp/busy.out 2>&1
code=$?
pass_on /tmp/busy.out
check "all of them ran" '[ $code = 0 ]'
check "the module unloads" 'unload_module'
finish
