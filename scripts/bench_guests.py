# SPDX-License-Identifier: GPL-2.0

"""The rows of the scoreboard that need a whole Linux guest: rvmm-run against QEMU on KVM.

QEMU is the lab's own, carried into the emulated host with its libraries and
firmware. tests/bench/run-guests.sh runs the guests there; their first process is
tests/bench/linux/guest.c.
"""

import os
import re
import shutil
import subprocess
import tempfile

import run_host

SOURCES = os.path.join(run_host.TOP, "tests", "bench", "linux")
BUILD = os.path.join(run_host.TOP, "build")
FIRMWARE = ["/usr/share/seabios/bios-256k.bin", "/usr/share/seabios/bios-microvm.bin", "/usr/share/qemu/qboot.rom",
            "/usr/share/qemu/linuxboot_dma.bin", "/usr/share/qemu/pvh.bin", "/usr/share/qemu/kvmvapic.bin"]


def compile_static(name):
    program = os.path.join(BUILD, f"bench-{name}")
    subprocess.run(["gcc-14", "-O2", "-Wall", "-Wextra", "-static", "-o", program,
                    os.path.join(SOURCES, f"{name}.c")], check=True)
    return program


def make_initramfs(out):
    """An archive with the guest's first process alone, to be appended to the guest's initramfs."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(compile_static("guest"), os.path.join(folder, "bench"))
        with open(out, "wb") as f:
            subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=folder, input=b"bench\n",
                           stdout=f, check=True)


def collect_qemu(folder):
    """QEMU with everything that it loads, in one folder."""
    os.makedirs(folder)
    shutil.copy(shutil.which("qemu-system-x86_64"), os.path.join(folder, "qemu"))
    listed = subprocess.run(["ldd", os.path.join(folder, "qemu")], capture_output=True, check=True, text=True).stdout
    for path in re.findall(r"(/\S+) \(0x", listed):
        name = "ld.so" if "/ld-linux" in path else os.path.basename(path)
        shutil.copy(path, os.path.join(folder, name))
    for path in FIRMWARE:
        if os.path.exists(path):
            shutil.copy(path, folder)


def run(nodes, timeout, kinds="boot console blk"):
    """Returns the figures, node -> row -> (unit, value), and the exits of a boot, node -> name -> count."""
    with tempfile.TemporaryDirectory(prefix="rvmm-bench.") as folder:
        archive, qemu = os.path.join(folder, "bench.cpio"), os.path.join(folder, "qemu")
        make_initramfs(archive)
        collect_qemu(qemu)
        files = []
        for path in (archive, qemu, compile_static("cputime") + ":cputime",
                     os.path.join(run_host.TOP, "tests", "bench", "run-guests.sh")):
            files += ["--file", path]
        host = run_host.parse_args(["--icount", "--quiet", "--log", os.path.join(BUILD, "log", "bench-guests"),
                                    "--timeout", str(timeout), *files, "--",
                                    f"sh run-guests.sh '{' '.join(nodes)}' '{kinds}'"])
        _, output = run_host.run(host)
    return parse(output.console.decode(errors="replace"))


def parse(text):
    figures, exits, node = {}, {}, None
    for line in text.replace("\r", "").splitlines():
        words = line.split()
        if words[:1] == ["node"] and len(words) == 2:
            node = words[1]
        elif words[:1] == ["guest"] and len(words) == 4:
            figures.setdefault(node, {})[words[1]] = (words[2], float(words[3]))
        elif words[:1] == ["exits"] and len(words) == 3:
            exits.setdefault(node, {})[words[1]] = int(words[2])
    return figures, exits
