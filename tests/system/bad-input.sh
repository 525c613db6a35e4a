# SPDX-License-Identifier: GPL-2.0
#
# What rvmm-run says to bad input: exit code 1 and a message, nothing written.
# ring: system
# timeout: 120
# ring@intel: full
. ./tests/system/lib.sh

load_module
cp /images/small.img /tmp/disk.img
sum=$(md5sum </tmp/disk.img)

# refuse NAME ARG…
refuse() {
	local name=$1
	shift
	timeout "$(limit 20)" rvmm-run --console none "$@" >/tmp/out 2>&1 </dev/null
	code=$?
	check "$name" '[ $code = 1 ] && [ -s /tmp/out ]'
	echo "# exit code $code: $(head -n 2 /tmp/out | tr '\n' ' ')"
}
head -c 4096 /dev/zero >/tmp/zeros
head -c 100000 /images/vmlinux >/tmp/short-elf
head -c 100000 /images/vmlinuz >/tmp/short-bz
head -c 777 /dev/zero >/tmp/odd.img
refuse "a missing kernel" /tmp/nothing /tmp/disk.img
refuse "a folder as kernel" /tmp /tmp/disk.img
refuse "a file that is no kernel" /tmp/zeros /tmp/disk.img
refuse "a truncated ELF" /tmp/short-elf /tmp/disk.img
refuse "a truncated bzImage" /tmp/short-bz /tmp/disk.img
gzip -c boot-multiboot1 >/tmp/packed
head -c 2000 /tmp/packed >/tmp/short-packed
head -c 6000 boot-openbsd-amd64 >/tmp/short-openbsd
refuse "truncated data of gzip" /tmp/short-packed
refuse "a truncated kernel of OpenBSD" /tmp/short-openbsd
refuse "an option that OpenBSD has not" --append -x boot-openbsd-amd64
refuse "a root device for Linux" --root sd0a /images/vmlinuz
refuse "a module for Linux" --module /tmp/zeros /images/vmlinuz
refuse "a missing module" --module /tmp/nothing boot-multiboot1
refuse "modules beyond memory" -m 16M --module /images/vmlinux boot-multiboot1
refuse "a missing disk" /images/vmlinuz /tmp/nothing.img
refuse "a disk of odd size" /images/vmlinuz /tmp/odd.img
refuse "memory 0" -m 0 /images/vmlinuz
refuse "more memory than the host has" -m 64T /images/vmlinuz
refuse "too many CPUs" -c 100000 /images/vmlinuz
refuse "a missing initrd" --initrd /tmp/nothing /images/vmlinuz
rmmod rvmm
refuse "no module" /images/vmlinuz
check "the disk was not written" '[ "$sum" = "$(md5sum </tmp/disk.img)" ]'
finish
