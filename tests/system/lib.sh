# SPDX-License-Identifier: GPL-2.0
#
# Helpers for tests in the emulated host: KTAP, the module, guests and their
# consoles. To be sourced; the current folder holds rvmm.ko and rvmm-run.

n=0
ok() { n=$((n + 1)); echo "ok $n $1"; }
not_ok() { n=$((n + 1)); echo "not ok $n $1"; }
skip() { n=$((n + 1)); echo "ok $n $1 # SKIP $2"; }
finish() { echo "1..$n"; exit 0; }

# check NAME CONDITION: one result; CONDITION is evaluated.
check() {
	if eval "$2"; then
		ok "$1"
	else
		not_ok "$1"
		echo "# failed: $2"
	fi
}

# The debug kernel takes several times as long; what waits for it has that time more.
slow=1
[ ! -e /sys/kernel/debug/kmemleak ] || slow=4
limit() { echo $(($1 * slow)); }

# Speeds up the kernels of guests; none of it touches what is tested. For the same
# reason most guests are the ELF kernel, which need not decompress itself.
fast="quiet mitigations=off nokaslr audit=0 raid=noautodetect cryptomgr.notests rodata=off"

# load_module [PARAMETER…]: with those of the host, too.
load_module() {
	insmod rvmm.ko ${MODULE_PARAMETERS-} "$@" || { not_ok "insmod rvmm.ko"; finish; }
	# For who reads the addresses that run-host notes of a host that stood still.
	sed -n 's/^rvmm .* \(0x[0-9a-f]*\).*/# rvmm is at \1/p' /proc/modules
}

# install_module: puts the module where modprobe finds it.
install_module() {
	local folder
	folder=/lib/modules/$(uname -r)
	cp rvmm.ko "$folder/"
	echo "rvmm.ko:" >>"$folder/modules.dep"
}

# load_kvm: loads KVM's module for this processor, whose name is then in $kvm.
load_kvm() {
	kvm=kvm_amd
	! grep -qw vmx /proc/cpuinfo || kvm=kvm_intel
	modprobe $kvm
}

# keep_kvm: loads it, and keeps a VM of it all the while, of the process $keeper. With the first and the last one the kernel
# patches the code of its scheduler, and TCG now and then runs an int3 that is not there any more: "Oops: int3" in __schedule().
keep_kvm() {
	load_kvm || return
	kvm-hello 0xffffffff &
	keeper=$!
	sleep 1
	kill -STOP $keeper
}

# callers NAME SECONDS SEED OPTION…: what the random callers of fuzz-ioctl print, under NAME, and one result on top.
callers() {
	local name=$1 seconds=$2 seed=$3
	shift 3
	fuzz-ioctl --seconds "$seconds" --seed "$seed" $(on_emulator) "$@" ${FUZZ_ARGS-} >/tmp/fuzz.out 2>&1
	code=$?
	pass_on /tmp/fuzz.out "$name: "
	check "$name: the random callers find nothing" '[ $code = 0 ]'
}

# on_emulator: the options for what they do not call, and do not blame the module for. QEMU ends itself ("bql_lock_impl: assertion
# failed") when a guest's breakpoint is met in the delivery of an event. And it may forget a timer's interrupt at #VMEXIT
# until another one comes: one comes from another CPU.
on_emulator() { ! grep -q "QEMU TCG" /proc/cpuinfo || echo "--without SET_DEBUGREGS --wake"; }

# check_refused PATTERN: insmod must fail, and say why in one line that PATTERN matches.
# check_refused PATTERN [PARAMETER…]: insmod must fail, and say why in one line that PATTERN matches.
check_refused() {
	local pattern=$1 parameters
	shift
	parameters=$*
	check "insmod fails" '! insmod rvmm.ko $parameters 2>/tmp/err'
	sed 's/^/# /' /tmp/err
	# busybox's insmod tries each of the two system calls, so the line comes twice.
	dmesg | sed -nE 's#^\[[^]]*\] (rvmm: .*('"$pattern"').*)#\1#p' | sort -u >/tmp/lines
	check "one line in the log says why" '[ "$(wc -l </tmp/lines)" = 1 ]'
	dmesg | grep rvmm | sed 's/^/# /'
	check "there is no /dev/rvmm" '[ ! -e /dev/rvmm ]'
	check "no module stays" '! grep -q ^rvmm /proc/modules'
}

# pass_on FILE [PREFIX]: passes on the results in the KTAP that a program printed, PREFIX before each name.
pass_on() {
	local line text
	while read -r line; do
		text=$(echo "$line" | sed -E 's/^(not )?ok [0-9]+ //')
		case $line in
		"not ok "*) not_ok "${2-}$text" ;;
		"ok "*) n=$((n + 1)); echo "ok $n ${2-}$text" ;;
		"KTAP "* | "1.."*) : ;;
		*) echo "# ${line#\# }" ;;
		esac
	done <"$1"
}

# abi NODE [COMMAND…]: runs tests/abi against it, under COMMAND if there is one, and passes the results on.
abi() {
	local node=$1
	shift
	"$@" abi-tests --device "$node" --limit "$(limit 60)" >/tmp/abi.out 2>&1
	code=$?
	pass_on /tmp/abi.out "$node: "
	check "$node: no test failed" '[ $code = 0 ]'
}

# unload_module: waits a little for the last user to go.
unload_module() {
	local i
	for i in 1 2 3 4 5 6 7 8 9 10; do
		rmmod rvmm 2>/tmp/rmmod.err && return 0
		sleep 0.3
	done
	sed 's/^/# /' /tmp/rmmod.err
	return 1
}

# run_guest NAME SECONDS ARG…: runs rvmm-run to its end; its console is in
# /tmp/NAME.console, its own output in /tmp/NAME.log, its exit code in $code.
run_guest() {
	local name=$1 seconds=$2
	shift 2
	# One that hangs tells where its CPUs are before it goes.
	timeout -s TERM -k 30 "$(limit "$seconds")" rvmm-run --no-reboot --debug \
		--console "file:/tmp/$name.console" "$@" >"/tmp/$name.log" 2>&1
	code=$?
	[ $code = 0 ] || show_guest "$name"
}

# run_end NAME TEST OPTION CODE: the test guest does TEST, which ends it; OPTION is for its kernel; the tool's
# exit code must be CODE.
run_end() {
	run_guest "$1" 90 -m 256M --initrd /images/guest.cpio \
		--append "console=ttyS0 $fast rvmm.test=$2 $3" /images/vmlinux >/dev/null
	check "$1: exit code $4" "[ $code = $4 ]"
	check "$1: the guest did not go on" '! grep -q "still there" /tmp/'"$1"'.console'
}

# show_guest NAME: what it printed last, as KTAP comments.
show_guest() {
	echo "# --- $1: rvmm-run says"
	tail -n 300 "/tmp/$1.log" 2>/dev/null | sed 's/^/# /'
	echo "# --- $1: console"
	tail -n 25 "/tmp/$1.console" 2>/dev/null | tr -d '\r' | sed 's/^/# /'
	echo
}

# test_guest NAME SECONDS CPUS KERNEL ARG…: boots the test guest, passes its
# results on under NAME and checks that it powered off.
test_guest() {
	local name=$1 seconds=$2 cpus=$3 kernel=$4 began
	shift 4
	began=$(cut -d' ' -f1 /proc/uptime)
	run_guest "$name" "$seconds" -c "$cpus" --initrd /images/guest.cpio \
		--append "console=ttyS0 $fast rvmm.test=boot rvmm.cpus=$cpus rvmm.utc=$(date +%s)" "$kernel" "$@"
	echo "# $name ran from $began to $(cut -d' ' -f1 /proc/uptime) s"
	guest_results "$name"
	check "$name: rvmm-run ends with 0 when the guest powers off" '[ $code = 0 ]'
}

# mount_qemu: makes Debian's QEMU of the drive with clients ready in $root; without it, the test ends as skipped.
mount_qemu() {
	local dir
	root=/tmp/clients
	mkdir -p $root
	mount -t ext4 -o ro /dev/vdc $root || { skip "qemu: a guest of its own" "no drive with QEMU"; finish; }
	for dir in dev proc sys tmp images; do mount --bind /$dir $root/$dir; done
}

# qemu NAME SECONDS ARG…: Debian's QEMU on /dev/rvmm with the test guest, two CPUs and a copy of the small disk, with all that
# it says in /tmp/NAME.log and the guest's console in /tmp/NAME.console.
qemu() {
	local name=$1 seconds=$2
	shift 2
	timeout -s TERM -k 10 "$(limit "$seconds")" chroot $root /usr/bin/qemu-system-x86_64 -accel kvm,device=/dev/rvmm \
		-cpu host -m 256M -smp 2 -display none -no-reboot \
		-serial "file:/tmp/$name.console" -kernel /images/vmlinuz -initrd /images/guest.cpio \
		-append "console=ttyS0 $fast rvmm.test=boot rvmm.cpus=2 rvmm.utc=$(date +%s)" \
		-drive file=/tmp/disk.img,format=raw,if=none,id=disk -device virtio-blk-pci,drive=disk \
		-device virtio-rng-pci "$@" >"/tmp/$name.log" 2>&1
}

# qemu_guest NAME SECONDS ARG…: boots the test guest with two CPUs in QEMU on /dev/rvmm, which ends when the guest powers off;
# passes its results on under NAME.
qemu_guest() {
	local name=$1 seconds=$2 began
	shift 2
	cp /images/small.img /tmp/disk.img
	began=$(cut -d' ' -f1 /proc/uptime)
	qemu "$name" "$seconds" -nodefaults -vga none -monitor none "$@"
	code=$?
	echo "# $name ran from $began to $(cut -d' ' -f1 /proc/uptime) s"
	guest_results "$name"
	check "$name: it ends with 0 when the guest powers off" '[ $code = 0 ]'
	sed "s/^/# $name: /" "/tmp/$name.log"
	[ $code = 0 ] || show_guest "$name"
}

# guest_results NAME: passes on, under NAME, what a guest's tests printed.
guest_results() {
	local name=$1 line text
	tr -d '\r' <"/tmp/$name.console" >"/tmp/$name.lines"
	while read -r line; do
		text=$(echo "$line" | sed -nE 's/^(not )?ok [0-9]+ guest: //p')
		case $line in
		"not ok "*) not_ok "$name: $text" ;;
		"ok "*) n=$((n + 1)); echo "ok $n $name: $text" ;;
		"1.."*) : ;;
		"#"*) echo "$line" ;;
		esac
	done <"/tmp/$name.lines"
	check "$name: the guest ran all its tests" 'grep -q "^1\.\." /tmp/'"$name"'.lines'
}

# start_guest NAME ARG…: runs rvmm-run in the background with a pty; sets $pid
# and $pty, and collects the console in /tmp/NAME.console. The program $under, if set, starts it.
start_guest() {
	local name=$1 i
	shift
	${under-} rvmm-run --no-reboot "$@" >"/tmp/$name.log" 2>&1 &
	pid=$!
	pty=
	for i in $(seq "$(limit 50)"); do
		pty=$(grep -o '/dev/pts/[0-9]*' "/tmp/$name.log" | head -n 1)
		[ -z "$pty" ] || break
		sleep 0.2
	done
	[ -n "$pty" ] || { echo "# no pty from rvmm-run"; show_guest "$name"; return 1; }
	cat "$pty" >"/tmp/$name.console" 2>/dev/null &
	reader=$!
}

# expect NAME SECONDS TEXT: waits until the console has shown TEXT (a pattern of
# grep -E) after what earlier calls found.
expect() {
	local file=/tmp/$1.console until from
	until=$(($(date +%s) + $(limit "$2")))
	from=$(cat "/tmp/$1.seen" 2>/dev/null || echo 0)
	while :; do
		if tail -c "+$((from + 1))" "$file" 2>/dev/null | tr -d '\r' | grep -qE -- "$3"; then
			wc -c <"$file" >"/tmp/$1.seen"
			return 0
		fi
		[ "$(date +%s)" -lt "$until" ] || break
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.3
	done
	echo "# did not see: $3"
	show_guest "$1"
	return 1
}

# send TEXT: types a line into the console.
send() { printf '%s\n' "$1" >"$pty"; }

# wait_gone PID SECONDS: waits for a process of ours to end; sets $code.
wait_gone() {
	local i=0
	while kill -0 "$1" 2>/dev/null && [ $i -lt $(($(limit "$2") * 5)) ]; do
		sleep 0.2
		i=$((i + 1))
	done
	kill -0 "$1" 2>/dev/null && return 1
	wait "$1"
	code=$?
}

# allow_faults PROBABILITY: lets allocations fail, those that may sleep too, without a line in the log: of 100 that
# many in processes that `faulty` starts, and those of nth-fault. Of the debug kernel alone.
allow_faults() {
	local f=/sys/kernel/debug cache
	# Not those of what watches: it would watch no more.
	for cache in /sys/kernel/slab/*/failslab; do
		case $cache in */kmemleak_* | */debug_objects_*) ;; *) echo 1 >"$cache" 2>/dev/null ;; esac
	done
	echo Y >$f/failslab/cache-filter
	echo N >$f/failslab/ignore-gfp-wait
	echo N >$f/fail_page_alloc/ignore-gfp-wait
	echo N >$f/fail_page_alloc/ignore-gfp-highmem
	echo 0 >$f/fail_page_alloc/min-order
	for f in $f/failslab $f/fail_page_alloc $f/fail_usercopy; do
		echo 0 >$f/verbose
		echo Y >$f/task-filter
		echo -1 >$f/times
		echo "$1" >$f/probability
	done
}

# faulty COMMAND…: runs it as a process whose allocations may fail.
faulty() { sh -c 'echo 1 >/proc/self/make-it-fail && exec "$@"' sh "$@"; }

# time_left: whether a loop of the ring soak, given $SOAK_SECONDS, goes on.
began_at=$(date +%s)
time_left() { [ $(($(date +%s) - began_at)) -lt "${SOAK_SECONDS:-60}" ]; }

# Free memory in KiB after caches that can go have gone. KASAN keeps what is freed for a while.
free_kib() {
	local cache
	sync
	echo 3 >/proc/sys/vm/drop_caches
	[ $slow = 1 ] || for cache in /sys/kernel/slab/*/shrink; do echo 1 >"$cache"; done
	sleep 0.5
	# A CPU's own list of free pages is not in MemFree, and may hold tens of megabytes.
	awk '/^MemFree:/ { free += $2 } /^ +count:/ { free += $2 * 4 } END { print free }' /proc/meminfo /proc/zoneinfo
}

# check_memory_comes_back BEFORE: one result; BEFORE is what free_kib said. The kernel gives memory back in its own
# time; what is lost stays lost.
check_memory_comes_back() {
	local before=$1 after i
	for i in 1 2 3 4 5 6 7 8 9 10; do
		after=$(free_kib)
		[ $((before - after)) -ge 16384 ] || break
		sleep 1
	done
	echo "# free before: $before KiB, after: $after KiB"
	check "the memory comes back" '[ $((before - after)) -lt 16384 ]'
}
