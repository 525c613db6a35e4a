# SPDX-License-Identifier: GPL-2.0
#
# A machine with VMX but without EPT: insmod says so once and fails.
# ring: full
# hosts: intel
# cpu@intel: core2_penryn_t9600
# timeout: 60
. ./tests/system/lib.sh

check_refused "lacks .*EPT"
finish
