# SPDX-License-Identifier: GPL-2.0
#
# Random guests: their host goes on, they can be ended, and no memory but theirs changes. A failure names the seed;
# `abi-tests --fuzz 0 SEED` is that guest again. FUZZ_SECONDS is for how long.
# ring: system
# timeout: 300
. ./tests/system/lib.sh

load_module
# As it comes, seed by seed: where a guest stops its host, the last one that was told is that guest.
{ abi-tests --limit "$(limit 60)" --fuzz "${FUZZ_SECONDS:-25}" 2>&1; echo $? >/tmp/fuzz.code; } |
	while IFS= read -r line; do
		case $line in
		"KTAP "* | 1..*) ;;
		"#"*) echo "$line" ;;
		*) echo "# $line" ;;
		esac
	done
code=$(cat /tmp/fuzz.code)
check "random guests leave the host alone" '[ $code = 0 ]'
check "the module unloads afterwards" unload_module
finish
