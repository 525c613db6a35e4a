# SPDX-License-Identifier: GPL-2.0
#
# A network card on a tap: ping, 8 MiB each way with checksums, offloads on; no
# exits to user space; kill -9 in the middle of a transfer leaves nothing behind.
# ring: guest
# timeout: 400
# ring@intel: full
. ./tests/system/lib.sh

load_module
modprobe tun
ip link set lo up

# What cannot be opened is said plainly, before anything runs.
mv /dev/net/tun /tmp/tun
check "without /dev/net/tun, the driver's name is told" \
	'rvmm-run --net tap=t0 /images/vmlinuz 2>&1 | grep -q "modprobe tun"'
mv /tmp/tun /dev/net/tun
check "an interface that is no tap is refused" \
	'rvmm-run --net tap=lo /images/vmlinuz 2>&1 | grep -q "is no tap"'

tunctl -t rvmm0 >/dev/null
check "there is a tap" '[ -e /sys/class/net/rvmm0 ]'
ip addr add 10.11.0.1/24 dev rvmm0
ip link set rvmm0 mtu 1400
ip link set rvmm0 up
mkdir -p /tmp/www
head -c 8388608 /dev/urandom >/tmp/www/big
sha256sum </tmp/www/big >/tmp/www/big.sha256
httpd -p 10.11.0.1:80 -h /tmp/www

# Fetches from the guest as soon as it serves, and tells it so.
(
	for i in $(seq 200); do
		sleep 0.5
		[ -s /tmp/www/done ] && exit
		wget -q -T 60 -O /tmp/back http://10.11.0.2/back 2>/dev/null || continue
		cmp -s /tmp/back /tmp/www/big && echo yes >/tmp/www/done
	done
) &
fetcher=$!
timeout "$(limit 240)" rvmm-run --no-reboot --stats --console file:/tmp/net.console -c 2 -m 256M \
	--net tap=rvmm0,mac=52:54:00:12:34:56,mtu=1400 --initrd /images/guest.cpio \
	--append "console=ttyS0 $fast rvmm.test=net rvmm.me=10.11.0.2/24 rvmm.peer=10.11.0.1 rvmm.mac=52:54:00:12:34:56 rvmm.mtu=1400 rvmm.seconds=60" \
	/images/vmlinuz >/tmp/net.log 2>&1
code=$?
kill $fetcher 2>/dev/null
guest_results net
check "rvmm-run ends with 0" '[ $code = 0 ]'
check "the host read back what the guest fetched" 'cmp -s /tmp/back /tmp/www/big'
stat() { cat "/sys/class/net/rvmm0/statistics/$1"; }
echo "# host to guest: $(stat tx_packets) packets, $(stat tx_bytes) bytes, $(stat tx_dropped) dropped; guest to host: $(stat rx_packets), $(stat rx_bytes), $(stat rx_dropped) dropped"
check "packets to the guest are larger than the link's" '[ $(($(stat tx_bytes) / $(stat tx_packets))) -gt 1500 ]'
check "packets from the guest are larger than the link's" '[ $(($(stat rx_bytes) / $(stat rx_packets))) -gt 1500 ]'
user_exits=$(awk '$1 == "user_exits" { for (i = 2; i <= NF; i++) sum += $i; print sum }' /tmp/net.log)
sed -n '/^counter/,$s/^/# /p' /tmp/net.log
check "one exit to user space: the power-off" '[ "${user_exits:-none}" = 1 ]'

# kill -9 in the middle of a transfer.
rm -f /tmp/www/done
before=$(free_kib)
start_guest victim --net tap=rvmm0 --initrd /images/guest.cpio --append "console=ttyS0 $fast" /images/vmlinuz ||
	{ not_ok "the guest starts"; finish; }
if expect victim 300 'login: '; then
	send root
	expect victim 30 '# ' &&
		send 'ip addr add 10.11.0.2/24 dev eth0; ip link set eth0 up; while :; do wget -q -O /dev/null http://10.11.0.1/big; done'
	moved=0
	for i in $(seq 60); do
		sleep 0.5
		moved=$(stat tx_bytes)
		[ "$moved" -gt 30000000 ] && break
	done
	check "a transfer is under way" '[ "$moved" -gt 30000000 ]'
else
	not_ok "the guest gives a login prompt"
fi
kill -9 "$pid"
check "rvmm-run dies at once" 'wait_gone $pid 10'
check "nobody uses the module any more" 'sleep 1; [ "$(awk "/^rvmm / { print \$3 }" /proc/modules)" = 0 ]'
check "the tap is free again" 'tunctl -d rvmm0 >/dev/null && [ ! -e /sys/class/net/rvmm0 ]'
after=$(free_kib)
echo "# free before: $before KiB, after: $after KiB"
check "the memory comes back" '[ $((before - after)) -lt 16384 ]'
check "the module unloads" 'unload_module'
finish
