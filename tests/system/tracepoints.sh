# SPDX-License-Identifier: GPL-2.0
#
# The module's tracepoints tell of a guest's life, and nothing when they are off.
# ring: guest
# ring@intel: full
# timeout: 300
. ./tests/system/lib.sh

load_module
trace=/sys/kernel/tracing
events=$trace/events/rvmm
[ -d $events ] || mount -t tracefs none $trace
# The number of times that an event was told.
told() { grep -c "rvmm_$1: " $trace/trace; }

# Entries and exits would push out of the buffer what comes seldom.
echo 8192 >$trace/buffer_size_kb
for event in $events/rvmm_*; do
	case $event in
	*_entry | *_exit) ;;
	*) echo 1 >$event/enable ;;
	esac
done
echo 1 >$events/rvmm_user_exit/enable
# Requests are paired, so they have a buffer of their own, out of which nothing pushes them.
requests=$trace/instances/requests
mkdir $requests
echo 1 >$requests/events/rvmm/rvmm_request_begin/enable
echo 1 >$requests/events/rvmm/rvmm_request_end/enable
cp /images/small.img /tmp/traced.img
run_guest traced 240 -c 2 --initrd /images/guest.cpio \
	--append "console=ttyS0 $fast rvmm.test=boot rvmm.cpus=2 rvmm.utc=$(date +%s)" --disk /tmp/traced.img /images/vmlinuz
echo 0 >$events/enable
check "the guest ran all its tests" 'grep -q "^1\.\." /tmp/traced.console && ! grep -q "^not ok" /tmp/traced.console'
for event in user_exit inject halt kick port mmio msr map invalidate msi request_begin request_end; do
	check "its life has rvmm_$event" '[ "$(told $event)" -gt 0 ]'
done
# Each request begins, then ends, under one name; and the name of none is used twice at a time.
awk '
	/rvmm_request_begin: / { kind = "begin" }
	/rvmm_request_end: / { kind = "end" }
	!/rvmm_request_/ { next }
	{ for (i = 1; i < NF; i++) f[$i] = $(i + 1); name = f["slot"] "/" f["queue"] "/" f["buffer"] }
	kind == "begin" && open[name]++ { bad++ }
	kind == "end" && !open[name]-- { bad++ }
	{ all++ }
	END { for (name in open) bad += open[name]; print all + 0, bad + 0 }' $requests/trace >/tmp/pairs
echo 0 >$requests/events/enable
check "each request of the disk has its end" '[ "$(cut -d" " -f1 /tmp/pairs)" -gt 20 ] && [ "$(cut -d" " -f2 /tmp/pairs)" = 0 ]'
sed 's/^/# requests, and those without their other half: /' /tmp/pairs
rmdir $requests

echo >$trace/trace
echo 1 >$events/rvmm_entry/enable
echo 1 >$events/rvmm_exit/enable
abi-tests cpuid >/dev/null
echo 0 >$events/enable
check "each entry has its exit" '[ "$(told entry)" -gt 0 ] && [ "$(told entry)" = "$(told exit)" ]'

echo >$trace/trace
abi-tests cpuid >/dev/null
check "events that are off tell nothing" '! grep -q rvmm_ $trace/trace'
check "the module unloads afterwards" 'unload_module'
finish
