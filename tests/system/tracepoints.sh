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
run_guest traced 240 -c 2 --initrd /images/guest.cpio \
	--append "console=ttyS0 $fast rvmm.test=boot rvmm.cpus=2 rvmm.utc=$(date +%s)" /images/vmlinuz
echo 0 >$events/enable
check "the guest ran all its tests" 'grep -q "^1\.\." /tmp/traced.console && ! grep -q "^not ok" /tmp/traced.console'
for event in user_exit inject halt kick port mmio msr map invalidate; do
	check "its life has rvmm_$event" '[ "$(told $event)" -gt 0 ]'
done

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
