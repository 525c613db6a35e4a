# SPDX-License-Identifier: GPL-2.0
#
# CPUs of the host go offline and come back while small guests run. With two CPUs Bochs 3.0 tells a wrong
# RIP where a host's interrupt ends a guest just after an exception of the guest (docs/lab-intel.md), so
# no guest with exceptions, such as Linux, can be used there.
# ring: system
# hosts: amd, intel
# ring@amd: full
# smp: 2
# timeout: 200
. ./tests/system/lib.sh

load_module
# guests NAME: runs small guests one after the other, on the CPUs that tests run on; the file that it leaves has the
# failures.
guests() {
	while [ ! -e /tmp/stop ]; do
		kvm-hello 3000 /dev/rvmm >/tmp/out-$1 2>&1 || tail -n 1 /tmp/out-$1 >>/tmp/bad-$1
		echo x >>/tmp/runs-$1
	done
}
for g in 1 2 3; do
	guests $g &
done
cycles=0
for i in 1 2 3 4 5 6 7 8; do
	echo 0 >/sys/devices/system/cpu/cpu1/online || break
	sleep 0.5
	echo 1 >/sys/devices/system/cpu/cpu1/online || break
	sleep 0.5
	cycles=$((cycles + 1))
done
touch /tmp/stop
wait
sed 's/^/# /' /tmp/bad-* 2>/dev/null
check "the CPU went off and on while guests ran" '[ $cycles = 8 ]'
check "guests ran all the while" '[ "$(cat /tmp/runs-* | wc -l)" -ge 20 ]'
check "no guest failed" '[ -z "$(ls /tmp/bad-* 2>/dev/null)" ]'
echo "# $(cat /tmp/runs-* | wc -l) guests"
check "the module unloads afterwards" 'unload_module'
finish
