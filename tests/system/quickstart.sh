# SPDX-License-Identifier: GPL-2.0
#
# The session of docs/quickstart.md, word by word.
# timeout: 500
# hosts: amd
# file: docs/quickstart.md
# file: /usr/bin/cu
. ./tests/system/lib.sh

# block LANGUAGE FILE: the code in blocks of a language.
block() { awk -v begin="\`\`\`$1" '/^```/ { inside = $0 == begin; next } inside' "$2"; }

install_module
# Where the session takes the guests' files from.
mkdir -p /root/.cache/rvmm /etc/rvmm
ln -s /images /root/.cache/rvmm/images
# The first line of each file says where it belongs.
block toml quickstart.md | awk '/^# \// { file = $2 } { print >file }'
check "the files are there" '[ -s /etc/rvmm/web.toml ] && [ -s /etc/rvmm/db.toml ]'
block console quickstart.md >/tmp/session
# For cu: who it runs as, what that user may look at, and where it has its locks.
chmod 755 / /etc /dev
printf '%s\n' "root::0:0::/root:/bin/sh" "uucp:x:10:10::/:/bin/false" >/etc/passwd
mkdir -p -m 1777 /var/lock
transcript "$(limit 120)" /tmp/session "host# " "guest login: " "~ # " >/tmp/transcript
pass_on /tmp/transcript
check "no VM is left" '[ -z "$(ls /run/rvmm)" ] && ! pidof rvmm-run'
check "nor is the module" '! grep -q ^rvmm /proc/modules'
finish
