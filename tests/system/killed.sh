# SPDX-License-Identifier: GPL-2.0
#
# A process that is killed leaves nothing behind: no wait that goes on, no file that stays held.
# ring: system
# timeout: 120
. ./tests/system/lib.sh

modprobe tun
load_module
killed >/tmp/killed.out 2>&1
code=$?
while read -r line; do
	text=$(echo "$line" | sed -E 's/^(not )?ok [0-9]+ //')
	case $line in
	"not ok "*) not_ok "$text" ;;
	"ok "*) n=$((n + 1)); echo "ok $n $text" ;;
	"1.."*) : ;;
	*) echo "# ${line#\# }" ;;
	esac
done </tmp/killed.out
check "all of them ran" '[ $code = 0 ]'
check "the module unloads" 'unload_module'
finish
