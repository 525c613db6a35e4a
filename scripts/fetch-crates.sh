#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Fills third/ with the crates that Kbuild compiles into rvmm.ko: fetched once
# with cargo as scripts/crates/Cargo.lock pins them, cached in $RVMM_LAB/crates,
# copied into the checkout. Does nothing when third/ matches the lock file.
#
# Usage: scripts/fetch-crates.sh [DESTINATION]     (default: third/ of the checkout)
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
lab=${RVMM_LAB:-${XDG_CACHE_HOME:-$HOME/.cache}/rvmm}
dest=${1:-$top/third}
manifest=$top/scripts/crates
key=$(cat "$manifest/Cargo.lock" "$0" | sha256sum | cut -c1-16)
cache=$lab/crates/$key

# Name in third/ -> crate name and version prefix in the lock file.
wanted=(bitflags:bitflags-2 bitflags1:bitflags-1 bit_field:bit_field-0.10
        raw-cpuid:raw-cpuid-10.7.0 x86:x86-0.52.0 static_assertions:static_assertions-1.1.0)

if [ "$(cat "$dest/.stamp" 2>/dev/null)" = "$key" ]; then
	exit 0
fi

if [ ! -d "$cache" ]; then
	command -v cargo >/dev/null || {
		echo "fetch-crates: no cargo here; run scripts/in-root scripts/fetch-crates.sh after 'make lab'" >&2
		exit 1
	}
	mkdir -p "$lab/crates"
	rm -rf "$cache.tmp"
	work=$(mktemp -d "$lab/crates/work.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	cp "$manifest"/Cargo.toml "$manifest"/Cargo.lock "$manifest"/empty.rs "$work/"
	echo "fetch-crates: fetching the module's crates"
	(cd "$work" && cargo vendor --quiet --locked --versioned-dirs "$cache.tmp" >/dev/null) || {
		echo "fetch-crates: cargo could not fetch the crates; is the network there?" >&2
		exit 1
	}
	mv "$cache.tmp" "$cache"
fi

rm -rf "$dest.tmp"
mkdir -p "$dest.tmp"
for pair in "${wanted[@]}"; do
	found=("$cache/${pair#*:}"*)
	if [ ${#found[@]} -ne 1 ] || [ ! -f "${found[0]}/src/lib.rs" ]; then
		echo "fetch-crates: ${pair#*:}* is not in $cache exactly once; remove that folder and try again" >&2
		exit 1
	fi
	cp -r "${found[0]}" "$dest.tmp/${pair%%:*}"
done
echo "$key" >"$dest.tmp/.stamp"
# Build products of an earlier third/ go with it: they belong to other sources.
rm -rf "$dest"
mv "$dest.tmp" "$dest"
