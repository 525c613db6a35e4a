# SPDX-License-Identifier: GPL-2.0
#
# 1,000 starts and stops of small VMs by rvmmctl: see starts.sh.
# ring: full
# timeout: 3600
# hosts: amd
STARTS=1000
. ./tests/system/starts.sh
