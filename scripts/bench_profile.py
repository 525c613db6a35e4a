# SPDX-License-Identifier: GPL-2.0

"""Says by function where the instructions of a row go.

The row's first round runs for ever. In its midst QEMU is told to run one
instruction at a time and to log each for a while; the addresses are then counted by
the symbols of the host's kernel and, within rvmm, by the function that the compiler
inlined (from the debug information in rvmm.ko). Rows of a whole guest are those of
`GUEST_ROWS`; what it executes is told apart by the processor's mode. A Linux guest's
kernel is the host's at the same addresses; the tiny guest has symbols of its own. User
space is told apart by the file that is mapped: QEMU comes without symbols.
"""

import bisect
import collections
import os
import re
import select
import subprocess
import tempfile
import time

import bench_rows
import emulated_host
import run_host

LOG_BYTES = 200_000_000
# How long a Linux guest may take until its row starts.
BOOT_SECONDS = 180
TRACE = re.compile(rb"\[[0-9a-f]+/([0-9a-f]{16})/([0-9a-f]{8})/")
# In QEMU's flags of a translated block: the processor is in a guest.
IN_GUEST = 1 << 21
# What the guest does for ever, the letter by which it says so, and what it calls once for each repetition.
GuestRow = collections.namedtuple("GuestRow", "what letter call")
GUEST_ROWS = {
    "blk-4k-read-depth-1": GuestRow("tiny-blk,forever1", "a", "queue_add"),
    "blk-4k-read-depth-32": GuestRow("tiny-blk,forever32", "b", "queue_add"),
    "net-packet": GuestRow("tiny-net,forever", "p", "queue_add"),
    "linux-blk-4k-read-depth-1": GuestRow("blk,forever1", "h", "__x64_sys_io_submit"),
    "linux-blk-4k-read-depth-32": GuestRow("blk,forever32", "i", "__x64_sys_io_submit"),
    "linux-net-packet": GuestRow("net,forever", "n", "__x64_sys_sendto"),
}
SYMBOLS = "cat /proc/kallsyms >/dev/vdd; sync"
# What the VMM, rvmm-run or QEMU, has mapped to execute.
MAPS = r"""for p in /proc/[0-9]*; do case $(cat $p/comm 2>/dev/null) in rvmm-run|ld.so)
sed -n 's/^\([0-9a-f-]*\) r.xp .* \(\S*\)$/map \1 \2/p' $p/maps;; esac; done"""
TEXT = "echo text $(cat /sys/module/rvmm/sections/.text)"
SYMBOLS_SIZE = 64 << 20
SETUP = {
    "kvm": "modprobe kvm_amd; NODE=/dev/kvm",
    "rvmm": "insmod rvmm.ko; NODE=/dev/rvmm; " + TEXT,
}


class Symbols:
    """The functions of the host's kernel, and the files that the VMM has mapped."""

    def __init__(self, text, symbols):
        maps = re.findall(r"^map ([0-9a-f]+)-([0-9a-f]+) (\S+)", text, re.M)
        self.maps = [(int(low, 16), int(high, 16), os.path.basename(name)) for low, high, name in maps]
        found = re.findall(r"^([0-9a-f]{16}) [tTwW] (\S+)(?:\s+\[(\w+)\])?", symbols, re.M)
        self.table = sorted((int(a, 16), name, module) for a, name, module in found)
        self.starts = [a for a, _, _ in self.table]
        base = re.search(r"^text 0x([0-9a-f]+)", text, re.M)
        self.module_text = int(base.group(1), 16) if base else None

    def find(self, pc):
        """The function and module that hold `pc`; guests and user space are below the kernel."""
        if pc < 1 << 47:
            return next((f"({name})" for low, high, name in self.maps if low <= pc < high), "(guest or client)"), ""
        at = bisect.bisect_right(self.starts, pc) - 1
        return self.table[at][1:] if at >= 0 else ("(unknown)", "")


class TinySymbols:
    """The functions of the tiny guest."""

    def __init__(self):
        listed = subprocess.run(["nm", "-n", run_host.tiny_guest()], capture_output=True,
                                check=True, text=True).stdout
        self.table = [(int(a, 16), name) for a, name in re.findall(r"^(\w+) [tT] (\S+)", listed, re.M)]

    def start(self, name):
        return next(a for a, n in self.table if n == name)

    def find(self, pc):
        at = bisect.bisect_right(self.table, (pc, "\x7f")) - 1
        return self.table[at][1] if at >= 0 else "(unknown)"


def inlined(pcs, base):
    """The innermost functions of rvmm.ko for the addresses, by its debug information."""
    module = os.path.join(run_host.TOP, "rvmm.ko")
    text = "".join(f"{pc - base:#x}\n" for pc in pcs)
    out = subprocess.run(["addr2line", "-j", ".text", "-a", "-f", "-i", "-C", "-e", module], input=text,
                         capture_output=True, text=True, check=True).stdout
    names = {}
    for block in out.split("\n0x") if out else []:
        lines = block.splitlines()
        address = int(lines[0].removeprefix("0x"), 16)
        chain = list(zip(lines[1::2], lines[2::2]))
        ours = next((c for c in chain if "/rvmm/" in c[1] and "/third/" not in c[1]), chain[0])
        path = re.sub(r".*/rvmm/", "", ours[1].split(" ")[0])
        names[address + base] = f"{ours[0]} ({path.split(':')[0]})"
    return names


def receive(machine, seen, until):
    """Reads the console until `until` is in what came or too much time has passed."""
    deadline = time.monotonic() + BOOT_SECONDS
    while until not in seen:
        left = deadline - time.monotonic()
        readable, _, _ = select.select([machine.console, machine.log], [], [], max(0, left))
        if not readable:
            raise emulated_host.HostError(f"no {until!r} from the host")
        for channel in readable:
            data = channel.recv(65536)
            if channel is machine.console:
                seen += data
    return seen


def command_of(node, row):
    """What runs in the host, and says "row starts"."""
    if row not in GUEST_ROWS:
        return f"{SETUP[node]}; {SYMBOLS}; export RVMM_BENCH_FOREVER=1; echo row starts; rvmm-bench $NODE {row}"
    guest = GUEST_ROWS[row]
    text = TEXT + "; " if node == "rvmm" else ""
    return (f"( until [ \"$(head -c 1 /tmp/disk 2>/dev/null)\" = {guest.letter} ]; do sleep 0.1; done; "
            f"{text}{MAPS}; {SYMBOLS}; echo row starts ) & sh run-guests.sh {node} {guest.what}")


def trace(node, row, files, disk):
    """Runs the row and returns the host's symbols and how often each address was executed, by mode."""
    shape = emulated_host.Shape(cpu=bench_rows.HOST_CPU, smp=bench_rows.cpus(row), icount=True)
    state = emulated_host.state_for(shape)
    command = command_of(node, row)
    with tempfile.TemporaryDirectory(prefix="rvmm-profile.") as folder:
        payload, log = os.path.join(folder, "payload.tar"), os.path.join(folder, "trace")
        run_host.make_payload(payload, command, files)
        symbols = os.path.join(folder, "kallsyms")
        with open(symbols, "wb") as f:
            f.truncate(SYMBOLS_SIZE)
        disks = [(payload, True), (emulated_host.FILES, True), disk and (disk, True), (symbols, False)]
        machine = emulated_host.Machine(shape, disks, state)
        try:
            machine.console.sendall(f"{int(time.time())} 0 0 . ./.command\n".encode())
            text = receive(machine, b"", b"row starts\r\n")
            time.sleep(2)
            for line in (f"logfile {log}", "one-insn-per-tb on", "log exec,nochain"):
                machine.monitor(line)
            deadline = time.monotonic() + 60
            while os.path.getsize(log) < LOG_BYTES and time.monotonic() < deadline:
                time.sleep(0.02)
            machine.monitor("log none")
        finally:
            machine.kill()
        with open(log, "rb") as f:
            counts = collections.Counter(
                (int(m.group(1), 16), bool(int(m.group(2), 16) & IN_GUEST)) for m in TRACE.finditer(f.read()))
        with open(symbols, errors="replace") as f:
            return Symbols(text.decode(errors="replace").replace("\r", ""), f.read().rstrip("\0")), counts


def is_tiny(row):
    return row in GUEST_ROWS and GUEST_ROWS[row].what.startswith("tiny")


def repetitions(counts, row, symbols):
    """How often the row's operation was done."""
    if is_tiny(row):
        return max(counts[TinySymbols().start(GUEST_ROWS[row].call), True], 1)
    if row in GUEST_ROWS:
        start = next(a for a, name, _ in symbols.table if name == GUEST_ROWS[row].call)
        return max(counts[start, True], 1)
    # The guest's loop ends in one DEC; the instruction that is executed least in the guest's code counts rounds.
    guest = [n for (pc, _), n in counts.items() if 0x10000 <= pc < 0x20000 and n > 3]
    return min(guest, default=1)


def part_of(name, in_module):
    """Whose a function is."""
    if name.startswith("(guest)"):
        return "guest"
    if name.startswith("("):
        return "user-space"
    if in_module and (name.endswith(")") or name.endswith("[rvmm]")):
        return "rvmm.ko"
    found = re.search(r"\[(\w+)\]$", name)
    return f"{found.group(1)}.ko" if found else "kernel"


def profile(node, row, files, disk=None):
    """Prints instructions for each function and repetition."""
    symbols, counts = trace(node, row, files, disk)
    turns, total = repetitions(counts, row, symbols), counts.total()
    in_module = [pc for pc, in_guest in counts if not in_guest and symbols.find(pc)[1] == "rvmm"]
    names = inlined(in_module, symbols.module_text) if symbols.module_text else {}
    functions = collections.Counter()
    tiny = TinySymbols() if is_tiny(row) else None
    for (pc, in_guest), n in counts.items():
        name, module = symbols.find(pc)
        if in_guest and tiny:
            functions[f"(guest) {tiny.find(pc)}"] += n
        elif in_guest:
            functions[f"(guest) {name}"] += n
        else:
            functions[names.get(pc) or (f"{name} [{module}]" if module else name)] += n
    print(f"{node} {row}: {total} instructions, {turns} repetitions, {total / turns:.0f} each")
    parts, files = collections.Counter(), collections.Counter()
    for name, n in functions.items():
        part = part_of(name, in_module)
        parts[part] += n
        if part == "rvmm.ko":
            files[re.sub(r".*[( ]|[)]", "", name)] += n
    for shares in (parts, files):
        print("  ".join(f"{name}: {n / turns:.0f}" for name, n in shares.most_common(30)))
    for name, n in functions.most_common(120):
        print(f"{n / turns:9.1f}  {name}")
