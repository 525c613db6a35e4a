# SPDX-License-Identifier: GPL-2.0

"""The emulated host: QEMU's TCG with SVM, the stock or the debug kernel, a busybox initramfs.

A host of a given shape (CPU model, number of CPUs, memory, kernel options) is
booted once and its state is written to a file while it waits for a command;
each run starts from that file. The state holds no disk: the guest binds its
disk driver after the start, so every run may bring other disks.

Console roles: ttyS0 carries the kernel's log, hvc0 the conversation that
tests/system/host/init describes.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

LAB = os.environ.get("RVMM_LAB", "/lab")
IMAGES = os.path.join(LAB, "images")
KERNEL = os.path.join(IMAGES, "vmlinuz")
INITRD = os.path.join(IMAGES, "host.cpio")
FILES = os.path.join(IMAGES, "files.img")
DEBUG = os.path.join(LAB, "debug")
# Kernel and initramfs by the name that run-host has for them, and how to get them.
KERNELS = {
    "stock": (KERNEL, INITRD, "run 'make lab' first"),
    "debug": (os.path.join(DEBUG, "vmlinuz"), os.path.join(DEBUG, "host.cpio"), "run 'make lab-debug' first"),
}
READY = b"rvmm-host: ready"
BOOT_SECONDS = {"stock": 240, "debug": 1200}
# How long a state is kept that nobody uses any more.
KEEP_SECONDS = 3600
APPEND = (
    "console=ttyS0 quiet mitigations=off nokaslr audit=0 tsc=reliable no_timer_check "
    "raid=noautodetect cryptomgr.notests random.trust_cpu=on panic=-1"
)
# The debug kernel reports all that it finds, and has two NUMA nodes. Its tables have four levels: while it
# identifies the boot CPU it has forgotten for a moment that there are five, and KASAN then takes what a timer
# interrupt touches for wild.
APPEND_DEBUG = "kasan_multi_shot numa=fake=2 no5lvl"
DISK_SLOTS = 4


class HostError(Exception):
    """The emulated host could not be started or did not answer."""


def with_options(line, more):
    """Returns the kernel's command line with more options; mitigations= takes the place of what there is, since the
    first one counts."""
    words = line.split()
    if any(w.startswith("mitigations=") for w in more.split()):
        words = [w for w in words if not w.startswith("mitigations=")]
    return " ".join(words + more.split())


# RFLAGS.IF.
INTERRUPTS_ON = 0x200


class Shape:
    """What a snapshot depends on.

    The host has one CPU more than `smp`: its CPU 0 runs no tests, and so no guests, because QEMU
    10.0 keeps the flag "IGNNE#" of the whole machine in a word of CPU 0 that also says whether
    nested paging is on. Every FXRSTOR or XRSTOR on another CPU clears the flag by a plain
    read-modify-write, which now and then undoes what a VMRUN or #VMEXIT on CPU 0 has just changed:
    the guest's page walks go through no nested table, or the host's go through one. Under icount
    one thread runs all CPUs, and nothing can be undone.
    """

    def __init__(self, cpu="max", smp=None, memory="4G", icount=False, append="", kernel="stock"):
        self.cpu, self.smp, self.memory = cpu, smp or 1 if icount else (smp or 2) + 1, memory
        self.icount, self.append, self.kernel = icount, append, kernel

    def args(self):
        accel = "tcg,thread=single" if self.icount else "tcg"
        args = ["-M", "pc", "-accel", accel, "-cpu", self.cpu, "-smp", str(self.smp), "-m", self.memory]
        if self.icount:
            args += ["-icount", "shift=0,sleep=off"]
        words = [APPEND, APPEND_DEBUG if self.kernel == "debug" else "", "" if self.icount else "rvmm.spare_cpu0"]
        kernel, initrd, _ = KERNELS[self.kernel]
        return args + ["-kernel", kernel, "-initrd", initrd, "-append", with_options(" ".join(words), self.append)]

    def name(self):
        """A readable file name, the same for every version of the inputs."""
        kernel = "" if self.kernel == "stock" else self.kernel
        parts = [kernel, self.cpu, f"smp{self.smp}", self.memory, self.append]
        text = "_".join(p for p in parts + (["icount"] if self.icount else []) if p)
        return "".join(c if c.isalnum() or c in "-_=." else "_" for c in text)[:80]

    def key(self):
        h = hashlib.sha256()
        version = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, check=True)
        h.update(version.stdout + repr(self.args() + device_args([])).encode())
        for path in KERNELS[self.kernel][:2]:
            with open(path, "rb") as f:
                h.update(f.read())
        return h.hexdigest()[:16]


def drive_args(slot, disk):
    """One of the fixed slots; `disk` is (path, read_only) or None for an empty one."""
    if disk is None:
        return ["-drive", f"if=none,id=d{slot},driver=null-co,size=1M,read-zeroes=on"]
    path, read_only = disk
    form = "qcow2" if path.endswith(".qcow2") else "raw"
    lock = ",file.locking=off" if read_only else ""
    ro = ",readonly=on" if read_only else ""
    return ["-drive", f"if=none,id=d{slot},file={path},format={form},cache=unsafe{ro}{lock}"]


def device_args(disks):
    args = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-device", "virtio-serial-pci,max_ports=1", "-device", "virtconsole,chardev=con",
            "-serial", "chardev:log", "-mon", "chardev=qmp,mode=control"]
    for slot in range(DISK_SLOTS):
        args += drive_args(slot, disks[slot] if slot < len(disks) else None)
        args += ["-device", f"virtio-blk-pci,drive=d{slot}"]
    return args


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Machine:
    """A running QEMU with its three channels as sockets."""

    # What the host's init wants to read after the line with the command.
    greeting = b""

    def __init__(self, shape, disks=(), state=None):
        pairs = {name: socket.socketpair() for name in ("con", "log", "qmp")}
        args = ["qemu-system-x86_64"]
        for name, (_, theirs) in pairs.items():
            args += ["-chardev", f"socket,id={name},fd={theirs.fileno()}"]
        args += shape.args() + device_args(list(disks))
        if state:
            args += ["-incoming", f"file:{state}"]
        self.process = subprocess.Popen(
            args, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent,
            pass_fds=[theirs.fileno() for _, theirs in pairs.values()])
        for _, theirs in pairs.values():
            theirs.close()
        self.console, self.log, self.qmp = (pairs[n][0] for n in ("con", "log", "qmp"))
        self.qmp.settimeout(60)  # an emulator that hangs must not take its caller along
        self._qmp_file = self.qmp.makefile("r")
        self._qmp_ready = False

    def command(self, name, **arguments):
        """Runs a QMP command and returns its result."""
        if not self._qmp_ready:
            self._qmp_ready = True
            self._qmp_file.readline()
            self.command("qmp_capabilities")
        request = {"execute": name}
        if arguments:
            request["arguments"] = arguments
        self.qmp.sendall(json.dumps(request).encode() + b"\n")
        while True:
            line = self._qmp_file.readline()
            if not line:
                raise HostError(f"QEMU ended during {name}")
            answer = json.loads(line)
            if "error" in answer:
                raise HostError(f"{name}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def monitor(self, line, processor=0):
        """Runs a command of the human monitor on a processor and returns what it prints."""
        return self.command("human-monitor-command", **{"command-line": line, "cpu-index": processor})

    def _processors(self):
        return [cpu["cpu-index"] for cpu in self.command("query-cpus-fast")]

    def reason(self):
        """Why the host ended; QEMU does not say."""
        return ""

    def where(self):
        """Where the processors are, in lines: of a host that stands still, nobody else can tell."""
        for number in self._processors():
            registers = self.monitor("info registers", number)
            yield from (f"cpu{number} {l}" for l in registers.splitlines() if re.match(r"[ER]..=|CR0", l))
            stack = self.monitor("x/512gx 0x" + re.search(r"[ER]SP=(\w+)", registers).group(1), number)
            yield f"cpu{number} stack: " + " ".join(re.findall(r"\b0x(ffffffff[89a-f]\w{7})\b(?!:)", stack))

    def refused_interrupts(self):
        """Interrupts that a processor's local APIC holds out to it and that it does not take for a second, as text.

        QEMU clears a bit of a processor's requests at #VMEXIT while other threads may set one, which is then lost: the
        processor learns of the interrupt with the next one only. A host that sleeps until then looks as if it hung.
        """
        before = self._held_out()
        time.sleep(1)
        now = self._held_out()
        return [f"cpu{n} has not taken interrupt {vector} for a second: {flags}"
                for n, (vector, flags) in now.items() if before.get(n, (None,))[0] == vector]

    def _held_out(self):
        found = {}
        for number in self._processors():
            vector = highest_held_out(self.monitor("info lapic", number))
            if vector is not None:
                where = re.search(r"[ER]IP=.*", self.monitor("info registers", number)).group(0).strip()
                # With interrupts off it does not take them, as it should.
                if int(re.search(r"FL=(\w+)", where).group(1), 16) & INTERRUPTS_ON:
                    found[number] = vector, where
        return found

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def highest_held_out(text):
    """The vector that a local APIC holds out to its processor, by what QEMU's monitor says of it, or None."""
    requested = re.search(r"^IRR\s+(.*)$", text, re.M)
    priority = re.search(r"\bPPR 0x(\w+)", text)
    vectors = [int(v) for v in re.findall(r"\b(\d+)\b", requested.group(1))] if requested else []
    highest = max(vectors, default=None)
    if highest is None or not priority or highest >> 4 <= int(priority.group(1), 16) >> 4:
        return None
    return highest


def await_ready(machine, seconds, report=lambda: ""):
    """Waits until a host that boots says that it is ready; `report` tells more of one that ended."""
    seen, log = bytearray(), bytearray()
    deadline = time.monotonic() + seconds
    while READY not in seen:
        left = deadline - time.monotonic()
        readable, _, _ = select.select([machine.console, machine.log], [], [], max(0, left))
        if not readable:
            raise HostError(f"the host did not boot within {seconds} s:\n" + tail(log))
        for channel in readable:
            data = channel.recv(65536)
            if not data:
                raise HostError("the host ended while it booted:\n" + tail(log) + report())
            if channel is machine.console:
                seen += data
            else:
                log += data
    time.sleep(1)


def make_state(shape, path):
    """Boots a host of this shape until it is ready and writes its state to `path`."""
    machine = Machine(shape)
    try:
        await_ready(machine, BOOT_SECONDS[shape.kernel])
        machine.command("migrate", uri=f"file:{path}")
        while True:
            status = machine.command("query-migrate")
            if status.get("status") == "completed":
                break
            if status.get("status") in ("failed", "cancelled"):
                raise HostError(f"the host's state could not be written: {status}")
            time.sleep(0.05)
    finally:
        machine.kill()


def tail(data, lines=15):
    return "\n".join(data.decode(errors="replace").splitlines()[-lines:])


def remove(path):
    """Removes a file or a folder with all that is in it; somebody else may do so, too."""
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def remove_old(folder, name, path):
    """Removes states of this name that nobody has used for long. Another checkout may be about to start from one."""
    for old in os.listdir(folder):
        other = os.path.join(folder, old)
        with contextlib.suppress(FileNotFoundError):
            if old.startswith(f"{name}@") and other != path and time.time() - os.path.getmtime(other) > KEEP_SECONDS:
                remove(other)


def stored_state(shape, note, make):
    """Returns the path of this shape's state; `make` writes it to a path in a new folder when there is none."""
    folder = os.path.join(IMAGES, "state")
    os.makedirs(folder, exist_ok=True)
    name = shape.name()
    path = os.path.join(folder, f"{name}@{shape.key()}")
    if os.path.exists(path):
        os.utime(path)
        return path
    note(f"booting an emulated host once ({name})")
    began = time.monotonic()
    temporary = tempfile.mkdtemp(prefix="tmp.", dir=folder)
    try:
        made = os.path.join(temporary, "state")
        make(made)
        try:
            os.rename(made, path)
        except OSError:
            # Another run was faster, or not.
            if not os.path.exists(path):
                raise
    finally:
        remove(temporary)
    remove_old(folder, name, path)
    note(f"booted in {time.monotonic() - began:.0f} s")
    return path


def state_for(shape, note=lambda text: None):
    """Returns the state file for this shape, booting a host when there is none."""
    _, initrd, hint = KERNELS[shape.kernel]
    if not os.path.exists(initrd):
        raise HostError(f"the lab has no images yet; {hint}")
    return stored_state(shape, note, lambda path: make_state(shape, path))
