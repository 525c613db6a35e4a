# SPDX-License-Identifier: GPL-2.0
#
# rvmmctl finds and steers two VMs from files: start, list, status, console, pause, counters, NMI, reset, stop, and what it
# refuses. One that is killed leaves nothing that is in the way.
# ring: system
# timeout: 600
# hosts: amd, intel
# ring@intel: full
# timeout@intel: 2400
. ./tests/system/lib.sh

# ctl ARG…: its output is in /tmp/out, what it says in /tmp/err, its exit code in $code.
ctl() {
	rvmmctl "$@" >/tmp/out 2>/tmp/err
	code=$?
	echo "# rvmmctl $*: exit code $code"
	sed 's/^/#   /' /tmp/out /tmp/err
	return $code
}

# refused PATTERN ARG…: it ends with 1 and says why.
refused() {
	local pattern=$1
	shift
	! ctl "$@" && [ $code = 1 ] && grep -qE -- "$pattern" /tmp/err
}

# state NAME: as the list has it.
state() { rvmmctl list | awk -v name="$1" '$2 == name { print $3 }'; }
# id NAME
id() { rvmmctl list | awk -v name="$1" '$2 == name { print $1 }'; }
runs() { [ "$(readlink "/proc/$1/exe")" = "$PWD/rvmm-run" ]; }

# attach NAME: its console is in /tmp/NAME.console; what `send` types goes there.
attach() {
	pty=/tmp/$1.keys
	[ -p "$pty" ] || mkfifo "$pty"
	rvmmctl console "$1" <>"$pty" >"/tmp/$1.console" 2>"/tmp/$1.attached" &
	pid=$!
	rm -f "/tmp/$1.seen"
}

install_module
mkdir -p /etc/rvmm
cp /images/small.img /tmp/web.img
cp /images/small.img /tmp/db.img
cat >/etc/rvmm/web.toml <<END
kernel = "/images/vmlinux"
initrd = "/images/guest.cpio"
append = "console=ttyS0 $fast rcupdate.rcu_cpu_stall_timeout=3 watchdog_thresh=2"
memory = "256M"
cpus = 2
disk = ["/tmp/web.img"]
stop-timeout = 60
END
cat >/etc/rvmm/db.toml <<END
base = "web"
cpus = 1
disk = ["/tmp/db.img"]
END
cat >/tmp/same-disk.toml <<END
base = "/etc/rvmm/db.toml"
END
cat >/tmp/same-name.toml <<END
base = "/etc/rvmm/db.toml"
name = "web"
disk = []
END

check "without the module, start says so" 'refused "No such file|modprobe|rvmm" start db'
check "enable says of each CPU what it has, and loads the module" \
	'ctl -e && [ "$(grep -c "^cpu [0-9]*: ok" /tmp/out)" = "$(grep -c ^processor /proc/cpuinfo)" ] && [ -c /dev/rvmm ]'
check "enable says that it is loaded" 'ctl -e && grep -q "loaded already" /tmp/out'
check "nobody runs: an empty table" 'ctl list && [ "$(wc -l </tmp/out)" = 1 ]'
check "the same as JSON" 'ctl list --json && [ "$(cat /tmp/out)" = "[]" ]'

check "start of a VM by its name" 'ctl start web'
check "start of another" 'ctl start db'
check "both are listed, by name" 'ctl list && [ "$(awk "{ print \$2, \$3, \$4, \$5, \$6 }" /tmp/out | xargs)" = \
	"NAME STATE CPUS MEMORY USED db running 1 256 MiB web running 2 256 MiB" ]'
check "their ids are their processes" 'runs "$(id web)" && runs "$(id db)"'
check "their consoles are terminals" '[ -c "$(awk "\$2 == \"web\"" /tmp/out | grep -o "/dev/pts/[0-9]*")" ]'
check "as JSON they have the same" 'ctl list --json && [ "$(grep -c "\"state\": \"running\"" /tmp/out)" = 2 ] &&
	grep -q "\"pid\": $(id web)," /tmp/out && grep -q "\"path\": \"/tmp/db.img\"" /tmp/out'
check "status has the disk" 'ctl status web && grep -qE "^disk +/tmp/web.img$" /tmp/out'
check "the module stays while they run" 'refused "rmmod" -d'
check "a second VM of a name is refused, with who has it" \
	'refused "a VM .web. is running already, by process $(id web):" start web'
check "so is one of another file" 'refused "a VM .web. is running already, by process $(id web):" start /tmp/same-name.toml'
check "a VM with a disk of another's is refused, with who has it" 'refused "in use by the VM .db. \(process $(id db)\)" start /tmp/same-disk.toml'
check "none of those is listed" '[ "$(rvmmctl list | wc -l)" = 3 ]'
check "a VM that is not there is told" 'refused "no VM .mail. is running" status mail'

attach db
check "the console of one" 'expect db 300 "login: "'
db_console=$pid
attach web
check "the console of the other shows what was printed before" 'expect web 300 "login: "'
send root
check "it takes what is typed" 'expect web 60 "# "'
# Only where it is printed, and not where it is typed, is it in one piece.
send 'echo "al"ready'
check "the guest answers" 'expect web 60 "^already"'
timeout 3 rvmmctl console web --history 100000 </dev/null >/tmp/second 2>/tmp/second.err
check "a second one sees the same" 'grep -q "^already" /tmp/second'
check "and is told that it only reads" 'grep -q "another client types, this one only reads" /tmp/second.err'

check "pause" 'ctl pause web && [ "$(state web)" = paused ]'
check "one that is paused cannot be paused" 'refused "is paused already" pause web'
check "one that runs cannot be resumed, nor looked into" 'refused "is not paused" resume db && refused "pause it first" debug db'
check "the registers of one that is paused" 'ctl debug web && [ "$(grep -c "^vcpu [01]$" /tmp/out)" = 2 ] && grep -qi "rip" /tmp/out'
send 'echo "st"ill; date -u "+clock %s"'
sleep 10
check "it does nothing meanwhile" '! tail -n 2 /tmp/web.console | grep -q ^still'
check "the other one runs" '[ "$(state db)" = running ]'
check "resume" 'ctl resume web && [ "$(state web)" = running ]'
check "it goes on" 'expect web 60 "^clock [0-9]+"'
now=$(date +%s)
then=$(sed -n 's/^clock //p' /tmp/web.console | tr -d '\r' | tail -n 1)
echo "# the guest's clock: $then, the host's: $now"
check "its clock is right" '[ $((now - then)) -ge -2 ] && [ $((now - then)) -le $(limit 5) ]'
check "none of its watchdogs barks" '! grep -qiE "stall|lockup" /tmp/web.console'

check "counters of each virtual CPU" 'ctl stats web && [ "$(awk "\$1 == \"exits\" && \$2 > 0 && \$3 > 0" /tmp/out | wc -l)" = 1 ]'
check "the same as JSON" 'ctl stats web --json && [ "$(grep -c "\"exits\": [1-9]" /tmp/out)" = 2 ]'
check "rates" 'ctl top -n 2 && [ "$(grep -cE "^(web|db) +running +[0-9]" /tmp/out)" = 4 ]'
check "NMI" 'ctl nmi web && expect web 60 "NMI received"'
check "reset starts the guest again" 'ctl reset web && expect web 300 "login: "'
check "which is counted" 'ctl status web && grep -qE "^resets +1$" /tmp/out'
check "the log has what was said" 'ctl log web && grep -q "the guest is paused" /tmp/out'

rvmmctl wait web >/dev/null &
waiting=$!
web=$(id web)
check "stop presses the power button" 'ctl stop web && [ $code = 0 ]'
check "which ends the guest: the run ends with 0" 'wait $waiting'
check "its process is gone" '! runs "$web"'
check "and who was attached" 'wait_gone $pid 5 && [ $code = 0 ]'
rvmmctl wait db >/dev/null &
waiting=$!
check "stop --force ends the other at once" 'ctl stop --force db'
wait $waiting
code=$?
check "its run ends with 6" '[ $code = 6 ]'
wait $db_console
check "no VM is listed, and no socket is left" '[ "$(rvmmctl list | wc -l)" = 1 ] && [ -z "$(ls -A /run/rvmm)" ]'

check "start again" 'ctl start db'
db=$(id db)
kill -9 "$db"
sleep 1
check "one that is killed leaves its socket" '[ -S /run/rvmm/db.sock ]'
check "it is not listed" 'ctl list && [ "$(wc -l </tmp/out)" = 1 ]'
check "and its socket is gone" '[ ! -e /run/rvmm/db.sock ]'
check "its name and its disk are free" 'ctl start db'
check "a guest that boots hears no button: stop -t ends it" 'ctl stop -t 1 db'
check "nothing is left" '[ -z "$(ls -A /run/rvmm)" ] && ! pidof rvmm-run'
check "disable unloads the module" 'ctl -d && ! grep -q ^rvmm /proc/modules'
finish
