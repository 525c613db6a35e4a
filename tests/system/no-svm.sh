# SPDX-License-Identifier: GPL-2.0
#
# A machine without SVM: insmod says so once and fails.
# ring: system
# cpu: max,svm=off
# hosts: amd
# timeout: 60
. ./tests/system/lib.sh

check "insmod fails" '! insmod rvmm.ko 2>/tmp/err'
sed 's/^/# /' /tmp/err
# busybox's insmod tries each of the two system calls, so the line comes twice.
dmesg | sed -nE 's/^\[[^]]*\] (rvmm: .*(SVM|VMX).*)/\1/p' | sort -u >/tmp/lines
check "one line in the log says why" '[ "$(wc -l </tmp/lines)" = 1 ]'
dmesg | grep rvmm | sed 's/^/# /'
check "there is no /dev/rvmm" '[ ! -e /dev/rvmm ]'
check "no module stays" '! grep -q ^rvmm /proc/modules'
finish
