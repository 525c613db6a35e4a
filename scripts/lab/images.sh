# SPDX-License-Identifier: GPL-2.0
#
# Kernels, initramfs archives and disks for the emulated host and its guests.
# To be sourced after common.sh.

# Loaded by tests or by the init scripts; dependencies come along.
host_modules=(virtio_blk ext4 kvm kvm_amd tun loop msr)
intel_modules=(ata_piix sd_mod ext4 kvm kvm_intel msr tun loop)
guest_modules=(virtio_blk ext4 virtio-rng virtio_net button evdev)

# tree_hash DIR…: key over names, modes and contents.
tree_hash() {
	(cd "$top" && find "$@" -type f -printf '%p %m ' -exec sha256sum {} \;) | sort | sha256sum | cut -c1-16
}

# The guest's kernel is the host's: as bzImage, and as ELF vmlinux.
make_kernels() {
	mkdir -p "$RVMM_LAB/images"
	"$top/scripts/in-root" bash -euc '
		cp "/lab/kernel/pkg/usr/lib/modules/$(cat /lab/kernel/release)/vmlinuz" /lab/images/vmlinuz.tmp
		/lab/kernel/src/scripts/extract-vmlinux /lab/images/vmlinuz.tmp >/lab/images/vmlinux.tmp
		readelf -n /lab/images/vmlinux.tmp | grep -q Xen
		mv /lab/images/vmlinux.tmp /lab/images/vmlinux
		mv /lab/images/vmlinuz.tmp /lab/images/vmlinuz'
}

# The network in user space, for the emulated hosts. Without it, its test is skipped.
get_passt() {
	"$top/scripts/in-root" bash -euc '
		t=$(mktemp -d)
		cd "$t"
		apt-get -o Acquire::Retries=3 download passt ||
			{ apt-get -o Acquire::Retries=3 update; apt-get -o Acquire::Retries=3 download passt; } || exit 0
		dpkg -x passt_*.deb x
		mkdir -p "$t/tree/bin" "$t/tree/lib64" "$t/tree/lib/x86_64-linux-gnu"
		cp x/usr/bin/passt* "$t/tree/bin/"
		cp -L /lib64/ld-linux-x86-64.so.2 "$t/tree/lib64/"
		cp -L /lib/x86_64-linux-gnu/libc.so.6 "$t/tree/lib/x86_64-linux-gnu/"
		rm -rf /lab/passt
		mv "$t/tree" /lab/passt
		rm -rf "$t"'
}

# host_initramfs OUT MODULE…
host_initramfs() {
	"$top/scripts/in-root" bash -euc '
		t=$(mktemp -d)
		cp -r tests/system/host/. "$t/"
		[ ! -d /lab/passt ] || cp -r /lab/passt/. "$t/"
		out=$1
		shift
		scripts/lab/mkinitramfs "$out" "$t" "$@"
		rm -rf "$t"' - "$@"
}

make_host_initramfs() {
	host_initramfs /lab/images/host.cpio "${host_modules[@]}"
}

make_intel_initramfs() {
	host_initramfs /lab/images/host-intel.cpio "${intel_modules[@]}"
}

make_guest_initramfs() {
	"$top/scripts/in-root" bash -euc '
		t=$(mktemp -d)
		cp -r tests/guest/root/. "$t/"
		mkdir -p "$t/tests" "$t/bin"
		cp tests/guest/tests/* "$t/tests/"
		for c in tests/guest/*.c; do
			[ ! -e "$c" ] || gcc-14 -O2 -Wall -static -s -o "$t/bin/$(basename "$c" .c)" "$c" -lpthread
		done
		scripts/lab/mkinitramfs /lab/images/guest.cpio "$t" '"${guest_modules[*]}"'
		rm -rf "$t"'
}

# A small disk for guests: ext4 with one known file.
make_small_disk() {
	"$top/scripts/in-root" bash -euc '
		t=$(mktemp -d)
		seq 100000 | head -c 524288 >"$t/known"
		(cd "$t" && sha256sum known >known.sha256)
		rm -f /lab/images/small.img.tmp
		mke2fs -q -t ext4 -d "$t" /lab/images/small.img.tmp 24M
		mv /lab/images/small.img.tmp /lab/images/small.img
		rm -rf "$t"'
}

# A unified kernel image of the guest's kernel and initramfs, as systemd's ukify makes it, on a drive of its own. Without
# the stub, its test is skipped.
make_uki() {
	"$top/scripts/in-root" bash -euc '
		rm -f /lab/images/uki.img
		t=$(mktemp -d)
		cd "$t"
		apt-get -o Acquire::Retries=3 download systemd-boot-efi ||
			{ apt-get -o Acquire::Retries=3 update; apt-get -o Acquire::Retries=3 download systemd-boot-efi; } || exit 0
		dpkg -x systemd-boot-efi_*.deb x
		stub=x/usr/lib/systemd/boot/efi/linuxx64.efi.stub
		printf "console=ttyS0 quiet mitigations=off nokaslr rvmm.test=boot" >cmdline
		# Sections follow those of the stub, each on a page of its own.
		end=0
		while read -r size vma; do
			at=$((0x$size + 0x$vma))
			[ $at -le $end ] || end=$at
		done < <(objdump -h "$stub" | awk "NF == 7 && \$2 ~ /^\\./ { print \$3, \$4 }")
		sections=()
		for section in osrel=/etc/os-release cmdline=cmdline linux=/lab/images/vmlinuz initrd=/lab/images/guest.cpio; do
			name=.${section%%=*} file=${section#*=}
			end=$(((end + 4095) & ~4095))
			sections+=(--add-section "$name=$file" --change-section-vma "$name=$end")
			end=$((end + $(stat -Lc %s "$file")))
		done
		mkdir d
		objcopy "${sections[@]}" "$stub" d/uki.efi
		mke2fs -q -t ext4 -O ^has_journal -d d uki.img 96M
		mv uki.img /lab/images/uki.img
		rm -rf "$t"'
}

# What the emulated host mounts at /images, so that tests can name files.
make_files_drive() {
	"$top/scripts/in-root" bash -euc '
		t=$(mktemp -d)
		cp --sparse=always /lab/images/{vmlinuz,vmlinux,guest.cpio,small.img} "$t/"
		rm -f /lab/images/files.img.tmp
		mke2fs -q -t ext4 -O ^has_journal -d "$t" /lab/images/files.img.tmp 192M
		mv /lab/images/files.img.tmp /lab/images/files.img
		rm -rf "$t"'
}

# Debian's QEMU with all that it needs, for the emulated host to mount and to chroot into.
make_clients_drive() {
	"$top/scripts/in-root" bash -euc '
		t=$(mktemp -d)
		qemu=/usr/bin/qemu-system-x86_64
		mkdir -p "$t"/{dev,proc,sys,tmp,images,bin,lib64,usr/bin,usr/share,usr/lib/x86_64-linux-gnu}
		ln -s usr/lib "$t/lib"
		cp "$qemu" "$t/usr/bin/"
		ldd "$qemu" | grep -oE "/[^ ]+" | sort -u | while read -r lib; do
			case $lib in
			/lib64/*) cp -L "$lib" "$t/lib64/" ;;
			*) cp -L "$lib" "$t/usr/lib/x86_64-linux-gnu/" ;;
			esac
		done
		cp -rL /usr/share/qemu /usr/share/seabios "$t/usr/share/"
		mkdir "$t/usr/share/OVMF"
		cp -L /usr/share/OVMF/OVMF_{CODE,VARS}_4M.fd "$t/usr/share/OVMF/"
		rm -f /lab/images/clients.img.tmp
		mke2fs -q -t ext4 -O ^has_journal -d "$t" /lab/images/clients.img.tmp 192M
		mv /lab/images/clients.img.tmp /lab/images/clients.img
		rm -rf "$t"'
}

lab_images() {
	local base s=$RVMM_LAB/stamps
	base=$(hash_of "$s/root" "$s/kernel-packages" "$top/scripts/lab/mkinitramfs")
	stage kernels "$(hash_of <(echo "$base"; declare -f make_kernels))" \
		"copying the guest kernel as bzImage and ELF" make_kernels
	stage passt "$(hash_of <(echo "$base"; declare -f get_passt))" \
		"fetching passt, the network in user space" get_passt
	base=$(hash_of <(echo "$base"; declare -f host_initramfs) "$s/passt")
	stage host-initramfs "$(hash_of <(echo "$base" "${host_modules[@]}"; declare -f make_host_initramfs; tree_hash tests/system/host))" \
		"packing the emulated host's initramfs" make_host_initramfs
	stage intel-initramfs "$(hash_of <(echo "$base" "${intel_modules[@]}"; declare -f make_intel_initramfs; tree_hash tests/system/host))" \
		"packing the emulated Intel host's initramfs" make_intel_initramfs
	stage guest-initramfs "$(hash_of <(echo "$base" "${guest_modules[@]}"; declare -f make_guest_initramfs; tree_hash tests/guest))" \
		"packing the guest's initramfs" make_guest_initramfs
	stage small-disk "$(hash_of <(declare -f make_small_disk))" \
		"making a small guest disk" make_small_disk
	stage files-drive "$(hash_of "$s/kernels" "$s/guest-initramfs" "$s/small-disk" <(declare -f make_files_drive))" \
		"making the drive with the guests' files" make_files_drive
	stage clients-drive "$(hash_of "$s/root" "$s/root-more" <(declare -f make_clients_drive))" \
		"making the drive with QEMU for the emulated host" make_clients_drive
	stage uki "$(hash_of "$s/kernels" "$s/guest-initramfs" <(declare -f make_uki))" \
		"making a unified kernel image" make_uki
}

debian_packages=(
	systemd-sysv login passwd util-linux kmod e2fsprogs bash coreutils procps iproute2 udev
	dbus libpam-systemd
)

# The password of root in the Debian guest; it is no secret.
debian_password=rvmm

# A Debian guest with systemd: ext4, serial console, root's password known. The
# kernel and the modules that find the disk come from outside (guest.cpio).
make_debian() {
	"$top/scripts/in-root" bash -euc '
		t=$(mktemp -d /lab/images/debian.XXXXXX)
		trap "rm -rf --one-file-system $t" EXIT
		mirror=$(awk "\$1 == \"deb\" { for (i = 2; i <= NF; i++) if (\$i ~ /^(https?|file):/) { print \$i; exit } }" /etc/apt/sources.list)
		mmdebstrap --variant=minbase --mode=root --aptopt="Acquire::Retries \"3\"" \
			--include='"$(IFS=,; echo "${debian_packages[*]}")"' \
			--dpkgopt="path-exclude=/usr/share/man/*" --dpkgopt="path-exclude=/usr/share/doc/*" \
			--dpkgopt="path-exclude=/usr/share/locale/*" trixie "$t" "$mirror"
		echo rvmm-guest >"$t/etc/hostname"
		echo "127.0.0.1 localhost rvmm-guest" >"$t/etc/hosts"
		echo "/dev/vda / ext4 defaults 0 1" >"$t/etc/fstab"
		echo "root:'"$debian_password"'" | chroot "$t" chpasswd
		# On an emulator inside an emulator a login takes minutes.
		sed -i "s/^LOGIN_TIMEOUT.*/LOGIN_TIMEOUT 1800/" "$t/etc/login.defs"
		chroot "$t" systemctl enable serial-getty@ttyS0.service
		chroot "$t" systemctl disable apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer || true
		release=$(cat /lab/kernel/release)
		mkdir -p "$t/usr/lib/modules/$release"
		for m in ext4 virtio_blk virtio-rng; do
			modprobe -d /lab/kernel/pkg/usr -S "$release" --show-depends "$m" | sed -n "s/^insmod //p"
		done | sort -u | while read -r ko; do
			to=$t${ko#/lab/kernel/pkg}
			mkdir -p "${to%/*}"
			cp "$ko" "$to"
		done
		cp /lab/kernel/pkg/usr/lib/modules/$release/modules.{builtin,builtin.modinfo,order} "$t/usr/lib/modules/$release/"
		depmod -b "$t" "$release"
		rm -rf "$t"/var/cache/apt/archives/*.deb "$t"/var/lib/apt/lists/* "$t/etc/resolv.conf"
		gcc-14 -O2 -static -o "$t/usr/local/bin/avx" tests/guest/avx.c -lpthread
		rm -f /lab/images/debian.img.tmp
		mke2fs -q -t ext4 -L debian -d "$t" /lab/images/debian.img.tmp 1200M
		mv /lab/images/debian.img.tmp /lab/images/debian.img'
}

lab_debian() {
	stage debian-image "$(hash_of "$RVMM_LAB/stamps/kernel-packages" <(echo "${debian_packages[@]}"; declare -f make_debian))" \
		"making a Debian guest image with systemd (1-3 min)" make_debian
}
