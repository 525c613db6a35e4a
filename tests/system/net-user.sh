# SPDX-License-Identifier: GPL-2.0
#
# A network in user space: ping, 8 MiB each way with checksums through passt and the
# host's own sockets; no exits to user space; passt ends with the guest.
# ring: guest
# timeout: 400
# ring@intel: full
. ./tests/system/lib.sh

load_module
ip link set lo up
check "without passt, the program's name is told" \
	'(PATH=/nowhere /payload/rvmm-run --net user /images/vmlinuz 2>&1) | grep -q "no program .passt."'
command -v passt >/dev/null || { skip "a network in user space" "no passt"; finish; }

# passt runs as a user without rights, who has to reach its folder and asks for echoes.
chmod 755 /
chmod 1777 /tmp
echo "0 2147483647" >/proc/sys/net/ipv4/ping_group_range
mkdir -p /tmp/www
head -c 8388608 /dev/urandom >/tmp/www/big
sha256sum </tmp/www/big >/tmp/www/big.sha256
httpd -p 127.0.0.1:80 -h /tmp/www
(
	for i in $(seq 200); do
		sleep 0.5
		[ -s /tmp/www/done ] && exit
		wget -q -T 60 -O /tmp/back http://127.0.0.1:8080/back 2>/dev/null || continue
		cmp -s /tmp/back /tmp/www/big && echo yes >/tmp/www/done
	done
) &
fetcher=$!
options=
for word in -4 --runas 65534 -i lo -o 127.0.0.1 -a 10.0.2.15 -n 24 -g 10.0.2.2 -t 8080:80; do
	options=$options,passt=$word
done
timeout "$(limit 240)" rvmm-run --no-reboot --stats --console file:/tmp/net.console -c 2 -m 256M \
	--net "user,mac=52:54:00:12:34:56$options" --initrd /images/guest.cpio \
	--append "console=ttyS0 $fast rvmm.test=net rvmm.me=10.0.2.15/24 rvmm.peer=10.0.2.2 rvmm.mac=52:54:00:12:34:56 rvmm.mtu=65520 rvmm.offloads=no rvmm.seconds=60" \
	/images/vmlinuz >/tmp/net.log 2>&1
code=$?
kill $fetcher 2>/dev/null
guest_results net
check "rvmm-run ends with 0" '[ $code = 0 ]'
[ $code = 0 ] || show_guest net
check "the host read back what the guest fetched" 'cmp -s /tmp/back /tmp/www/big'
user_exits=$(awk '$1 == "user_exits" { for (i = 2; i <= NF; i++) sum += $i; print sum }' /tmp/net.log)
sed -n '/^counter/,$s/^/# /p' /tmp/net.log
check "one exit to user space: the power-off" '[ "${user_exits:-none}" = 1 ]'
check "passt has ended" 'sleep 1; ! pidof passt passt.avx2 >/dev/null'

# passt dies under a guest.
start_guest orphan --net "user,mac=52:54:00:12:34:56$options" --initrd /images/guest.cpio \
	--append "console=ttyS0 $fast" /images/vmlinux || { not_ok "the guest starts"; finish; }
if expect orphan 100 'login: '; then
	send root
	expect orphan 30 '# '
	send 'ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ping -c 1 -W 10 10.0.2.2 | grep packets; echo "carrier $(cat /sys/class/net/eth0/carrier)"'
	check "the card has a link" 'expect orphan 60 "^carrier 1"'
	kill -9 $(pidof passt passt.avx2)
	sleep 1
	check "rvmm-run says that passt has ended" 'grep -q "passt has ended: .* lost its link" /tmp/orphan.log'
	grep passt /tmp/orphan.log | sed 's/^/# /'
	send 'ping -c 1 -W 2 10.0.2.2 | grep packets; echo "carrier $(cat /sys/class/net/eth0/carrier)"'
	check "the guest sees that the link is down" 'expect orphan 60 "^carrier 0"'
	# In ticks of 10 ms: user and system time of all its threads.
	used() { awk '{ print $14 + $15 }' "/proc/$pid/stat"; }
	before=$(used)
	sleep 4
	after=$(used)
	echo "# an idle guest without its network used $((after - before)) of 400 ticks"
	check "nobody spins" '[ $((after - before)) -lt 200 ]'
	send 'poweroff'
	check "the guest lives on and powers off" 'wait_gone $pid 40 && [ $code = 0 ]'
else
	not_ok "the guest gives a login prompt"
	kill "$pid"
fi
kill $reader 2>/dev/null
check "the module unloads" 'unload_module'
finish
