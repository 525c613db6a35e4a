# SPDX-License-Identifier: GPL-2.0
#
# A kernel started by rvmm-run finds the chips as a PC's firmware leaves them.
# ring: system
# timeout: 120
# hosts: amd, intel
. ./tests/system/lib.sh

# found NAME VALUE: checks a line of the guest.
found() {
	check "at the start: $1 $2" 'tr -d "\r" </tmp/chips.console | grep -qxF "guest chips '"$1 $2"'"'
}

load_module
run_guest chips 60 --append bench=chips tiny-guest
check "the guest ends by itself" '[ $code = 0 ]'
found pit-counts down
# Word access, mode 2, binary.
found pit-status 34
found "pic-masks" "ff ff"
# 32,768 Hz and 1,024 Hz; 24 hours, BCD.
found rtc "26 2"
# System flag; keyboard interrupt, no mouse, translation.
found keyboard "14 65"
found uart "0 0 60"
found lint "700 400"
found apic-base fee00900
found mtrr 806
tr -d '\r' </tmp/chips.console | grep "^guest chips" | sed 's/^/# /'
check "the module unloads" 'unload_module'
finish
