# SPDX-License-Identifier: GPL-2.0
#
# Disks have many requests under way at a time, lose nothing, and leave nothing behind when
# rvmm-run is killed meanwhile. Freezing the file system below a loop device holds writes back for
# as long as the test wants. The disks have one queue each, whose requests are counted.
# ring: system
# timeout: 800
# ring@intel: full
. ./tests/system/lib.sh

below=/tmp/below image=/tmp/below/first.img file=/tmp/below/second.img
tasks=8 bytes=524288 block=65536

# counter NAME: of the module's disks.
counter() { awk '$1 == "'"$1"'" { print $2 }' /sys/kernel/debug/rvmm/disks; }
# Writes that the loop device has not ended.
held() { awk '{ print $2 }' /sys/block/loop1/inflight; }
references() { awk '/^rvmm / { print $3 }' /proc/modules; }
# until_true SECONDS CONDITION: waits for it.
until_true() {
	local i=0
	until eval "$2"; do
		i=$((i + 1))
		[ $i -lt $(($1 * 5)) ] || return 1
		sleep 0.2
	done
}
# pattern WORD: what the guest's tasks write, one after the other.
pattern() {
	local i
	for i in $(seq $tasks); do
		yes "$1 $i" | head -c $bytes
	done
}
# write_all WORD DISK: makes the guest write a pattern with all tasks at once.
write_all() {
	send "for i in \$(seq $tasks); do yes \"$1 \$i\" | head -c $bytes >/tmp/\$i; done"
	send "for i in \$(seq $tasks); do dd if=/tmp/\$i of=$2 bs=$block seek=\$(((i - 1) * $((bytes / block)))) oflag=direct conv=notrunc,fsync 2>/tmp/err\$i & done; wait; echo \"$1\"-written; cat /tmp/err* | grep -v records"
}

mkdir $below
truncate -s 24M /tmp/below.img
modprobe loop max_part=0
losetup /dev/loop0 /tmp/below.img && mke2fs -F /dev/loop0 >/dev/null 2>&1 && mount -t ext4 /dev/loop0 $below &&
	dd if=/dev/zero of=$image bs=64k count=64 2>/dev/null && dd if=/dev/zero of=$file bs=64k count=64 2>/dev/null &&
	losetup /dev/loop1 $image || { skip "disks with many requests" "no loop devices"; finish; }
load_module
before=$(free_kib)
start_guest many -c 2 --initrd /images/guest.cpio --append "console=ttyS0 $fast" --disk /dev/loop1,queues=1 --disk $file,queues=1 /images/vmlinux &&
	expect many 200 'login: ' || { not_ok "the guest starts"; finish; }
send root
expect many 30 '# '

# A block device.
fsfreeze --freeze $below
write_all first /dev/vda
check "a disk has a request of every task under way" 'until_true 90 "[ \$(counter max_in_flight) -ge $tasks ]"'
check "the host's device has them all" 'until_true 10 "[ \$(held) -ge $tasks ]"'
kill -STOP "$pid"
fsfreeze --unfreeze $below
check "they end while rvmm-run is stopped" 'until_true 30 "[ \$(held) = 0 ]"'
kill -CONT "$pid"
check "the guest sees all end" 'expect many 300 "^first-written"'
sync
pattern first >/tmp/expected
check "the host finds what the guest wrote" 'cmp $image /tmp/expected'

# A regular file.
asynchronous=$(counter asynchronous)
write_all second /dev/vdb
check "the guest writes to a file" 'expect many 300 "^second-written"'
pattern second >/tmp/expected
check "the host finds it there" 'cmp $file /tmp/expected'
# Not all of it: a write that ends quickly enough has ended when the call that starts it returns.
check "writes to a file go on without the worker" '[ $(($(counter asynchronous) - asynchronous)) -ge $tasks ]'
send "for i in \$(seq $tasks); do dd if=/dev/vdb bs=$block skip=\$(((i - 1) * $((bytes / block)))) count=$((bytes / block)) iflag=direct 2>/dev/null | cmp - /tmp/\$i & done; wait; echo \"read\"-back"
check "the guest reads it back" 'expect many 300 "^read-back" && ! grep -q differ /tmp/many.console'
send "blkdiscard -o $bytes -l $bytes /dev/vdb && echo \"discard\"-ed"
check "the guest discards a part" 'expect many 200 "^discard-ed"'
(head -c $bytes /tmp/expected; head -c $bytes /dev/zero; tail -c +$((2 * bytes + 1)) /tmp/expected) >/tmp/discarded
check "the part is zeroes, and no other" 'cmp $file /tmp/discarded'

# The end in the middle of it.
fsfreeze --freeze $below
write_all third /dev/vda
check "requests are under way again" 'until_true 90 "[ \$(held) -ge $tasks ]"'
kill -9 "$pid"
sleep 2
check "the worker waits for them" '[ "$(references)" != 0 ] && [ "$(held)" -ge $tasks ] && ! rmmod rvmm 2>/dev/null'
fsfreeze --unfreeze $below
check "rvmm-run ends with them" 'wait_gone $pid 20'
check "nobody uses the module any more" 'until_true 5 "[ \$(references) = 0 ]"'
sync
pattern third >/tmp/expected
for i in $(seq $tasks); do
	at=$(((i - 1) * bytes + 1))
	tail -c +$at $image | head -c $block >/tmp/found
	tail -c +$at /tmp/expected | head -c $block | cmp - /tmp/found || echo "# task $i"
done >/tmp/differences 2>&1
sed 's/^/# /' /tmp/differences
check "what was under way is on the disk" '[ ! -s /tmp/differences ]'
sed 's/^/# /' /sys/kernel/debug/rvmm/disks
check "the disks can be taken away" 'losetup -d /dev/loop1 && rm $image $file && umount $below && losetup -d /dev/loop0'
rm -f /tmp/below.img /tmp/expected /tmp/found /tmp/discarded
after=$(free_kib)
echo "# free before: $before KiB, after: $after KiB"
check "the memory comes back" '[ $((before - after)) -lt 16384 ]'
check "the module unloads" 'unload_module'
finish
