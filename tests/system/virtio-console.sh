# SPDX-License-Identifier: GPL-2.0
#
# A guest whose console is a virtio console: its output comes, what is typed goes in
# whole, and nothing of it leaves the kernel. The same with packed rings.
# ring: guest
# timeout: 300
# hosts: amd, intel
# ring@intel: full
. ./tests/system/lib.sh

load_module
check "a device for the console that does not exist is refused" \
	'rvmm-run --console-device hvc /images/vmlinux 2>&1 | grep -q "write uart or virtio"'

# The whole of a test guest's life on hvc0.
run_guest hvc 150 --stats -c 2 --console-device virtio --initrd /images/guest.cpio \
	--append "console=hvc0 $fast rvmm.test=boot rvmm.cpus=2" /images/vmlinux
guest_results hvc
check "rvmm-run ends with 0 when the guest powers off" '[ $code = 0 ]'
user_exits=$(awk '$1 == "user_exits" { for (i = 2; i <= NF; i++) sum += $i; print sum }' /tmp/hvc.log)
sed -n '/^counter/,$s/^/# /p' /tmp/hvc.log
check "one exit to user space: the power-off" '[ "${user_exits:-none}" = 1 ]'

# Somebody types; the terminal hands on whole lines.
bytes=$((28 * 700))
yes "what is typed, line by line" | head -c $bytes >/tmp/typed
sum=$(md5sum </tmp/typed | cut -d' ' -f1)
for device in virtio virtio,packed=on; do
	rm -f /tmp/typist.seen /tmp/typist.console
	start_guest typist --console-device $device --initrd /images/guest.cpio \
		--append "console=hvc0 $fast rdinit=/bin/sh" /images/vmlinux || { not_ok "$device: the guest starts"; continue; }
	check "$device: a shell asks on hvc0" 'expect typist 60 "[#$] "'
	send 'echo "this is"-seen'
	check "$device: what is typed is carried out" 'expect typist 20 "^this is-seen"'
	check "$device: and was echoed" 'grep -q "echo .this is.-seen" /tmp/typist.console'
	send "mount -t sysfs s /sys; stty -echo; echo rea\"dy\"; head -c $bytes | md5sum"
	expect typist 20 '^ready'
	cat /tmp/typed >"$pty"
	check "$device: much input arrives whole" 'expect typist 60 "^$sum"'
	send 'stty echo; echo "features $(cut -c35 /sys/class/virtio-ports/vport*/device/features)"'
	case $device in
	*packed=on) check "$device: the driver took packed rings" 'expect typist 20 "^features 1"' ;;
	*) check "$device: the driver took split rings" 'expect typist 20 "^features 0"' ;;
	esac
	send 'poweroff -f'
	check "$device: rvmm-run ends with the guest" 'wait_gone $pid 30 && [ $code = 0 ]'
	kill $reader 2>/dev/null
done
check "the module unloads" 'unload_module'
finish
