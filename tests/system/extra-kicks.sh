# SPDX-License-Identifier: GPL-2.0
#
# A driver that kicks more often than it is asked to loses no request: neither those
# that a vCPU's own thread begins nor those that it leaves to the queue's worker.
# ring: system
# timeout: 120
# hosts: amd, intel
. ./tests/system/lib.sh

load_module
truncate -s 32M /tmp/disk.img
for try in 1 2; do
	run_guest kicks 60 --append bench=kicks --disk /tmp/disk.img,queues=1 tiny-guest
	check "try $try: all requests of a driver that always kicks end" 'grep -q "guest kicks: 200 rounds" /tmp/kicks.console'
	check "try $try: their data are right, and rvmm-run ends with 0" 'grep -q "guest kicked" /tmp/kicks.console && [ $code = 0 ]'
	tail -n 3 /tmp/kicks.console | sed 's/^/# /'
done
check "the module unloads" 'unload_module'
finish
