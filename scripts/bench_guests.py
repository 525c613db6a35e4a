# SPDX-License-Identifier: GPL-2.0

"""The rows of the scoreboard that need a whole machine: rvmm-run against QEMU on KVM.

QEMU is the lab's own, carried into the emulated host on a disk with its libraries
and firmware, beside the stock kernel's vhost_net. tests/bench/run-guests.sh runs the
guests there: a tiny one (tests/tiny), and Linux, whose first process is
tests/bench/linux/guest.c.
"""

import os
import re
import shutil
import subprocess
import tempfile

import bench_rows
import emulated_host
import run_host

SOURCES = os.path.join(run_host.TOP, "tests", "bench", "linux")
BUILD = os.path.join(run_host.TOP, "build")
LOGS = os.path.join(BUILD, "log")
FIRMWARE = ["/usr/share/seabios/bios-microvm.bin", "/usr/share/qemu/qboot.rom", "/usr/share/qemu/linuxboot_dma.bin",
            "/usr/share/qemu/pvh.bin"]
MODULES = ["vhost/vhost_iotlb", "vhost/vhost", "net/tap", "vhost/vhost_net"]
# The letters that guests mark rows with, and between how many requests, packets or MiB the exits are divided.
MARKS = {"a": ("blk-4k-read-depth-1-exits", 2048), "b": ("blk-4k-read-depth-32-exits", 2048),
         "c": ("blk-4k-write-depth-1-exits", 2048), "d": ("blk-4k-write-depth-32-exits", 2048),
         "p": ("net-packet-exits", 16384), "q": ("net-echo-exits", 2048),
         "h": ("linux-blk-4k-read-depth-1-exits", 1152), "i": ("linux-blk-4k-read-depth-32-exits", 1152),
         "j": ("linux-blk-4k-write-depth-1-exits", 1152), "k": ("linux-blk-4k-write-depth-32-exits", 1152),
         "n": ("linux-net-packet-exits", 2048), "s": ("linux-net-mib-out-exits", 8),
         "g": ("linux-net-mib-in-exits", 8)}
# How long one kind may take on one node, wall time, and how often it is tried.
KIND_SECONDS, TRIES = 120, 3
# What guests do, each in a boot of its own, for which rows.
KINDS = {"boot": "boot-work|boot-host-work", "boot+trace": "boot-guest|boot-host-work",
         "console,blk,net": "console-kib|vmm-rss|linux-.*", "tiny-blk": "blk-(?!.*-(vms|slots)).*",
         "tiny-read": "blk-.*-(vms|slots)", "tiny-net": "net-.*"}


def compile_static(name, *more):
    program = os.path.join(BUILD, f"bench-{name}")
    subprocess.run(["gcc-14", "-O2", "-Wall", "-Wextra", "-static", "-o", program,
                    *(os.path.join(SOURCES, f"{n}.c") for n in (name, *more))], check=True)
    return program


def make_initramfs(out):
    """An archive with the guest's first process alone, to be appended to the guest's initramfs."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(compile_static("guest", "net"), os.path.join(folder, "bench"))
        with open(out, "wb") as f:
            subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=folder, input=b"bench\n",
                           stdout=f, check=True)


def collect_stock(folder):
    """QEMU with everything that it loads, and the kernel's modules for its network, in one folder."""
    os.makedirs(folder)
    shutil.copy(shutil.which("qemu-system-x86_64"), os.path.join(folder, "qemu"))
    listed = subprocess.run(["ldd", os.path.join(folder, "qemu")], capture_output=True, check=True, text=True).stdout
    for path in re.findall(r"(/\S+) \(0x", listed):
        name = "ld.so" if "/ld-linux" in path else os.path.basename(path)
        shutil.copy(path, os.path.join(folder, name))
    for path in FIRMWARE:
        if os.path.exists(path):
            shutil.copy(path, folder)
    kernel = os.path.join(emulated_host.LAB, "kernel")
    with open(os.path.join(kernel, "release")) as f:
        drivers = os.path.join(kernel, "pkg", "usr", "lib", "modules", f.read().strip(), "kernel", "drivers")
    for name in MODULES:
        with open(os.path.join(folder, os.path.basename(name) + ".ko"), "wb") as f:
            subprocess.run(["xz", "-dc", os.path.join(drivers, name + ".ko.xz")], stdout=f, check=True)


def make_stock_disk(out):
    """The folder of `collect_stock` as an ext4 file system: what is not needed is not even read."""
    with tempfile.TemporaryDirectory() as folder:
        stock = os.path.join(folder, "stock")
        collect_stock(stock)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", stock, out, "160M"], check=True)


def world_switch():
    """The function of rvmm.ko that calls the world switch, and the offset of the instruction after the call."""
    text = subprocess.run(["objdump", "-dr", "--no-show-raw-insn", os.path.join(run_host.TOP, "rvmm.ko")],
                          capture_output=True, check=True, text=True).stdout
    found = re.search(r"<(\S+)\+0x([0-9a-f]+)>\n\s+[0-9a-f]+: R_X86_64_PLT32\s+rvmm_svm_enter-0x4", text)
    return f"function={found.group(1)} after=0x{found.group(2)}" if found else ""


def build_modules():
    """Builds the modules under tests/bench/floor and returns where they are."""
    out = os.path.join(BUILD, "floor")
    os.makedirs(out, exist_ok=True)
    subprocess.run(["make", "--no-print-directory", "-s", "-C", os.path.join(emulated_host.LAB, "obj"),
                    f"M={os.path.join(run_host.TOP, 'tests', 'bench', 'floor')}", f"MO={out}",
                    "CC=x86_64-linux-gnu-gcc-14", "modules"], check=True, capture_output=True)
    return out


def build_client():
    """Compiles the scoreboard's client with its guests into one static program."""
    os.makedirs(BUILD, exist_ok=True)
    program = os.path.join(BUILD, "rvmm-bench")
    folder = os.path.dirname(SOURCES)
    sources = sorted(os.path.join(folder, n) for n in os.listdir(folder) if n.endswith((".c", ".S")))
    subprocess.run(["gcc-14", "-O2", "-Wall", "-Wextra", "-static", "-o", program, *sources, "-lpthread"], check=True)
    return program


def payload(folder):
    """Builds in `folder` what run-guests.sh needs. Returns the files for the command's folder, and the disk."""
    archive, disk = os.path.join(folder, "bench.cpio"), os.path.join(folder, "stock.img")
    make_initramfs(archive)
    make_stock_disk(disk)
    programs = [compile_static(name) + f":{name}" for name in ("cputime", "watch", "peer", "slots")]
    script = os.path.join(run_host.TOP, "tests", "bench", "run-guests.sh")
    return [archive, build_client(), os.path.join(build_modules(), "rvmm_stay.ko"), *programs, script], disk


def run_kind(node, kind, log, common, timeout):
    """What run-guests.sh printed of one kind on one node. Each has an emulated host of its own, for one that stands
    still with all in it (docs/bench/README.md) can only be ended from outside; the next is shifted in time."""
    for shift in range(TRIES):
        command = f"sleep 0.{shift}; SWITCH='{world_switch()}' sh run-guests.sh {node} '{kind}'"
        limit = str(min(timeout, KIND_SECONDS))
        _, output = run_host.run(run_host.parse_args([*common, "--log", log, "--timeout", limit, "--", command]))
        text = output.console.decode(errors="replace")
        if "node end" in text:
            return text
        print(f"# {node} {kind}: the emulated host did not end", flush=True)
    return ""


def run(nodes, timeout, names=()):
    """Returns what a `Parser` found, of some rows or of all."""
    kinds = [kind for kind, rows in KINDS.items() if not names or any(re.fullmatch(rows, n) for n in names)]
    text = ""
    with tempfile.TemporaryDirectory(prefix="rvmm-bench.") as folder:
        paths, disk = payload(folder)
        common = ["--icount", "--cpu", bench_rows.HOST_CPU, "--quiet", "--disk", disk + ",ro"]
        for path in paths:
            common += ["--file", path]
        for node in nodes:
            for kind in kinds:
                log = os.path.join(LOGS, f"bench-{node}-{kind}")
                text += run_kind(node, kind, log, common, timeout)
    return Parser(text)


class Parser:
    """What run-guests.sh printed: the figures, node -> row -> (unit, values); the exits of a boot by node and kind, and
    those of rows; why rows failed, (node, row) -> reason."""

    def __init__(self, text):
        self.figures, self.exits, self.row_exits, self.failed = {}, {}, {}, {}
        self.node, self.marks = None, {}
        for line in text.replace("\r", "").splitlines():
            words = line.split()
            handler = getattr(self, "on_" + words[0].replace("-", "_"), None) if words else None
            if handler:
                handler(*words[1:])

    def add(self, row, unit, *values):
        self.figures.setdefault(self.node, {})[row] = (unit, values)

    def on_node(self, name):
        self.node, self.marks = name, {}

    def on_guest(self, row, unit, *values):
        self.add(row, unit, *map(float, values))

    def on_failed(self, row, *why):
        self.failed[self.node, row] = " ".join(why)

    def on_rss(self, kib):
        self.add("vmm-rss", "KiB", float(kib))

    def on_guest_mode(self, number, total, shortest):
        """The shortest stay is taken for what the measurement itself costs each time."""
        guest = int(total) - int(number) * int(shortest)
        self.add("boot-guest", "instructions", guest)
        if "boot-work" in self.figures[self.node]:
            self.add("boot-host-work", "instructions", self.figures[self.node]["boot-work"][1][0] - guest)

    def on_at(self, letter, kind, count):
        self.marks[letter, kind] = int(count)
        row, requests = MARKS.get(letter.lower(), (None, 1))
        if row and letter.isupper() and (letter.lower(), kind) in self.marks:
            each = (int(count) - self.marks[letter.lower(), kind]) / requests
            self.row_exits.setdefault(self.node, {}).setdefault(row, {})[kind] = round(each, 3)
            if kind == "exits":
                self.add(row, "exits", each)

    def on_exits(self, kind, count):
        self.exits.setdefault(self.node, {})[kind] = int(count)
