# SPDX-License-Identifier: GPL-2.0
#
# Kernels of each protocol and shape of file, of our own (tests/boot): each says what the loader gave it.
# ring: guest
# timeout: 200
. ./tests/system/lib.sh

load_module
printf abc >/tmp/one
head -c 5000 /dev/zero | tr '\0' '\1' >/tmp/two

# boot NAME ARG…: runs a guest to its end.
boot() {
	local name=$1
	shift
	run_guest "$name" 60 -m 64M "$@"
	tr -d '\r' <"/tmp/$name.console" >"/tmp/$name.lines"
	check "$name: it powers off" '[ $code = 0 ]'
	says "$name" "protected 1 paging 0 interrupts 0 limit ffffffff" "bss zero" done
}

# says NAME LINE…: one result for all of them.
says() {
	local name=$1 line missing=
	shift
	for line in "$@"; do
		grep -qxF "boot: $line" "/tmp/$name.lines" || missing="$missing
# missing: $line"
	done
	check "$name: ${1}$([ $# = 1 ] || echo " and $(($# - 1)) more")" '[ -z "$missing" ]'
	[ -z "$missing" ] || { echo "# $missing"; sed 's/^/# /' "/tmp/$name.lines"; }
}

# says_machine NAME: the memory map, and ACPI's tables where a kernel looks for them.
says_machine() {
	says "$1" "range 0 size 9fc00 kind 1" "range 9fc00 size 400 kind 2" "range e0000 size 10000 kind 2" \
		"range 100000 size 3f00000 kind 1"
	says "$1" "RSDP at e0000 revision 2, RSDT good, XSDT good"
}

# says_modules NAME: both of them.
says_modules() {
	says "$1" "module size 3 sum 26 page offset 0 text 'first, with a comma'" \
		"module size 1388 sum 88 page offset 0 text ''"
}

modules="--module /tmp/two"
for shape in "" -elf64 -flat; do
	boot multiboot1$shape --append "a b" --module "/tmp/one,first, with a comma" $modules boot-multiboot1$shape
	says multiboot1$shape "magic 2badb002" "multiboot 1 flags 24d memory 27f fc00" "command line 'a b'" "loader 'rvmm-run'"
	says_machine multiboot1$shape
	says_modules multiboot1$shape
done
boot no-modules boot-multiboot1
says no-modules "command line ''"
check "no-modules: there is none" '! grep -q module /tmp/no-modules.lines'

gzip -c boot-multiboot2 >/tmp/packed || cp boot-multiboot2 /tmp/packed
for kernel in boot-multiboot2 boot-multiboot2-flat /tmp/packed; do
	name=${kernel##*/}
	boot "$name" --append "a b" --module "/tmp/one,first, with a comma" $modules $kernel
	says "$name" "magic 36d76289" "multiboot 2 memory 27f fc00" "command line 'a b'" "loader 'rvmm-run'" \
		"load base 100000" "the tags end where they say"
	says "$name" "RSDP of tag e size 14 sum good, as in the BIOS's area yes" \
		"RSDP of tag f size 24 sum good, as in the BIOS's area yes"
	says_machine "$name"
	says_modules "$name"
	check "$name: there is no framebuffer" '! grep -q "boot: tag" "/tmp/$name.lines"'
done
check "packed: it was compressed" '[ "$(head -c 2 /tmp/packed | od -An -tx1 | tr -d " ")" = 1f8b ]'

boot pvh --append "a b" --initrd /tmp/two --module "/tmp/one,first, with a comma" boot-pvh
says pvh "PVH magic 336ec578 version 1" "command line 'a b'" "RSDP told at e0000"
says_machine pvh
says_modules pvh

# openbsd NAME GUEST HOWTO DEVICE ARG…
openbsd() {
	local name=$1 guest=$2 howto=$3 device=$4
	shift 4
	boot "$name" "$@" "$guest"
	says "$name" "OpenBSD howto $howto device $device version e" "extended fc00 conventional 0" \
		"records end where they say, in one page yes" "seed random" "console device 800 speed 1c200 address 3f8"
	says_machine "$name"
}
openbsd openbsd-amd64 boot-openbsd-amd64 10000 a0000004
says openbsd-amd64 "console address high 0 clock 0 flags 0 width 0 shift 0"
openbsd openbsd-i386 boot-openbsd-i386 10003 a0010104 --append "-a -s" --root sd1b
for name in openbsd-amd64 openbsd-i386; do
	says $name "symbols: ELF yes, program headers 0, section headers behind it" \
		"symbols: aligned yes, end before esym yes" "symbol report is right"
done
openbsd openbsd-bare boot-openbsd-bare 10440 a0000004 --append -cd --root fedcba9876543210.a
says openbsd-bare "no symbols" "boot disk fedcba98 76543210"
check "the module unloads afterwards" 'unload_module'
finish
