# SPDX-License-Identifier: GPL-2.0
#
# Life cycle of the module on a machine with SVM or VMX.
# ring: system
# timeout: 120
# hosts: amd, amd-4level, amd-shadow, intel, intel-new, intel-old, intel-shadow, intel-core2
# ring@amd-4level: full
# ring@intel-old: full
# ring@intel-core2: full
. ./tests/system/lib.sh

check "insmod finds SVM or VMX" 'insmod rvmm.ko ${MODULE_PARAMETERS-}'
check "/dev/rvmm is a character device" '[ -c /dev/rvmm ]'
check "the log says what was found" 'dmesg | grep -qiE "rvmm.*(svm|vmx)"'
nested='npt|ept'
[ -z "${MODULE_PARAMETERS-}" ] || nested=none
shadow=0
grep -qE "^flags.* ($nested)( |$)" /proc/cpuinfo || shadow=1
check "the log says whether guests have shadow pages" '[ "$(dmesg | grep -cE "rvmm: (SVM|VMX) .*shadow pages")" = $shadow ]'
check "a second insmod is refused" '! insmod rvmm.ko 2>/dev/null'
sleep 1000 </dev/rvmm &
holder=$!
sleep 0.3
check "rmmod refuses while the node is open" '! rmmod rvmm 2>/dev/null'
kill $holder
wait $holder 2>/dev/null
check "rmmod works once it is closed" 'unload_module'
check "rmmod leaves no node behind" '[ ! -e /dev/rvmm ]'
check "rmmod leaves no module behind" '! grep -q ^rvmm /proc/modules'
finish
