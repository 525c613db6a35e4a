# SPDX-License-Identifier: GPL-2.0
#
# QEMU's PC with its VGA on /dev/rvmm, and its migration to a second QEMU on the same host while the guest boots: pages
# that are written meanwhile come after, by the dirty log; the guest then does all its tests over there.
# ring: full
# timeout: 800
# hosts: amd
# disk: clients
. ./tests/system/lib.sh

mount_qemu
load_module
cp /images/small.img /tmp/disk.img

# machine NAME ARG…: QEMU in the background, with a monitor that reads /tmp/NAME.monitor; sets $pid.
machine() {
	local name=$1
	shift
	mkfifo "/tmp/$name.monitor"
	qemu "$name" 600 -M pc -vga std -monitor stdio \
		-append "console=tty0 console=ttyS0 $fast rvmm.test=boot rvmm.cpus=2 rvmm.utc=$(date +%s)" \
		"$@" <"/tmp/$name.monitor" &
	pid=$!
}

machine source
source=$pid
exec 3>/tmp/source.monitor
# It boots.
sleep 15
machine target -incoming unix:/tmp/migration
target=$pid
exec 4>/tmp/target.monitor
for i in 1 2 3 4 5 6 7 8 9 10; do [ -S /tmp/migration ] || sleep 1; done
echo "screendump /tmp/screen.ppm" >&3
echo "migrate unix:/tmp/migration" >&3
for i in $(seq "$(limit 200)"); do
	grep -q "completed\|failed" /tmp/source.status 2>/dev/null && break
	echo "info migrate" >&3
	sleep 1
	tr -d '\r' </tmp/source.log | grep -E "^(Migration s|S)tatus: " | tail -n 1 >/tmp/source.status
done
echo "info migrate" >&3
sleep 1
tr -d '\r' </tmp/source.log | grep -E "status|transferred|dirty|remaining|downtime|total time" | tail -n 12 | sed 's/^/# /'
check "the guest has migrated" 'grep -qi completed /tmp/source.status'
check "the screen was not black" '[ -s /tmp/screen.ppm ] && tail -c +100 /tmp/screen.ppm | tr -d "\000" | head -c 1 | grep -q .'
echo quit >&3
wait_gone $source 60
wait_gone $target 400
cat /tmp/target.console >>/tmp/source.console
cp /tmp/source.console /tmp/migrate.console
guest_results migrate
check "migrate: the second QEMU ends with 0 when the guest powers off" '[ $code = 0 ]'
for name in source target; do tail -n 5 "/tmp/$name.log" | tr -d '\r' | sed "s/^/# $name: /"; echo; done
[ $code = 0 ] || show_guest migrate
check "the module unloads afterwards" 'unload_module'
finish
