# SPDX-License-Identifier: GPL-2.0
#
# A guest whose only clock is the 8254: it counts the timer's interrupts, has no ticks but these, and no other clock source.
# Its time goes as the host's. A kernel for 64 bits does not read the timer's count; that is in abi-tests "timer: …".
# ring: system
# timeout: 400
# hosts: amd, intel
# ring@intel: full
. ./tests/system/lib.sh

load_module
start_guest pit -c 1 --initrd /images/guest.cpio --append "console=ttyS0 $fast no-kvmclock notsc clocksource=jiffies \
hpet=disable pmtmr=0 nolapic_timer nohz=off highres=off" /images/vmlinux &&
	expect pit 200 'login: ' || { not_ok "the guest starts"; finish; }
send root
expect pit 30 '# '
send 'cd /sys/devices/system; echo clock-$(cat clocksource/clocksource0/current_clocksource)-$(cat clockevents/clockevent0/current_device)-'
check "it has the 8254 alone" 'expect pit 30 "^clock-(refined-)?jiffies-pit-"'

# guest_time: sets $guest to what the guest's clock says and $before and $after to the host's, in hundredths of seconds.
guest_time() {
	before=$(cut -d' ' -f1 /proc/uptime | tr -d .)
	send "echo $1-\$(cut -d' ' -f1 /proc/uptime)-"
	expect pit 30 "^$1-[0-9.]+-" || return 1
	after=$(cut -d' ' -f1 /proc/uptime | tr -d .)
	guest=$(tr -d '\r.' <"/tmp/pit.console" | sed -n "s/^$1-\([0-9]*\)-.*/\1/p")
}
check "it tells the time" 'guest_time first'
first=$guest began=$before began_after=$after
sleep 20
check "it tells the time again" 'guest_time second'
passed=$((guest - first))
echo "# in the guest $passed, in the host $((before - began_after)) to $((after - began)) hundredths of seconds"
check "its time goes as the host's" '[ $passed -ge $(((before - began_after) * 97 / 100)) ] && [ $passed -le $(((after - began) * 103 / 100)) ]'
send 'grep LOC: /proc/interrupts'
check "no tick came from its local APIC" 'expect pit 30 "LOC: +0 "'
kill "$pid"
check "SIGTERM presses the power button, which ends the guest" 'wait_gone $pid 30; [ $code = 0 ]'
check "the module unloads" 'unload_module'
finish
