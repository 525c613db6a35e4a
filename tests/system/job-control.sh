# SPDX-License-Identifier: GPL-2.0
#
# rvmm-run on a terminal as a job of a shell: in the background nothing stops it, and it can be ended; the escape key
# works however much was typed before it.
# ring: system
# timeout: 900
# ring@intel: full
. ./tests/system/lib.sh

# job_of HOW: a guest that panics for want of a root file system, and then reads nothing.
job_of() {
	job "$1" rvmm-run -m 128M --console stdio --append "console=ttyS0 $fast panic=0" /images/vmlinux >/tmp/job.log 2>&1
	code=$?
	[ $code = 0 ] || sed 's/^/# /' /tmp/job.log | tr -d '\r' | tail -n 25
	return $code
}

load_module
check "in the background the guest writes to the terminal, and SIGTERM ends the run" 'job_of background'
check "stopped in the background, SIGTERM and SIGCONT end it" 'job_of stopped'
check "the escape key works behind 30,000 characters that nobody reads" 'job_of paste'
check "the module unloads" 'unload_module'
finish
