#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Sets up the lab on a bare Debian 12 or 13 machine, as root: everything that
# building and testing needs, under $RVMM_LAB. Each stage runs again only when
# its inputs change; an interrupted run goes on where it stopped.
#
# Usage: scripts/lab/setup.sh [all|build|debian|debug|packages|selftests]
#   build    what `make module tool check test-host` need
#   all      build, and the images for the emulated host and its guests (default)
#   debian   all, and the full Debian guest image
#   debug    debian, and the debug kernel of `make soak`
#   packages build, and what makes Debian packages
#   selftests
#            all, and KVM's own selftests for `make conformance`
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$top/scripts/lab/common.sh"
. "$top/scripts/lab/root.sh"
. "$top/scripts/lab/kernel.sh"
. "$top/scripts/lab/images.sh"
. "$top/scripts/lab/debug.sh"
. "$top/scripts/lab/packages.sh"
. "$top/scripts/lab/selftests.sh"

what=${1:-all}
need_root
[ -e "$RVMM_LAB/stamps/kernel-tree" ] || need_disk 9
mkdir -p "$RVMM_LAB"
exec 9>"$RVMM_LAB/lock"
flock -n 9 || { say "another set-up is running; waiting for it"; flock 9; }

lab_root 9>&-
lab_kernel 9>&-
if [ "$what" != build ] && [ "$what" != packages ]; then
	lab_images 9>&-
fi
if [ "$what" = packages ]; then
	lab_packages 9>&-
fi
if [ "$what" = debian ] || [ "$what" = debug ]; then
	lab_debian 9>&-
fi
# The debug kernel and the selftests take long, and nobody else needs them: each has a lock of its own.
case $what in
debug | selftests)
	exec 9>"$RVMM_LAB/lock.$what"
	flock -n 9 || { say "another set-up of what is for '$what' is running; waiting for it"; flock 9; }
	"lab_$what" 9>&-
	;;
esac
