# SPDX-License-Identifier: GPL-2.0
#
# A Linux guest in large pages of which no executable one may be large (nx_huge_pages=1), as on processors where a
# change of the size of such a page can stop the machine.
# ring: full
# timeout: 400
# hosts: amd, intel
. ./tests/system/lib.sh

echo always >/sys/kernel/mm/transparent_hugepage/enabled
load_module nx_huge_pages=1
cp /images/small.img /tmp/disk.img
test_guest linux-bzimage 360 1 /images/vmlinuz /tmp/disk.img
check "the module unloads afterwards" 'unload_module'
finish
