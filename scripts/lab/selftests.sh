# SPDX-License-Identifier: GPL-2.0
#
# KVM's own selftests, of the stock kernel's source, on a drive for the emulated host to mount and
# to chroot into; `make conformance` runs them. To be sourced after common.sh and kernel.sh.
#
# Folders under $RVMM_LAB/selftests:
#   headers/   the object tree of the kernel's UAPI headers
#   build/     objects and programs of the last build

# What they need beyond the root's own packages.
selftest_packages=(uuid-dev)

build_selftests() {
	in_root_bash '
		rm -rf /lab/selftests
		mkdir -p /lab/selftests/{headers,build}
		usr=/lab/selftests/headers/usr
		make="nice -n 19 make -j$(nproc)"
		$make -C /lab/kernel/src O=/lab/selftests/headers ARCH=x86 HOSTCC=gcc-14 headers
		$make -C /lab/kernel/src/tools/testing/selftests/kvm OUTPUT=/lab/selftests/build ARCH=x86 CC=gcc-14 \
			INSTALL_HDR_PATH=$usr KHDR_INCLUDES="-isystem $usr/include"'
}

# The programs, stripped, in /tests of a tree that has all else that they load.
make_selftests_drive() {
	in_root_bash '
		t=$(mktemp -d)
		mkdir -p "$t"/{dev,proc,sys,tmp,tests/x86,lib64,usr/lib/x86_64-linux-gnu}
		ln -s usr/lib "$t/lib"
		cd /lab/selftests/build
		find . -type f -perm /111 ! -name "*.so" -printf "%P\n" | while read -r program; do
			strip -o "$t/tests/$program" "$program"
			ldd "$program" | grep -oE "/[^ ]+" >>"$t/libs"
		done
		# What ends a thread is loaded when the first is ended.
		echo /lib/x86_64-linux-gnu/libgcc_s.so.1 >>"$t/libs"
		sort -u "$t/libs" | while read -r lib; do
			case $lib in
			/lib64/*) cp -L "$lib" "$t/lib64/" ;;
			*) cp -L "$lib" "$t/usr/lib/x86_64-linux-gnu/" ;;
			esac
		done
		rm "$t/libs"
		rm -f /lab/images/selftests.img.tmp
		mke2fs -q -t ext4 -O ^has_journal -d "$t" /lab/images/selftests.img.tmp 64M
		mv /lab/images/selftests.img.tmp /lab/images/selftests.img
		rm -rf "$t"'
}

lab_selftests() {
	local s=$RVMM_LAB/stamps
	stage selftest-packages "$(hash_of "$s/root" <(echo "${selftest_packages[@]}"))" \
		"installing ${selftest_packages[*]} in the root" install_in_root "${selftest_packages[@]}"
	stage selftests "$(hash_of "$s/kernel-packages" "$s/selftest-packages" <(declare -f build_selftests))" \
		"building KVM's own selftests (3-10 min)" build_selftests
	stage selftests-drive "$(hash_of "$s/selftests" <(declare -f make_selftests_drive))" \
		"making the drive with them for the emulated host" make_selftests_drive
}
