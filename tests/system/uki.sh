# SPDX-License-Identifier: GPL-2.0
#
# A unified kernel image as Debian's tools make it, with systemd's stub: it boots without the stub, with its own initrd and
# command line; what the user gives goes before.
# ring: guest
# timeout: 500
# disk: uki
# hosts: amd, intel
# ring@intel: full
. ./tests/system/lib.sh

load_module
mkdir -p /mnt
mount -t ext4 -o ro /dev/vdc /mnt || { not_ok "the image's drive can be mounted"; finish; }
run_guest uki 300 -m 512M /mnt/uki.efi
guest_results uki
check "rvmm-run ends with 0 when the guest powers off" '[ $code = 0 ]'
run_guest append 300 -m 512M --append "console=ttyS0 $fast rvmm.test=none-such" /mnt/uki.efi
check "a command line of the user's goes before" 'grep -q "there is no test none-such" /tmp/append.console'
umount /mnt
check "the module unloads" 'unload_module'
finish
