# SPDX-License-Identifier: GPL-2.0
#
# A process that is killed leaves nothing behind: no wait that goes on, no file that stays held.
# ring: system
# timeout: 120
. ./tests/system/lib.sh

# FUSE is built into some kernels.
modprobe -a tun loop
modprobe fuse 2>/dev/null
load_module
killed >/tmp/killed.out 2>&1
code=$?
pass_on /tmp/killed.out
check "all of them ran" '[ $code = 0 ]'
check "the module unloads" 'unload_module'
finish
