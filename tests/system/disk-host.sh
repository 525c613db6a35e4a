# SPDX-License-Identifier: GPL-2.0
#
# What a host can and cannot do for a disk: its file system fills up, file sizes are limited, a range cannot be zeroed in
# place, an image grows while the guest runs.
# ring: system
# timeout: 500
# hosts: amd, intel
# ring@intel: full
. ./tests/system/lib.sh

load_module
mkdir -p /tmp/full /tmp/stop
mount -t tmpfs -o size=8m tmpfs /tmp/full
mount -t tmpfs -o size=8m tmpfs /tmp/stop
for image in /tmp/full/a.img /tmp/stop/b.img /tmp/c.img; do truncate -s 64M $image; done
cp zero-range /tmp/program.img
truncate -s 1M /tmp/program.img
# Beyond 40 MB, files must not be written.
limited() { ulimit -f 81920; exec "$@"; }
under=limited
start_guest disks --stats --initrd /images/guest.cpio --append "console=ttyS0 $fast" --disk /tmp/full/a.img \
	--disk /tmp/stop/b.img,on-error=stop --disk /tmp/c.img --disk /tmp/program.img,ro /images/vmlinux &&
	expect disks 200 'login: ' || { not_ok "the guest starts"; finish; }
send root
expect disks 30 '# '
# fill LETTER FIRST-MIB MIB: the guest writes them, and says how it went.
fill() {
	send "dd if=/dev/zero of=/dev/vd$1 bs=1M seek=$2 count=$3 conv=fsync 2>/dev/null && echo $1-'written' || echo $1-'failed'"
}

fill a 0 32
check "a full file system is an I/O error" 'expect disks 100 "^a-failed"'
check "and is told with the disk's name" 'grep -q "disk /tmp/full/a.img: No space left on device" /tmp/disks.log'
fill a 16 16
check "so is the next one" 'expect disks 100 "^a-failed"'
check "but told once" '[ "$(grep -c a.img /tmp/disks.log)" = 1 ]'

fill c 32 16
check "the limit on file sizes is an I/O error" 'expect disks 100 "^c-failed"'
check "it is told, and the run goes on" 'grep -q "disk /tmp/c.img: File too large" /tmp/disks.log'

fill b 0 32
for i in $(seq "$(limit 100)"); do
	! grep -q "disk /tmp/stop/b.img" /tmp/disks.log || break
	sleep 0.5
done
check "on-error=stop pauses the guest" 'grep -q "b.img: No space left on device.*paused" /tmp/disks.log'
send 'echo "hears"-this'
sleep 5
check "it stands still" '! grep -q "^hears-this" /tmp/disks.console'
mount -o remount,size=80m /tmp/stop
kill -CONT "$pid"
check "once there is room and it goes on, nothing has failed" 'expect disks 100 "^b-written"'
sleep 1
check "and it hears again" 'grep -q "^hears-this" /tmp/disks.console'

send 'cat /dev/vdd >/tmp/zero-range; chmod +x /tmp/zero-range; /tmp/zero-range /dev/vdc 1048576 20971520'
check "a range is zeroed on a file that cannot do it in place" 'expect disks 100 "^zero-range: done"'

send 'cat /sys/block/vdc/size'
check "the size before" 'expect disks 30 "^131072"'
truncate -s 96M /tmp/c.img
send 'for i in 1 2 3 4 5 6 7 8 9; do sleep 1; [ "$(cat /sys/block/vdc/size)" = 131072 ] || break; done; cat /sys/block/vdc/size'
check "a grown image is a grown disk" 'expect disks 60 "^196608"'
truncate -s 96M /tmp/full/a.img
send 'dd if=/dev/vdc of=/dev/null bs=1M skip=95 2>/dev/null && echo "end"-read'
check "its new end can be read" 'expect disks 30 "^end-read"'

send 'poweroff'
check "it powers off" 'wait_gone $pid 100 && [ $code = 0 ]'
check "the statistics have the failed requests" 'grep -qE "disk_failed +[1-9][0-9]* /tmp/full/a.img" /tmp/disks.log'
sed 's/^/# /' /tmp/disks.log | tr -d '\r'
check "the module unloads" 'unload_module'
finish
