# SPDX-License-Identifier: GPL-2.0
#
# Runs in the emulated host: guests under QEMU on KVM and under rvmm-run, each alone
# on the machine. Usage: run-guests.sh "NODE…" ["WHAT…"], a node being kvm or rvmm. WHAT
# is what tests/tiny/main.c does, if it begins with "tiny", else what
# tests/bench/linux/guest.c does in one boot; boot+trace is a boot of which the time in
# the guest is taken. tiny-read is done once for each number of other VMs and of memory
# slots, "8-vms" and so on, which ends the names of its rows. QEMU and modules of the stock
# kernel are on the disk /dev/vdc.
nodes=$1
fast="quiet mitigations=off nokaslr audit=0 raid=noautodetect cryptomgr.notests console=ttyS0 rdinit=/bench"
if [ "$1" = --one ]; then
	one=$2
fi

# Linux without EOIs by shared memory: QEMU's TCG delivers an interrupt twice when the counted instructions run out
# between its injection and the guest's next exit, and the exit of the EOI keeps that short.
# The disk's file has no node of a format over it, which would cost QEMU two to four per cent of a request. cache.direct=on
# is what -drive calls cache=none.
kvm_guest() {
	what=$1
	case $what in
	tiny*) set -- -cpu host -kernel tiny-guest ;;
	*) set -- -cpu host,kvm-pv-eoi=off -kernel /images/vmlinuz -initrd /tmp/initrd ;;
	esac
	machine=microvm,pit=off,pic=off,rtc=on
	if [ $what != boot ]; then
		machine=$machine,pcie=on
		set -- "$@" -object iothread,id=t \
			-blockdev driver=file,node-name=d,filename=/tmp/disk,cache.direct=on,aio=${AIO:-native} \
			-device virtio-blk-pci,drive=d,iothread=t,num-queues=1 \
			-netdev tap,id=n,ifname=bench0,script=no,downscript=no,vhost=on \
			-device virtio-net-pci,netdev=n,romfile=
	fi
	exec ${SLOTS:+./slots $SLOTS} stock/ld.so --library-path stock stock/qemu -L stock -accel kvm -M $machine -m 512 \
		-nodefaults -no-user-config -display none -no-reboot -serial file:/tmp/console \
		-append "$fast bench=$what" "$@"
}

rvmm_guest() {
	what=$1
	case $what in
	tiny*) set -- tiny-guest /tmp/disk --net tap=bench0 ;;
	boot) set -- /images/vmlinuz --initrd /tmp/initrd ;;
	*) set -- /images/vmlinuz /tmp/disk --net tap=bench0 --initrd /tmp/initrd ;;
	esac
	exec ${SLOTS:+./slots $SLOTS} ./rvmm-run --no-reboot -m 512M --console file:/tmp/console --stats --append "$fast bench=$what" "$@"
}

# One guest, in a process of its own, whose CPU time is taken.
if [ -n "${one-}" ]; then
	${one}_guest "$3"
	exit
fi

dmesg -n 4
mkdir -p stock
mount -t ext4 -o ro,noload /dev/vdc stock
cat stock/[a-z]*.* stock/qemu >/dev/null
cat /images/guest.cpio bench.cpio >/tmp/initrd
modprobe tun
for module in vhost_iotlb vhost tap vhost_net; do
	[ ! -e stock/$module.ko ] || insmod stock/$module.ko
done
# No chatter of IPv6 on the link.
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
./peer &
peer=$!

# The disk and the tap of the next guest.
prepare() {
	rm -f /tmp/console
	dd if=/dev/zero of=/tmp/disk bs=1M count=32 2>/dev/null
	tunctl -t bench0 >/dev/null
	ip addr add 10.9.0.1/24 dev bench0
	ip link set bench0 up
}

# run NODE WHAT: one guest, prepared before.
run() {
	cputime timeout -s KILL 60 sh "$0" --one $1 $2 >/tmp/log 2>&1
	tunctl -d bench0 >/dev/null
}

# watched NODE WHAT: a guest, and what can be seen from outside goes to /tmp/seen. False if the guest hung.
watched() {
	prepare
	: >/tmp/running
	comm=rvmm-run
	[ $1 = rvmm ] || comm=ld.so
	./watch $1 /tmp/running /tmp/disk $comm /tmp/seen &
	watcher=$!
	run $1 $2
	rm -f /tmp/running
	wait $watcher
	! grep -q '^hung' /tmp/seen
}

# with_company NODE COMPANY: a tiny-read beside other VMs, or with more memory slots. Nobody watches, for that
# takes time for each VM.
with_company() {
	number=${2%-*}
	rm -f /tmp/company
	case $2 in
	*-vms)
		rvmm-bench /dev/$1 --company $((number - 1)) >/tmp/company 2>&1 &
		company=$!
		until grep -q . /tmp/company || ! kill -0 $company; do sleep 0.1; done
		;;
	*-slots) SLOTS=$number ;;
	esac
	export SLOTS
	prepare
	run $1 tiny-read
	case $2 in
	*-vms)
		grep -q '^open' /tmp/company || echo "failed blk-4k-read-depth-1-$2 $(cat /tmp/company)"
		kill $company
		;;
	*-slots) grep -q "^slots: $((number - 4)) more" /tmp/log || echo "failed blk-4k-read-depth-1-$2 no slots were added" ;;
	esac
	SLOTS=
	tr -d '\r' </tmp/console | sed -n "s/^guest \([^ ]*\) instructions/guest \1-$2 instructions/p
		s/^tiny guest: \([^:]*\): /failed \1-$2 /p"
	grep -q '^guest ' /tmp/console || { echo "# $1 $2:"; tail -n 5 /tmp/log /tmp/console | sed 's/^/# /'; }
}

tracing=/sys/kernel/tracing

# Every way into the guest and out of it, with the counter's value. rvmm's by rvmm_stay.ko, which SWITCH tells where.
trace_on() {
	if [ $1 = rvmm ]; then
		insmod rvmm_stay.ko $SWITCH
		return
	fi
	echo x86-tsc >$tracing/trace_clock
	echo 8192 >$tracing/buffer_size_kb
	echo >$tracing/trace
	echo 1 >$tracing/events/kvm/kvm_entry/enable
	echo 1 >$tracing/events/kvm/kvm_exit/enable
}

# "guest-mode NUMBER TOTAL SHORTEST": stays in the guest.
trace_off() {
	if [ $1 = rvmm ]; then
		rmmod rvmm_stay && dmesg | sed -n 's/.*\(guest-mode .*\)/\1/p' | tail -n 1
		return
	fi
	echo 0 >$tracing/events/kvm/enable
	awk '{ for (i = 1; i <= NF && $i !~ /^[0-9]+:$/; i++) ; at = $i + 0 }
		$(i + 1) == "kvm_entry:" { entry = at }
		$(i + 1) == "kvm_exit:" && entry { d = at - entry; n++; sum += d; if (n == 1 || d < least) least = d; entry = 0 }
		END { printf "guest-mode %d %.0f %d\n", n, sum, least }' $tracing/trace
	echo >$tracing/trace
}

# As for KVM's Linux guests, see above. The tiny guest does so little between injection and exit that it lives with it.
case ${2-} in
tiny*) eoi= ;;
*) eoi=pv_eoi=0 ;;
esac
for node in $nodes; do
	case $node in
	kvm) modprobe kvm_amd || continue ;;
	rvmm) insmod rvmm.ko $eoi || continue ;;
	esac
	echo "node $node"
	for what in ${2:-boot boot+trace console,blk,net}; do
		if [ $what = tiny-read ]; then
			for company in 8-vms 64-vms 4-slots 64-slots 512-slots; do
				with_company $node $company
			done
			continue
		fi
		[ $what != boot+trace ] || trace_on $node
		for try in 1 2 3; do
			watched $node ${what%+*} && break
			echo "# $node $what: the guest hung"
		done
		tr -d '\r' </tmp/console | grep '^guest ' | grep -v boot-to-init-tsc
		tr -d '\r' </tmp/console | sed -n 's/^tiny guest: \([^:]*\): /failed \1 /p'
		if [ $what = boot+trace ]; then
			trace_off $node
		elif [ $what = boot ]; then
			sed -n 's/^cputime \([0-9]*\)/guest boot-work instructions \1000/p' /tmp/log
			if [ $node = rvmm ]; then
				awk '/^counter/ { on = 1; next } on && NF == 2 && $1 != "cputime" { print "exits", $1, $2 }' /tmp/log
			else
				grep '^exits' /tmp/seen
			fi
		else
			grep '^at\|^rss' /tmp/seen
		fi
		grep -q '^guest ' /tmp/console || { echo "# $node $what:"; tail -n 5 /tmp/log /tmp/console | sed 's/^/# /'; }
	done
	case $node in
	kvm) rmmod kvm_amd ccp kvm ;;
	rvmm) rmmod rvmm ;;
	esac
done
kill $peer
echo "node end"
