# SPDX-License-Identifier: GPL-2.0
#
# The debug kernel of `make soak`: the stock kernel's source with what reports the faults of
# a module (debug.config), its modules, and the emulated host's initramfs with them. Rust
# under KASAN wants clang as the C compiler, of the LLVM that rustc has. To be sourced after
# common.sh, kernel.sh and images.sh.
#
# Folders under $RVMM_LAB/debug:
#   obj/       the object tree, for modules too: make -C /lab/debug/obj M=... CC=clang-19 modules
#   kernel/    release, pkg/usr/lib/modules/, as kernel/ has them of the stock kernel
#   vmlinuz, host.cpio

debug_make="nice -n 19 make -C /lab/kernel/src O=/lab/debug/obj CC=clang-19 HOSTCC=gcc-14"
debug_modules=("${host_modules[@]}" fuse null_blk zram)

build_debug_kernel() {
	in_root_bash "
		mkdir -p /lab/debug/obj
		KCONFIG_ALLCONFIG=/src/rvmm/scripts/lab/debug.config $debug_make allnoconfig
		lost=\$(grep ^CONFIG_ scripts/lab/debug.config | grep -vxFf /lab/debug/obj/.config) || true
		[ -z \"\$lost\" ] || { echo \"the configuration lacks: \$lost\"; exit 1; }
		$debug_make -j\$(nproc) bzImage modules"
}

install_debug_kernel() {
	in_root_bash "
		rm -rf /lab/debug/kernel
		mkdir -p /lab/debug/kernel/pkg/usr
		$debug_make INSTALL_MOD_PATH=/lab/debug/kernel/pkg/usr modules_install
		$debug_make -s kernelrelease >/lab/debug/kernel/release
		cp /lab/debug/obj/arch/x86/boot/bzImage /lab/debug/vmlinuz"
}

# mkinitramfs takes the modules of /lab/kernel; mounts of in-root go with the command.
make_debug_initramfs() {
	in_root_bash "
		mount --bind /lab/debug/kernel /lab/kernel
		t=\$(mktemp -d)
		cp -r tests/system/host/. \$t/
		[ ! -d /lab/passt ] || cp -r /lab/passt/. \$t/
		scripts/lab/mkinitramfs /lab/debug/host.cpio \$t ${debug_modules[*]}
		rm -rf \$t"
}

lab_debug() {
	local s=$RVMM_LAB/stamps
	stage debug-kernel "$(hash_of "$s/kernel-packages" "$s/root" "$top/scripts/lab/debug.config" <(declare -f build_debug_kernel))" \
		"building the debug kernel (25 min on two cores, 4 GB)" build_debug_kernel
	stage debug-install "$(hash_of "$s/debug-kernel" <(declare -f install_debug_kernel))" \
		"installing the debug kernel's modules" install_debug_kernel
	stage debug-initramfs "$(hash_of "$s/debug-install" "$s/passt" "$top/scripts/lab/mkinitramfs" \
		<(echo "${debug_modules[@]}"; declare -f make_debug_initramfs; tree_hash tests/system/host))" \
		"packing the debug host's initramfs" make_debug_initramfs
}
