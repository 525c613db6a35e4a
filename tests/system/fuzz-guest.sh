# SPDX-License-Identifier: GPL-2.0
#
# Random guests: their host goes on, they can be ended, and no memory but theirs changes. A failure names the seed;
# `abi-tests --fuzz 0 SEED` is that guest again. FUZZ_SECONDS is for how long.
# ring: system
# timeout: 300
. ./tests/system/lib.sh

load_module
abi-tests --fuzz "${FUZZ_SECONDS:-25}" >/tmp/fuzz.out 2>&1
code=$?
sed 's/^\(not \)\{0,1\}ok .*/# &/' /tmp/fuzz.out | grep -v "^KTAP \|^1\.\." | sed 's/^[^#]/# &/'
check "random guests leave the host alone" '[ $code = 0 ]'
check "the module unloads afterwards" unload_module
finish
