# SPDX-License-Identifier: GPL-2.0
#
# The Debian trixie root with the compilers that match the stock kernel and
# the emulators. To be sourced after common.sh.

root_packages=(
	ca-certificates build-essential gcc-14 make flex bison libelf-dev libssl-dev bc cpio
	kmod xz-utils zstd rsync python3 rustc rust-src cargo rustfmt rust-clippy bindgen
	libclang-19-dev clang-19 lld-19 pahole qemu-system-x86 qemu-utils seabios ipxe-qemu bochs
	bochs-term bochsbios vgabios xorriso isolinux syslinux-common busybox-static e2fsprogs
	mmdebstrap git gdb file patch
)

# Installed into a finished root, so that a new name here does not make the whole root again.
# llvm-19 reads the coverage that rustc's LLVM, of the same version, writes; ovmf is the firmware of a guest of QEMU's; cu attaches
# to consoles; zsh and fish read their completions.
more_packages=(llvm-19 ovmf cu zsh fish)

# The archive that this machine's own apt uses; empty when it has none.
host_mirror() {
	apt-get indextargets --format '$(REPO_URI)|$(ORIGIN)|$(LABEL)|$(COMPONENT)' \
		'Created-By: Packages' 2>/dev/null |
		awk -F'|' '$2 == "Debian" && $3 == "Debian" && $4 == "main" { print $1; exit }'
}

install_host_tools() {
	export DEBIAN_FRONTEND=noninteractive
	apt-get -o Acquire::Retries=3 update
	apt-get -y --no-install-recommends install mmdebstrap debian-archive-keyring \
		util-linux xz-utils ca-certificates
}

# make_root: about 500 packages into root/, replaced only when complete.
make_root() {
	local mirror include
	mirror=$(host_mirror)
	include=$(IFS=,; echo "${root_packages[*]}")
	rm -rf --one-file-system "$RVMM_LAB/root.tmp"
	mmdebstrap --variant=apt --mode=root --aptopt='Acquire::Retries "3"' \
		--aptopt='APT::Install-Recommends "false"' --include="$include" \
		trixie "$RVMM_LAB/root.tmp" ${mirror:+"$mirror"}
	# Backports come from where trixie itself came from.
	local list=$RVMM_LAB/root.tmp/etc/apt/sources.list
	awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i == "trixie") { $i = "trixie-backports"; print; exit } }' \
		"$list" >"$RVMM_LAB/root.tmp/etc/apt/sources.list.d/backports.list"
	[ -s "$RVMM_LAB/root.tmp/etc/apt/sources.list.d/backports.list" ]
	if [ -d "$RVMM_LAB/root" ]; then
		rm -rf --one-file-system "$RVMM_LAB/root"
	fi
	mv "$RVMM_LAB/root.tmp" "$RVMM_LAB/root"
}

# install_in_root PACKAGE…
install_in_root() {
	"$top/scripts/in-root" bash -euc "
		export DEBIAN_FRONTEND=noninteractive
		apt-get -o Acquire::Retries=3 update
		apt-get -o Acquire::Retries=3 -y --no-install-recommends install $*"
}

lab_root() {
	command -v apt-get >/dev/null || die "this machine has no apt-get; the lab needs Debian 12 or 13"
	if ! command -v mmdebstrap >/dev/null || ! command -v unshare >/dev/null; then
		stage host-tools 1 "installing mmdebstrap on this machine" install_host_tools
	fi
	stage root "$(hash_of <(printf '%s\n' "${root_packages[@]}") <(declare -f make_root))" \
		"making a Debian trixie root with compilers and emulators (1-5 min, 1.8 GB)" make_root
	# A new root has none of them yet.
	[ -z "$stage_ran" ] || rm -f "$RVMM_LAB/stamps/root-more"
	stage root-more "$(hash_of <(printf '%s\n' "${more_packages[@]}"))" \
		"installing ${more_packages[*]} in the root" install_in_root "${more_packages[@]}"
}
