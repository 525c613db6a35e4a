# SPDX-License-Identifier: GPL-2.0
#
# A machine whose IA32_FEATURE_CONTROL is locked with VMX off: insmod says so once and fails. Here the
# host's kernel locks it, since it was told not to use VMX.
# ring: full
# hosts: intel
# append: clearcpuid=vmx
# timeout: 60
. ./tests/system/lib.sh

check_refused "disabled by the firmware"
finish
