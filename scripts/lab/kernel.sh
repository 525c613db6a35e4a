# SPDX-License-Identifier: GPL-2.0
#
# The stock Debian kernel: image, modules, headers and the Rust metadata, which
# Debian does not ship and which modules_prepare makes from the very same source
# with the very same compiler. To be sourced after common.sh.

# Runs inside the root. Prints "RELEASE VERSION SERIES" of the newest 7.x kernel
# in backports that has every package in one version.
resolve_kernel() {
	local k v series p ok
	apt-cache pkgnames linux-binary-7 |
		sed -nE 's/^linux-binary-(7\.[0-9]+\.[0-9]+\+deb13)-amd64$/\1/p' | sort -Vr |
		while read -r k; do
			v=$(apt-cache madison "linux-binary-$k-amd64" | awk -F'|' 'NR == 1 { gsub(/ /, "", $2); print $2 }')
			[ -n "$v" ] || continue
			series=$(cut -d. -f1,2 <<<"$k")
			ok=1
			for p in $(kernel_packages "$k" "$series"); do
				apt-cache madison "$p" | awk -F'|' -v v="$v" \
					'{ gsub(/ /, "", $2) } $2 == v { found = 1 } END { exit !found }' || ok=0
			done
			[ $ok = 1 ] || continue
			echo "$k $v $series"
			break
		done
}

# kernel_packages BASE SERIES, e.g. 7.3.4+deb13 7.3
kernel_packages() {
	echo "linux-binary-$1-amd64 linux-modules-$1-amd64 linux-base-$1-amd64" \
		"linux-headers-$1-amd64 linux-headers-$1-common linux-kbuild-$1 linux-source-$2"
}

in_root_bash() {
	"$top/scripts/in-root" bash -euc "$1"
}

find_kernel() {
	local found
	in_root_bash 'apt-get -o Acquire::Retries=3 update'
	found=$(in_root_bash "$(declare -f resolve_kernel kernel_packages); resolve_kernel")
	[ -n "$found" ] || { echo "no 7.x kernel with all its packages in trixie-backports"; return 1; }
	mkdir -p "$RVMM_LAB/kernel"
	echo "${found%% *}-amd64" >"$RVMM_LAB/kernel/release"
	echo "$found" >"$RVMM_LAB/kernel/version.tmp"
	mv "$RVMM_LAB/kernel/version.tmp" "$RVMM_LAB/kernel/version"
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
	stage kernel-version "$(hash_of <(declare -f resolve_kernel kernel_packages find_kernel))" \
		"looking for the newest stock 7.x kernel in backports" find_kernel
	[ -z "$stage_ran" ] || say "kernel: $(cut -d' ' -f1,2 "$RVMM_LAB/kernel/version")"
	stage kernel-packages "$(hash_of "$RVMM_LAB/kernel/version" <(declare -f fetch_kernel))" \
		"fetching and unpacking kernel, modules, headers and source (1 min, 300 MB)" fetch_kernel
	stage kernel-tree "$(hash_of "$RVMM_LAB/stamps/kernel-packages" <(echo "$root_key"; declare -f prepare_kernel))" \
		"preparing the kernel tree with its Rust metadata (2-13 min)" prepare_kernel
}
