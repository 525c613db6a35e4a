# SPDX-License-Identifier: GPL-2.0
#
# CPUs of the host go offline and come back while a guest runs.
# ring: system
# smp: 2
# timeout: 400
# hosts: amd
. ./tests/system/lib.sh

load_module
(
	n=0
	test_guest hotplug 340 2 /images/vmlinux
) >/tmp/results &
guest=$!
cycles=0
while kill -0 $guest 2>/dev/null; do
	echo 0 >/sys/devices/system/cpu/cpu1/online || break
	sleep 1
	echo 1 >/sys/devices/system/cpu/cpu1/online || break
	sleep 1
	cycles=$((cycles + 1))
done
wait $guest
cat /tmp/results
n=$(grep -cE '^(not )?ok ' /tmp/results)
check "the CPU went off and on while the guest ran" '[ $cycles -ge 2 ]'
echo "# $cycles cycles"
check "the module unloads afterwards" 'unload_module'
finish
