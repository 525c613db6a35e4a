# SPDX-License-Identifier: GPL-2.0
#
# The stock kernel with a full Debian (systemd) on a virtio disk: log in on the
# pty, use disk, timer, RTC, AVX and two CPUs, write a file, power off.
# ring: guest
# timeout: 4000
# disk: debian
# memory@intel: 2G
# after: debian-login.after
# hosts: amd, intel
# ring@intel: full
. ./tests/system/lib.sh

load_module
# A guest two levels down on a busy machine is slower than systemd's patience with
# devices, which ends a login on ttyS0 for good.
patience="systemd.default_device_timeout_sec=1500 systemd.default_timeout_start_sec=1500"
start_guest debian -m 1G -c 2 --initrd /images/guest.cpio \
	--append "console=ttyS0 root=/dev/vda $fast $patience" /images/vmlinuz /dev/vdc ||
	{ not_ok "the guest starts"; finish; }
if ! expect debian 1500 'login: '; then
	not_ok "Debian gives a login prompt"
	kill -9 "$pid"
	finish
fi
ok "Debian gives a login prompt"
echo "# after $(cut -d' ' -f1 /proc/uptime) s of the host"
send root
expect debian 600 'Password: '
send rvmm
check "root logs in" 'expect debian 900 "root@rvmm-guest:.*#"'

# ask NAME SECONDS COMMAND PATTERN
ask() {
	send "$3; echo \"end\"-$n"
	check "$1" "expect debian $2 '$4' && :"
}
ask "two CPUs" 300 'echo cpus=$(nproc)' 'cpus=2'
ask "the timer" 300 'sleep 1 && echo "slept"-well' 'slept-well'
ask "the RTC" 300 'cat /sys/class/rtc/rtc0/since_epoch | sed "s/^/epoch=/"' 'epoch=[0-9]{10}'
ask "AVX" 300 'avx' 'avx (ok|none)'
ask "the disk" 600 'dd if=/dev/urandom of=/root/big bs=1M count=16 conv=fsync && sync && echo "disk"-written' 'disk-written'
ask "a file for the host" 300 'echo hello from the guest >/root/hello && sync && echo "file"-written' 'file-written'
send poweroff
check "the guest powers off" 'wait_gone $pid 900'
check "rvmm-run ends with 0" '[ "$code" = 0 ]'
check "the module unloads afterwards" 'unload_module'
finish
