# SPDX-License-Identifier: GPL-2.0

"""The emulated Intel host: Bochs with VMX, the stock kernel, a busybox initramfs.

The same contract as emulated_host: a host of a given shape is booted once, its
state is written to a folder while it waits for a command, and each run starts
from a private view of that folder with its own disks and channels.

Bochs has no monitor. What drives it here:

- Both serial ports are TCP clients of the runner: ttyS0 carries the kernel's
  log, ttyS1 the conversation that tests/system/host/init describes.
- Its display is served to VNC clients. A click on the button for saving the
  state makes it ask for a folder on its standard input.
- A saved state is a folder of text files, one a device, and the memory. Bochs
  insists on restoring disks too; the copy of that one file says otherwise.

All of it uses the loopback of a private network namespace, so runs do not meet
and no port of this machine opens.
"""

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

from emulated_host import FILES, IMAGES, KERNEL, HostError, await_ready, die_with_parent, stored_state, tail, with_options

DEFAULT_CPU = "corei7_ivy_bridge_3770k"
INITRD = os.path.join(IMAGES, "host-intel.cpio")
BOOT_SECONDS = 900
# Instructions in a second of the host's time. About what Bochs reaches, so that
# time limits inside the host mean what they say.
IPS = 40_000_000
APPEND = (
    "console=ttyS0,115200 quiet rvmm.console=ttyS1 rvmm.disks=ide "
    "mitigations=off nokaslr audit=0 tsc=reliable no_timer_check "
    "raid=noautodetect cryptomgr.notests random.trust_cpu=on panic=-1 idle=halt "
    # What newer models say in CPUID leaf 0x15 is a hundred times what they reach.
    f"tsc_early_khz={IPS // 1000}"
)
DISK_SLOTS = 3
# The host finds its disks before its state is saved: the payload's has one size.
PAYLOAD_BYTES = 256 << 20
HEADER_BUTTON_SAVE = (672, 8)
VNC_PORT = 5900
PAGE_FRAME = 0x000f_ffff_ffff_f000
# Without KASLR: the kernel's image, and modules above it.
KERNEL_CODE = 0xffff_ffff_8000_0000
REGISTERS = ("RIP", "RSP", "EFLAGS", "CR0", "CR3", "CR4", "RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "cpu_mode",
             "activity_state", "async_event")


class Shape:
    """What a saved state depends on."""

    def __init__(self, cpu=DEFAULT_CPU, smp=1, memory="1G", append=""):
        self.cpu, self.smp, self.append = cpu, smp, append
        match = re.fullmatch(r"(\d+)([MG]?)", memory)
        if not match:
            raise HostError(f"memory: {memory}")
        self.mebibytes = int(match.group(1)) * (1024 if match.group(2) == "G" else 1)

    def cmdline(self):
        return with_options(APPEND, self.append)

    def name(self):
        """A readable file name, the same for every version of the inputs."""
        text = "_".join(p for p in ["bochs", self.cpu, f"smp{self.smp}", f"{self.mebibytes}M", self.append] if p)
        return "".join(c if c.isalnum() or c in "-_=." else "_" for c in text)[:80]

    def key(self):
        h = hashlib.sha256()
        package = subprocess.run(["dpkg-query", "-W", "bochs", "bochsbios"], capture_output=True, check=True)
        h.update(package.stdout + str(os.path.getsize(FILES)).encode() + self.cmdline().encode() + bochsrc(self, [], 0, 0, "").encode())
        for path in (KERNEL, INITRD):
            with open(path, "rb") as f:
                h.update(f.read())
        return h.hexdigest()[:16]


def bochsrc(shape, disks, log_port, console_port, cdrom):
    """The configuration of a machine; the names of files and ports vary by run."""
    return "".join(f"{line}\n" for line in fixed_lines(shape) + run_lines(disks, log_port, console_port, cdrom))


def fixed_lines(shape):
    return [
        "config_interface: textconfig",
        'display_library: rfb, options="timeout=0, no_gui_console"',
        f"cpu: model={shape.cpu}, count={shape.smp}, ips={IPS}, reset_on_triple_fault=0, ignore_bad_msrs=1",
        f"memory: guest={shape.mebibytes}, host={shape.mebibytes}",
        "romimage: file=/usr/share/bochs/BIOS-bochs-latest, options=fastboot",
        "vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest",
        "boot: cdrom",
        "clock: sync=none, time0=utc",
        "pci: enabled=1, chipset=i440fx",
        "plugin_ctrl: speaker=0, gameport=0, parallel=0",
        "mouse: enabled=0",
        "log: -",
        "panic: action=fatal",
        "error: action=ignore",
        "info: action=report",
        "debug: action=ignore",
        "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14",
        "ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15",
    ]


def run_lines(disks, log_port, console_port, cdrom):
    lines = [
        f"com1: enabled=1, mode=socket-client, dev=127.0.0.1:{log_port}",
        f"com2: enabled=1, mode=socket-client, dev=127.0.0.1:{console_port}",
        "ata1-slave: type=cdrom, " + (f"path={cdrom}, status=inserted" if cdrom else "path=none, status=ejected"),
    ]
    for name, path in zip(("ata0-master", "ata0-slave", "ata1-master"), disks):
        lines.append(f"{name}: type=disk, path={path}, mode=flat")
    return lines


def enter_private_world():
    """Gives this process a network with only a loopback, and a /tmp in memory.

    Bochs copies the memory of the state it restores through a file in /tmp.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result):
        if result != 0:
            raise HostError(f"no private network and /tmp: {os.strerror(ctypes.get_errno())}")

    checked(libc.unshare(0x40000000 | 0x00020000))  # CLONE_NEWNET, CLONE_NEWNS
    checked(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, b"size=90%"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS: IFF_UP


def in_private_world(body):
    """Runs `body` in a child with a private world; passes its HostError on."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            enter_private_world()
            body()
            code = 0
        except Exception as error:  # pylint: disable=broad-except
            os.write(writer, str(error).encode()[:60000])
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as f:
        said = f.read()
    if os.waitpid(pid, 0)[1] != 0:
        raise HostError(said.decode(errors="replace") or "the host's boot was ended")


class Machine:
    """A running Bochs with its two serial ports as sockets; wants a private world."""

    def __init__(self, shape, disks=(), state=None, cdrom="", folder=None):
        self.folder = tempfile.mkdtemp(prefix="rvmm-bochs.")
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        ports = [l.getsockname()[1] for l in listeners]
        sizes = [os.path.getsize(path) for path, _ in disks]
        self.greeting = f"{len(disks)} {sizes[0]}\n".encode() if disks else b""
        placed = place_disks(disks, self.folder)
        if state:
            args = ["-r", private_state(state, self.folder, run_lines(placed, *ports, cdrom))]
        else:
            rc = os.path.join(self.folder, "bochsrc")
            with open(rc, "w") as f:
                f.write(bochsrc(shape, placed, *ports, cdrom))
            args = ["-f", rc]
        self.report_path = os.path.join(self.folder, "bochs.log")
        with open(self.report_path, "wb") as report:
            self.process = subprocess.Popen(
                ["/usr/bin/bochs-bin", "-q", *args], stdin=subprocess.PIPE, stdout=report,
                stderr=subprocess.STDOUT, preexec_fn=die_with_parent, cwd=self.folder,
                env={**os.environ, "BXSHARE": "/usr/share/bochs", "TMPDIR": self.folder, "TERM": "dumb"})
        channels = []
        for listener in listeners:
            listener.settimeout(30)
            try:
                channels.append(listener.accept()[0])
            except TimeoutError:
                said = tail(self.report())
                self.kill()
                raise HostError("Bochs did not start:\n" + said) from None
            finally:
                listener.close()
        self.log, self.console = channels

    def report(self):
        """What Bochs itself says, with the count of instructions at each line."""
        with open(self.report_path, "rb") as f:
            return f.read()

    def reason(self):
        """Why the host ended, when Bochs gave up on it; else an empty string."""
        found = re.findall(rb"following message:\n(.*)\n", self.report())
        said = found[-1].decode(errors="replace") if found else ""
        # Powering off is Bochs' one way to end well.
        return "" if "ACPI control: soft power off" in said else said

    def save(self, folder):
        """Writes the state to `folder`; Bochs stops meanwhile."""
        with socket.create_connection(("127.0.0.1", VNC_PORT), timeout=60) as vnc:
            vnc.recv(12)
            vnc.sendall(b"RFB 003.003\n")
            vnc.recv(4)
            vnc.sendall(b"\1")
            vnc.recv(4096)
            for button in (1, 0):
                vnc.sendall(struct.pack(">BBHH", 5, button, *HEADER_BUTTON_SAVE))
            self.process.stdin.write(folder.encode() + b"\n")
            self.process.stdin.flush()
            deadline = time.monotonic() + 120
            while b"want to continue" not in self.report():
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise HostError("Bochs did not save its state:\n" + tail(self.report()))
                vnc.setblocking(False)
                try:
                    vnc.recv(65536)
                except BlockingIOError:
                    pass
                time.sleep(0.1)

    def where(self):
        """Where the processors are, in lines: of a host that stands still, nobody else can tell. It stops for that."""
        folder = os.path.join(self.folder, "where")
        os.mkdir(folder)
        self.save(folder)
        memory = SavedMemory(folder)
        for name in sorted(n for n in os.listdir(folder) if re.fullmatch(r"cpu\d+", n)):
            with open(os.path.join(folder, name)) as f:
                text = f.read()
            first = lambda key, text=text: int(re.search(rf"^ *{key} = (\w+)$", text, re.M).group(1), 0)
            yield name + "".join(f" {key}={first(key):x}" for key in REGISTERS)
            # What belongs to a guest's VMCS and to its host's comes behind.
            rest = re.findall(r"^ *((?:in_vmx|in_vmx_guest|in_svm|in_svm_guest|RIP|RSP) = \w+)$", text, re.M)
            yield f"{name} " + ", ".join(rest)
            yield name + " stack: " + " ".join(memory.returns(first("CR3"), first("RSP")))

    def refused_interrupts(self):
        """None: Bochs loses no interrupts, and cannot be asked without a stop."""
        return []

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class SavedMemory:
    """The memory in a saved state, by linear addresses of a processor in 64-bit mode with 4 levels of tables."""

    def __init__(self, folder):
        path = os.path.join(folder, "memory.ram")
        self.size, self.memory = os.path.getsize(path), open(path, "rb")

    def word(self, address):
        """Returns 8 bytes at a physical address, or None beyond the end."""
        if address >= self.size:
            return None
        self.memory.seek(address)
        return int.from_bytes(self.memory.read(8), "little")

    def physical(self, table, address):
        """Returns what a linear address is translated to, or None."""
        for shift in (39, 30, 21, 12):
            entry = self.word((table & PAGE_FRAME) + (address >> shift & 0x1ff) * 8)
            if entry is None or not entry & 1:
                return None
            if shift == 12 or (shift < 39 and entry & 0x80):
                inside = (1 << shift) - 1
                return entry & PAGE_FRAME & ~inside | address & inside
            table = entry

    def returns(self, cr3, rsp, words=512):
        """Yields what may be addresses of the kernel's code on a stack."""
        for address in range(rsp & ~7, (rsp & ~7) + words * 8, 8):
            at = self.physical(cr3, address)
            word = self.word(at) if at is not None else None
            if word is None:
                return
            if word >= KERNEL_CODE:
                yield f"{word:x}"


def place_disks(disks, folder):
    """Gives every slot a file and returns the paths.

    Slots are the payload, the files for /images, and one more disk. What is
    missing is a file of the same size, or of one cylinder for the last.
    """
    sizes = (PAYLOAD_BYTES, os.path.getsize(FILES), 16 * 63 * 512)
    placed = []
    for slot in range(DISK_SLOTS):
        link = os.path.join(folder, f"disk{slot}.img")
        placed.append(link)
        if slot >= len(disks):
            with open(link, "wb") as f:
                f.truncate(sizes[slot])
            continue
        path, _ = disks[slot]
        if path.endswith(".qcow2"):
            raise HostError(f"{path}: Bochs takes raw disks only")
        if slot == 0:
            if os.path.getsize(path) > PAYLOAD_BYTES:
                raise HostError(f"the payload is larger than {PAYLOAD_BYTES >> 20} MiB")
            os.truncate(path, PAYLOAD_BYTES)
        if os.path.getsize(path) % 512:
            raise HostError(f"{path}: no whole number of sectors")
        # Bochs puts a lock beside the name it is given.
        os.symlink(path, link)
    if len(disks) > DISK_SLOTS:
        raise HostError("the Intel host takes one --disk")
    return placed


def private_state(state, folder, lines):
    """A folder like `state` with `lines` in its configuration and none of its disks."""
    view = os.path.join(folder, "state")
    os.mkdir(view)
    for name in os.listdir(state):
        path = os.path.join(view, name)
        if name == "config":
            # Timers are saved by number, given in the order of the devices: a
            # device that loads itself must not be loaded by name before.
            replaced = {line.partition(":")[0] for line in lines} | {"usb_uhci"}
            with open(os.path.join(state, name)) as f:
                text = f.read().replace(" usb_uhci=true,", "")
            kept = [l for l in text.splitlines() if l.partition(":")[0] not in replaced]
            with open(path, "w") as f:
                f.write("\n".join(kept + lines) + "\n")
        elif name == "hard_drive":
            with open(os.path.join(state, name)) as f:
                text = re.sub(r"\bimage = \w+", "image = false", f.read())
            with open(path, "w") as f:
                f.write(text)
        else:
            os.symlink(os.path.join(state, name), path)
    return view


def make_cdrom(shape, path):
    """A CD that boots the stock kernel with the shape's command line."""
    with tempfile.TemporaryDirectory() as folder:
        for source, name in (("/usr/lib/ISOLINUX/isolinux.bin", "isolinux.bin"),
                             ("/usr/lib/syslinux/modules/bios/ldlinux.c32", "ldlinux.c32"),
                             (KERNEL, "vmlinuz"), (INITRD, "initrd")):
            shutil.copy(source, os.path.join(folder, name))
        with open(os.path.join(folder, "isolinux.cfg"), "w") as f:
            f.write("DEFAULT host\nPROMPT 0\nTIMEOUT 1\nLABEL host\n"
                    f"LINUX /vmlinuz\nINITRD /initrd\nAPPEND {shape.cmdline()}\n")
        subprocess.run(["xorrisofs", "-quiet", "-o", path, "-b", "isolinux.bin", "-c", "boot.cat",
                        "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", folder],
                       check=True, stderr=subprocess.DEVNULL)


def make_state(shape, folder):
    """Boots a host of this shape until it is ready and writes its state to `folder`.

    Runs in a private world.
    """
    with tempfile.TemporaryDirectory(prefix="rvmm-bochs.") as scratch:
        cdrom = os.path.join(scratch, "boot.iso")
        make_cdrom(shape, cdrom)
        machine = Machine(shape, cdrom=cdrom)
        try:
            await_ready(machine, BOOT_SECONDS, lambda: "\n" + tail(machine.report()))
            os.mkdir(folder)
            machine.save(folder)
        finally:
            machine.kill()


def state_for(shape, note=lambda text: None):
    """Returns the folder with this shape's state, booting a host when there is none."""
    if not os.path.exists(INITRD):
        raise HostError("the lab has no images for the Intel host yet; run 'make lab' first")
    return stored_state(shape, note, lambda path: in_private_world(lambda: make_state(shape, path)))
