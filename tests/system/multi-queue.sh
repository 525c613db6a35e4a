# SPDX-License-Identifier: GPL-2.0
#
# A disk and a network card with a queue for each of two CPUs: both are used, with
# an interrupt each. With split rings and with packed ones.
# ring: guest
# timeout: 300
# hosts: amd, intel
# ring@intel: full
. ./tests/system/lib.sh

load_module
modprobe tun
ip link set lo up
truncate -s 16M /tmp/disk.img
mkdir /tmp/www
head -c 4194304 /dev/urandom >/tmp/www/big
sum=$(md5sum </tmp/www/big | cut -d' ' -f1)
httpd -p 8000 -h /tmp/www

# Interrupts of the queues of a kind, one number for each, on the guest's console.
guest_counts() {
	send "echo \"$2\" \$(awk '/virtio.*-$1/ { print \$2 + \$3 }' /proc/interrupts)"
}
for packed in off on; do
	rm -f /tmp/mq.seen /tmp/mq.console
	# A tap that is made for the run; its address comes when it is there.
	(
		for i in $(seq 100); do
			sleep 0.1
			[ -e /sys/class/net/rvmm2 ] || continue
			ip addr add 10.12.0.1/24 dev rvmm2
			ip link set rvmm2 up
			break
		done
	) &
	start_guest mq -c 2 -m 256M --disk /tmp/disk.img,packed=$packed --net tap=rvmm2,packed=$packed \
		--initrd /images/guest.cpio --append "console=ttyS0 $fast" /images/vmlinux ||
		{ not_ok "packed=$packed: the guest starts"; continue; }
	expect mq 60 'login: ' || { not_ok "packed=$packed: the guest gives a login prompt"; kill "$pid"; continue; }
	send root
	expect mq 30 '# '
	bit=0
	[ $packed = off ] || bit=1
	send 'echo "features $(cut -c35 /sys/block/vda/device/features) $(cut -c35 /sys/class/net/eth0/device/features)"'
	check "packed=$packed: the drivers took such rings" 'expect mq 20 "^features '"$bit $bit"'"'

	# The disk.
	send 'echo "queues $(ls /sys/block/vda/mq | wc -l)"'
	check "packed=$packed: the disk has two queues" 'expect mq 20 "^queues 2"'
	send 'for c in 1 2; do yes "from cpu $c" | taskset $c dd of=/dev/vda bs=4k count=100 seek=$((c * 1000)) iflag=fullblock oflag=direct 2>/dev/null & done; wait; echo "writ"ten'
	check "packed=$packed: both CPUs write" 'expect mq 60 "^written"'
	sync
	for c in 1 2; do
		yes "from cpu $c" | head -c 409600 >/tmp/expected
		dd if=/tmp/disk.img bs=4k skip=$((c * 1000)) count=100 2>/dev/null >/tmp/found
		check "packed=$packed: the host finds what CPU $c wrote" 'cmp /tmp/expected /tmp/found'
	done
	send 'for c in 1 2; do taskset $c dd if=/dev/vda bs=4k count=100 skip=$((c * 1000)) iflag=direct 2>/dev/null | head -c 11 & done; wait; echo; echo "rea"d'
	check "packed=$packed: both CPUs read" 'expect mq 60 "^read"'
	guest_counts 'req[.]' requests
	check "packed=$packed: both queues interrupt" 'expect mq 20 "^requests [1-9][0-9]+ [1-9][0-9]+ *$"'
	grep '^requests' /tmp/mq.console | sed 's/^/# /'

	# The card.
	# Until the kernel notices that the link is up, it drops packets.
	send 'ip addr add 10.12.0.2/24 dev eth0; ip link set eth0 up; for i in 1 2 3 4 5 6 7 8 9; do ping -c 1 -W 1 10.12.0.1 >/dev/null && break; done; echo "queues $(ls /sys/class/net/eth0/queues | tr "\n" " ")"'
	check "packed=$packed: the card has two queues each way" 'expect mq 20 "^queues rx-0 rx-1 tx-0 tx-1"'
	send 'for c in 1 2; do taskset $c ping -c 40 -i 0.05 -s 1000 10.12.0.1 | grep packets & done; wait; echo "ping"ed'
	check "packed=$packed: pings from both CPUs are answered" 'expect mq 60 "^pinged" && [ "$(grep -c "40 packets received" /tmp/mq.console)" = 2 ]'
	grep -a ' packets ' /tmp/mq.console | sed 's/^/# /'
	guest_counts 'input[.]' input
	check "packed=$packed: packets come through both queues" 'expect mq 20 "^input [1-9][0-9]+ [1-9][0-9]+ *$"'
	grep -a '^input' /tmp/mq.console | sed 's/^/# /'
	send 'mkdir /tmp/w; httpd -p 80 -h /tmp/w; wget -q -O /tmp/w/big http://10.12.0.1:8000/big; md5sum </tmp/w/big'
	check "packed=$packed: 4 MiB come to the guest whole" 'expect mq 60 "^$sum"'
	check "packed=$packed: and back" 'wget -q -T 30 -O /tmp/back http://10.12.0.2/big && cmp /tmp/back /tmp/www/big'
	send 'dmesg | grep -cE "BUG|WARNING|Oops|Call Trace|is not a head"; echo "trou"ble'
	check "packed=$packed: the kernel's log is clean" 'expect mq 20 "^trouble" && tail -n 5 /tmp/mq.console | tr -d "\r" | grep -q "^0$"'
	send 'poweroff'
	check "packed=$packed: rvmm-run ends with 0" 'wait_gone $pid 40 && [ $code = 0 ]'
	kill $reader 2>/dev/null
	check "packed=$packed: the tap has gone with it" 'sleep 0.5; [ ! -e /sys/class/net/rvmm2 ]'
done
check "a number of queues that cannot be is refused" \
	'rvmm-run --disk /tmp/disk.img,queues=17 /images/vmlinux 2>&1 | grep -q "1 to 16 queues"'
check "the module unloads" 'unload_module'
finish
