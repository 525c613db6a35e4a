# SPDX-License-Identifier: GPL-2.0
#
# What the lab's scripts share: where things lie, messages, and stages that
# run once per version of their inputs. To be sourced.
#
# Folders under $RVMM_LAB (seen as /lab inside the root):
#   root/     Debian trixie with the compilers and emulators
#   kernel/   version, newer, deb/, pkg/ (unpacked packages), src/ (kernel source)
#   obj/      prepared object tree: make -C /lab/obj M=... CC=gcc-14 modules
#   debug/    the debug kernel: see debug.sh
#   images/   initramfs archives, guest disks, snapshots of booted hosts
#   crates/, cargo/, target/    crates and build products of cargo
#   stamps/, log/               one file per stage

top=${top:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
RVMM_LAB=${RVMM_LAB:-${XDG_CACHE_HOME:-$HOME/.cache}/rvmm}
export RVMM_LAB

say() { printf 'lab: %s\n' "$*"; }

die() {
	printf 'lab: %s\n' "$*" >&2
	exit 1
}

need_root() {
	[ "$(id -u)" = 0 ] ||
		die "this needs root (it uses chroot and mounts); run it again as root or with sudo"
}

# hash_of FILE…: one short key over the contents of files.
hash_of() {
	cat "$@" | sha256sum | cut -c1-16
}

# stage NAME KEY DESCRIPTION COMMAND…
# Runs COMMAND unless it has already succeeded with the same KEY. Its output
# goes to log/NAME.log; the last lines are shown when it fails. Sets $stage_ran.
stage() {
	local name=$1 key=$2 text=$3
	shift 3
	local stamp=$RVMM_LAB/stamps/$name log=$RVMM_LAB/log/$name.log
	stage_ran=
	if [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then
		return 0
	fi
	stage_ran=1
	mkdir -p "$RVMM_LAB/stamps" "$RVMM_LAB/log"
	rm -f "$stamp"
	local began=$SECONDS
	say "$name: $text"
	# A subshell in the background: `set -e` holds inside it, unlike in an
	# `if` or `||` list, and `wait` gives its status.
	(set -e; "$@") >"$log" 2>&1 &
	if ! wait $!; then
		tail -n 25 "$log" >&2
		die "$name failed after $((SECONDS - began)) s (full log: $log); $(failure_hint "$log")"
	fi
	printf '%s\n' "$key" >"$stamp.tmp"
	mv "$stamp.tmp" "$stamp"
	say "$name: done in $((SECONDS - began)) s"
}

# Guesses from a log what the user can do about a failure.
failure_hint() {
	if grep -qiE 'could not resolve|temporary failure|network is unreachable|unable to connect|connection (refused|timed out)|failed to fetch' "$1"; then
		echo "the network looks unreachable: check it and run the command again, it goes on where it stopped"
	elif grep -qi 'no space left' "$1"; then
		echo "the disk is full: free some space or set RVMM_LAB to another folder, then run the command again"
	else
		echo "after a fix run the command again, it goes on where it stopped"
	fi
}

# need_disk GIB: refuses to begin what cannot end.
need_disk() {
	local free
	mkdir -p "$RVMM_LAB"
	free=$(($(stat -f -c '%a * %S' "$RVMM_LAB") >> 30))
	[ "$free" -ge "$1" ] ||
		die "$RVMM_LAB has $free GiB free, $1 are needed: free some or set RVMM_LAB to a folder on another disk"
}

# The kernel release that the lab is made for, e.g. 7.3.4+deb13-amd64.
kernel_release() {
	cat "$RVMM_LAB/kernel/release" 2>/dev/null || die "no kernel yet; run 'make lab' first"
}
