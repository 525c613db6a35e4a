# SPDX-License-Identifier: GPL-2.0
#
# Small VMs are started and stopped by rvmmctl, four at a time: by their power button, by force, by kill -9. The list is
# right meanwhile, and nothing is left behind. starts-1000 does the same for longer.
# timeout: 300
# hosts: amd, intel
# ring@intel: full
. ./tests/system/lib.sh

starts=${STARTS:-60}
[ "$slow" = 1 ] || starts=$((starts / 5))
workers="1 2 3 4"

id() { rvmmctl status "$1" --json 2>/dev/null | sed -n 's/^ *"pid": \([0-9]*\),$/\1/p'; }

# bad WORD…: something is not as it should be.
bad() { echo "$*" >>/tmp/bad; }

# worker NUMBER: starts and ends its VM over and over.
worker() {
	local vm=vm$1 i=0 pid
	while [ $i -lt $((starts / 4)) ]; do
		rvmmctl start "/tmp/$vm.toml" >/tmp/$vm.out 2>&1 || bad "$vm: start $i: $? $(cat /tmp/$vm.out)"
		pid=$(id $vm)
		[ -n "$pid" ] || bad "$vm: start $i: it does not run"
		case $((i % 4)) in
		2) rvmmctl stop --force $vm >/tmp/$vm.out 2>&1 || bad "$vm: stop $i by force: $? $(cat /tmp/$vm.out)" ;;
		3) kill -9 "$pid"; while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done ;;
		*) rvmmctl stop $vm >/tmp/$vm.out 2>&1 || bad "$vm: stop $i: $? $(cat /tmp/$vm.out)" ;;
		esac
		[ "$(id $vm)" = "" ] || bad "$vm: it runs after stop $i"
		i=$((i + 1))
		echo $i >/tmp/$vm.done
	done
}

# watch_list: what is listed is one of ours, once, in a state that there is.
watch_list() {
	while [ ! -e /tmp/over ]; do
		rvmmctl list >/tmp/list 2>/tmp/list.err || bad "list: $? $(cat /tmp/list.err)"
		awk 'NR == 1 { next }
			seen[$2]++ || $2 !~ /^vm[1-4]$/ || $3 !~ /^(starting|running|stopping)$/ || $4 != 1 || $1 !~ /^[0-9]+$/' /tmp/list >>/tmp/bad
		echo x >>/tmp/looks
	done
}

load_module
for w in $workers; do
	cat >/tmp/vm$w.toml <<END
kernel = "$PWD/tiny-guest"
append = "bench=button"
memory = "64M"
stop-timeout = 60
END
done
# Whatever is made once has been made.
rvmmctl start /tmp/vm1.toml
rvmmctl stop vm1
before=$(free_kib)
files_before=$(cut -f1 /proc/sys/fs/file-nr)
watch_list &
watcher=$!
pids=
for w in $workers; do
	worker $w &
	pids="$pids $!"
done
wait $pids
touch /tmp/over
wait $watcher
echo "# $(cat /tmp/vm*.done | xargs) starts, $(wc -l </tmp/looks) looks at the list"
check "every VM was started and stopped" '[ "$(cat /tmp/vm*.done | xargs)" = "$((starts / 4)) $((starts / 4)) $((starts / 4)) $((starts / 4))" ]'
[ ! -e /tmp/bad ] || sed 's/^/# /' /tmp/bad | head -n 40
check "each was as it should be, and so was the list" '[ ! -s /tmp/bad ]'
check "no process is left" '! pidof rvmm-run rvmmctl'
rvmmctl list >/dev/null
check "no socket is left" '[ -z "$(ls -A /run/rvmm)" ]'
check "no file is left open" '[ $(($(cut -f1 /proc/sys/fs/file-nr) - files_before)) -lt 64 ]'
echo "# open files before: $files_before, after: $(cut -f1 /proc/sys/fs/file-nr)"
check "nobody uses the module" '[ "$(awk "/^rvmm / { print \$3 }" /proc/modules)" = 0 ]'
check_memory_comes_back "$before"
check "the module unloads" unload_module
finish
