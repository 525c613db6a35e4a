# SPDX-License-Identifier: GPL-2.0
#
# The Debian packages, in a Debian below the emulated host: installed, they bring a module that loads and programs that run
# a guest; removed, they leave nothing.
# timeout: 600
# hosts: amd
# disk: debian
# file: build/deb
. ./tests/system/lib.sh

debian=/tmp/debian
mkdir -p $debian
mount -t ext4 /dev/vdc $debian || { not_ok "the Debian image"; finish; }
mkdir $debian/images
for dir in dev dev/pts proc sys images; do mount --bind /$dir $debian/$dir; done
for dir in tmp run; do mount -t tmpfs tmpfs $debian/$dir; done
cp deb/*.deb $debian/tmp/
cp /images/small.img $debian/tmp/demo.img
release=$(uname -r)

inside() { chroot $debian /usr/bin/env -i --chdir=/ PATH=/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@" </dev/null; }
# told COMMAND…: what it says goes into the log of the test, too.
told() { inside "$@" >/tmp/out 2>&1; code=$?; sed 's/^/# /' /tmp/out; return $code; }
# All files but those that tell of what was done.
files() { inside find / -xdev \( -path /var/log -o -path /var/lib/dpkg -o -path /var/lib/systemd -o -path /var/cache \) -prune -o -print | sort; }

files >/tmp/before
# The kernel's modules are there, but not as a package.
packages=$(cd $debian && echo tmp/rvmm-tools_*.deb tmp/rvmm-module-*.deb)
check "they install" 'told dpkg --ignore-depends=linux-modules-$release -i $packages' && [ $code = 0 ] || finish
check "the units are good" 'told systemd-analyze verify --man=no rvmm@demo.service rvmm.target'
check "so is the rule for the node" 'told udevadm verify /usr/lib/udev/rules.d/60-rvmm.rules'
check "machines that are services start with the system" '[ "$(inside systemctl is-enabled rvmm.target)" = enabled ]'
check "the module is for this kernel" '[ "$(inside modinfo -F vermagic rvmm | cut -d" " -f1)" = "$release" ]'
check "enable loads it" 'told rvmmctl -e && grep -q "^rvmm " /proc/modules'
cat >$debian/etc/rvmm/demo.toml <<END
kernel = "/images/vmlinux"
initrd = "/images/guest.cpio"
append = "console=ttyS0 $fast"
memory = "256M"
disk = ["/tmp/demo.img"]
stop-timeout = 100
END
check "a machine starts by its name" 'told rvmmctl start demo'
check "it is listed" 'told rvmmctl list && grep -qE "^[0-9]+ +demo +running" /tmp/out'
waited=0
until inside timeout 2 rvmmctl console -r demo --history 100000 | grep -q "login: " || [ $waited -ge 60 ]; do waited=$((waited + 1)); done
check "its guest comes up" '[ $waited -lt 60 ]'
check "and powers off when it is told to stop" 'inside rvmmctl wait demo & told rvmmctl stop demo && wait $!'
check "disable unloads the module" 'told rvmmctl -d && ! grep -q "^rvmm " /proc/modules'
rm $debian/etc/rvmm/demo.toml
check "they are removed" 'told dpkg --purge rvmm-tools rvmm-module-$release'
files >/tmp/after
diff /tmp/before /tmp/after | grep '^[-+]/' | sed 's/^/# /'
check "and leave nothing" 'cmp -s /tmp/before /tmp/after'
check "the module is not found any more" '! inside modprobe -n rvmm 2>/dev/null'
umount $debian/tmp $debian/run $debian/dev/pts $debian/dev $debian/proc $debian/sys $debian/images $debian
finish
