# SPDX-License-Identifier: GPL-2.0
#
# Debian's QEMU, as it is, on /dev/rvmm: its PC with SeaBIOS boots a kernel on two CPUs, with QEMU's virtio disk.
# ring: full
# timeout: 600
# hosts: amd
# disk: clients
. ./tests/system/lib.sh

root=/tmp/clients
mkdir -p $root
mount -t ext4 -o ro /dev/vdc $root || { skip "qemu: a guest of its own" "no drive with QEMU"; finish; }
for dir in dev proc sys tmp images; do mount --bind /$dir $root/$dir; done
load_module
cp /images/small.img /tmp/disk.img
timeout -s TERM -k 10 "$(limit 400)" chroot $root /usr/bin/qemu-system-x86_64 -accel kvm,device=/dev/rvmm \
	-M pc -cpu host -m 256M -smp 2 -display none -vga none -monitor none -no-reboot \
	-serial file:/tmp/qemu.console -drive file=/tmp/disk.img,format=raw,if=virtio -device virtio-rng-pci \
	-kernel /images/vmlinuz -initrd /images/guest.cpio \
	-append "console=ttyS0 $fast rvmm.test=boot rvmm.cpus=2 rvmm.utc=$(date +%s)" >/tmp/qemu.log 2>&1
code=$?
guest_results qemu
check "qemu: it ends with 0 when the guest powers off" '[ $code = 0 ]'
sed 's/^/# qemu: /' /tmp/qemu.log
[ $code = 0 ] || show_guest qemu
check "the module unloads afterwards" 'unload_module'
finish
