# SPDX-License-Identifier: GPL-2.0
#
# The stock Debian kernel: image, modules, headers and the Rust metadata, which
# Debian does not ship and which modules_prepare makes from the very same source
# with the very same compiler. To be sourced after common.sh.

# kernel_packages BASE SERIES, e.g. 7.3.4+deb13 7.3
kernel_packages() {
	echo "linux-binary-$1-amd64 linux-modules-$1-amd64 linux-base-$1-amd64" \
		"linux-headers-$1-amd64 linux-headers-$1-common linux-kbuild-$1 linux-source-$2"
}

# The series of scripts/lab/kernels.txt.
known_series() {
	sed 's/#.*//' "$top/scripts/lab/kernels.txt" | xargs
}

# complete_kernels: of an archive's "PACKAGE VERSION" lines, prints "BASE VERSION SERIES" of each
# kernel that has all its packages in one version, the newest first.
complete_kernels() {
	local -A has=()
	local package version base p
	while read -r package version; do
		has["$package=$version"]=1
	done
	printf '%s\n' "${!has[@]}" |
		sed -nE 's/^linux-binary-([0-9]+\.[0-9]+\.[0-9]+\+deb[0-9]+)-amd64=(.+)$/\1 \2/p' | sort -Vr |
		while read -r base version; do
			for p in $(kernel_packages "$base" "$(series_of "$base")"); do
				[ -n "${has["$p=$version"]-}" ] || continue 2
			done
			echo "$base $version $(series_of "$base")"
		done
}

# series_of BASE: 7.3 of 7.3.4+deb13.
series_of() {
	cut -d. -f1,2 <<<"$1"
}

# choose_kernel SERIES…: the first of the lines of complete_kernels whose series is one of these.
choose_kernel() {
	local base version series known=" $* "
	while read -r base version series; do
		case $known in *" $series "*) echo "$base $version $series"; return ;; esac
	done
}

# newer_kernels SERIES…: those of the lines of complete_kernels that come before the one that
# choose_kernel takes.
newer_kernels() {
	local base version series known=" $* "
	while read -r base version series; do
		case $known in *" $series "*) return ;; esac
		echo "$base $version $series"
	done
}

# Runs inside the root. Prints "PACKAGE VERSION" of every kernel package of the archive.
list_archive() {
	apt-get -o Acquire::Retries=3 update >&2
	apt-cache pkgnames linux- | grep -E '^linux-(binary|modules|base|headers|kbuild|source)-[0-9]' |
		xargs -r apt-cache madison | awk -F'|' '{ gsub(/ /, ""); print $1, $2 }' | sort -u
}

# The kernels that the archive has now, as complete_kernels prints them.
archive_kernels() {
	local list
	list=$(in_root_bash "$(declare -f list_archive); list_archive")
	complete_kernels <<<"$list"
}

in_root_bash() {
	"$top/scripts/in-root" bash -euc "$1"
}

# Takes the newest kernel of a known series. A lab that has one keeps it: `rm $RVMM_LAB/stamps/kernel-*`
# makes it look again.
find_kernel() {
	local there found base version series
	if [ -e "$RVMM_LAB/stamps/kernel-packages" ] && read -r base version series <"$RVMM_LAB/kernel/version"; then
		if [ -n "$(choose_kernel $(known_series) <<<"$base $version $series")" ]; then
			return
		fi
	fi
	there=$(archive_kernels)
	found=$(choose_kernel $(known_series) <<<"$there")
	[ -n "$found" ] || {
		echo "trixie-backports has no kernel of a series that is known to work ($(known_series)) with all its packages."
		echo "What it has: $(cut -d' ' -f1 <<<"$there" | xargs)"
		echo "The newest of them would be tried by its series in scripts/lab/kernels.txt."
		return 1
	}
	mkdir -p "$RVMM_LAB/kernel"
	newer_kernels $(known_series) <<<"$there" >"$RVMM_LAB/kernel/newer"
	echo "${found%% *}-amd64" >"$RVMM_LAB/kernel/release"
	echo "$found" >"$RVMM_LAB/kernel/version.tmp"
	mv "$RVMM_LAB/kernel/version.tmp" "$RVMM_LAB/kernel/version"
}

# fetch_kernel, unless the archive has moved on: then it says what would do instead.
fetch_kernel_or_tell() {
	local wanted there instead
	wanted=$(cat "$RVMM_LAB/kernel/version")
	there=$(archive_kernels)
	if ! grep -qxF "$wanted" <<<"$there"; then
		instead=$(choose_kernel $(known_series) <<<"$there")
		echo "kernel $(cut -d' ' -f2 <<<"$wanted") is gone from trixie-backports."
		if [ -n "$instead" ]; then
			echo "$(cut -d' ' -f2 <<<"$instead") would do: rm $RVMM_LAB/stamps/kernel-version, then run the command again."
		else
			echo "There is no other of a series that is known to work; what it has: $(cut -d' ' -f1 <<<"$there" | xargs)"
		fi
		return 1
	fi
	fetch_kernel
}

fetch_kernel() {
	local base version series p names=()
	read -r base version series <"$RVMM_LAB/kernel/version"
	for p in $(kernel_packages "$base" "$series"); do names+=("$p=$version"); done
	mkdir -p "$RVMM_LAB/kernel/deb"
	rm -f "$RVMM_LAB"/kernel/deb/*.deb
	in_root_bash "cd /lab/kernel/deb && apt-get -o APT::Sandbox::User=root -o Acquire::Retries=3 download ${names[*]}"
	rm -rf "$RVMM_LAB/kernel/pkg" "$RVMM_LAB/kernel/src" "$RVMM_LAB/kernel/src.tmp"
	in_root_bash "
		mkdir -p /lab/kernel/pkg /lab/kernel/src.tmp
		for d in /lab/kernel/deb/*.deb; do dpkg-deb -x \$d /lab/kernel/pkg; done
		tar xf /lab/kernel/pkg/usr/src/linux-source-$series.tar.xz -C /lab/kernel/src.tmp --strip-components=1
		depmod -b /lab/kernel/pkg/usr -C /dev/null $base-amd64
		mv /lab/kernel/src.tmp /lab/kernel/src
		rm -rf /lab/kernel/deb /lab/kernel/pkg/usr/src/linux-source-$series.tar.xz"
}

prepare_kernel() {
	local headers
	headers=/lab/kernel/pkg/usr/src/linux-headers-$(kernel_release)
	rm -rf "$RVMM_LAB/obj"
	in_root_bash "
		mkdir -p /lab/obj
		cp $headers/.config /lab/obj/.config
		make -C /lab/kernel/src O=/lab/obj CC=x86_64-linux-gnu-gcc-14 HOSTCC=gcc-14 olddefconfig
		diff $headers/.config /lab/obj/.config || {
			echo 'the configuration changed: the compilers do not match the kernel'; exit 1; }
		make -C /lab/kernel/src O=/lab/obj CC=x86_64-linux-gnu-gcc-14 HOSTCC=gcc-14 -j\$(nproc) modules_prepare
		cp $headers/Module.symvers /lab/obj/
		cp $headers/include/generated/utsrelease.h /lab/obj/include/generated/"
}

lab_kernel() {
	local root_key
	root_key=$(cat "$RVMM_LAB/stamps/root")
	stage kernel-version "$(hash_of "$top/scripts/lab/kernels.txt" <(declare -f find_kernel choose_kernel complete_kernels list_archive))" \
		"looking for the newest stock kernel that is known to work" find_kernel
	if [ -n "$stage_ran" ]; then
		say "kernel: $(cut -d' ' -f1,2 "$RVMM_LAB/kernel/version")"
		[ ! -s "$RVMM_LAB/kernel/newer" ] ||
			say "warning: the archive has $(cut -d' ' -f1 "$RVMM_LAB/kernel/newer" | xargs), newer than what is known to work (scripts/lab/kernels.txt)"
	fi
	stage kernel-packages "$(hash_of "$RVMM_LAB/kernel/version" <(declare -f fetch_kernel))" \
		"fetching and unpacking kernel, modules, headers and source (1 min, 300 MB)" fetch_kernel_or_tell
	stage kernel-tree "$(hash_of "$RVMM_LAB/stamps/kernel-packages" <(echo "$root_key"; declare -f prepare_kernel))" \
		"preparing the kernel tree with its Rust metadata (2-13 min)" prepare_kernel
}
