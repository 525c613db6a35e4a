# SPDX-License-Identifier: GPL-2.0
#
# A host with its processor's mitigations on: what entries and exits owe them runs; on this processor returns are
# untrained after each exit. (Bochs 3.0 does not boot a kernel with mitigations.)
# ring: full
# cpu: EPYC-Milan
# append: mitigations=auto
# timeout: 400
# hosts: amd
. ./tests/system/lib.sh

check "the host's mitigations are on" '! grep -q "mitigations=off" /proc/cmdline'
grep . /sys/devices/system/cpu/vulnerabilities/* | sed 's,.*/,# ,'
load_module
abi-tests "guest:" "control:" >/tmp/abi.out 2>&1
code=$?
check "guests run" '[ $code = 0 ]'
grep "^not ok" /tmp/abi.out | sed 's/^/# /'
check "the module unloads afterwards" unload_module
finish
