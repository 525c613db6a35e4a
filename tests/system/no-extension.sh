# SPDX-License-Identifier: GPL-2.0
#
# A machine with neither SVM nor VMX: insmod says so once and fails.
# ring: system
# ring@intel: full
# cpu: max,svm=off
# cpu@intel: p4_prescott_celeron_336
# timeout: 60
. ./tests/system/lib.sh

check_refused "SVM|VMX"
finish
