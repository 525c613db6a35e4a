# SPDX-License-Identifier: GPL-2.0

"""Runs a command in the emulated host and judges what it prints.

The command runs in a folder that holds the module (rvmm.ko), the tools
(rvmm-run, rvmmctl), the tests of the ABI (abi-tests), the random callers (fuzz-ioctl) and tests/system/; /images has the guests' kernels and disks. Its
output comes to standard output, the host kernel's log as lines "# kernel: …".
The exit code is kselftest's: 0 passed, 1 failed, 4 skipped, from the KTAP that
the command prints, else from its exit status; trouble in the kernel's log
(BUG, WARNING, Oops, …) and running out of time are failures. Of a host that is
out of time, lines "# host: …" tell where its processors are.

Examples:
  scripts/run-host -- 'insmod rvmm.ko && ls -l /dev/rvmm'
  scripts/run-host --cpu max,npt=off -- sh tests/system/insmod.sh
  scripts/run-host --tty -- sh
  scripts/run-host --host intel -- 'modprobe kvm_intel && kvm-hello 100'
  scripts/run-host --kernel debug -- 'insmod rvmm.ko && abi-tests'
"""

import argparse
import os
import select
import shutil
import subprocess
import sys
import tempfile
import termios
import time
import tty

import abi_header
import bochs_host
import emulated_host
import ktap

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(TOP, "target"))
MODULES = {"stock": os.path.join(TOP, "rvmm.ko"), "debug": os.path.join(TOP, "build", "debug", "rvmm.ko")}
PROGRAMS = [os.path.join(TOP, "build", name) for name in ("rvmm-run", "rvmmctl", "abi-tests", "fuzz-ioctl")]
EXIT = b"rvmm-host: exit "
QUIT_KEY = b"\x1d"  # Ctrl-]
KEYBOARD = "ended from the keyboard"
# Of a host that says nothing for so many seconds, it is asked whether its emulator lost an interrupt.
SILENCE = 40


def parse_args(argv):
    p = argparse.ArgumentParser(prog="run-host", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--host", choices=("amd", "intel"), default="amd",
                   help="amd: QEMU with SVM (default); intel: Bochs with VMX, see docs/lab-intel.md")
    p.add_argument("--kernel", choices=tuple(emulated_host.KERNELS), default="stock",
                   help="stock (default), or the debug kernel of `make soak`, on the amd host; the module is "
                   "then build/debug/rvmm.ko, and leaks are looked for at the end")
    p.add_argument("--cpu", help="CPU model of QEMU or Bochs (default: max, or "
                   f"{bochs_host.DEFAULT_CPU})")
    p.add_argument("--smp", type=int, help="CPUs that the command may run on (default: 2, or 1 on intel and "
                   "with --icount); the amd host has one more, but not with --icount")
    p.add_argument("--memory", help="memory of the host (default: 4G, or 1G on intel)")
    p.add_argument("--append", default="", help="more kernel options for the host")
    p.add_argument("--icount", action="store_true", help="count instructions instead of time")
    p.add_argument("--timeout", type=float, default=300, help="seconds of wall time (default: 300; 0: none)")
    p.add_argument("--disk", action="append", default=[], metavar="FILE[,ro]",
                   help="raw or qcow2 file as /dev/vdc, /dev/vdd; written through unless ro")
    p.add_argument("--file", action="append", default=[], metavar="FILE[:NAME]",
                   help="one more file or folder for the command's folder")
    p.add_argument("--log", metavar="FILE", help="write everything to FILE too")
    p.add_argument("--quiet", action="store_true", help="print nothing but the verdict")
    p.add_argument("--allow", action="append", default=[], metavar="REGEX",
                   help="kernel log lines that are expected although they look like trouble")
    p.add_argument("--tty", action="store_true", help="connect the terminal; Ctrl-] ends the host at once")
    p.add_argument("command", nargs="+", metavar="CMD")
    return p.parse_args(argv)


def build(name, sources, *options):
    """Compiles a static program, unless what there is of it is as new as its sources. Returns its path."""
    out = os.path.join(TARGET, "system")
    os.makedirs(out, exist_ok=True)
    program = os.path.join(out, name)
    if not os.path.exists(program) or os.path.getmtime(program) < max(map(os.path.getmtime, sources)):
        temporary = f"{program}.{os.getpid()}"
        inputs = [s for s in sources if s.endswith((".c", ".S"))]
        subprocess.run(["gcc-14", "-O2", "-Wall", "-static", "-o", temporary, *inputs, *options], check=True)
        os.rename(temporary, program)
    return program


def files_in(*folder):
    folder = os.path.join(TOP, *folder)
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]


def tiny_guest():
    """Compiles the guest that is a driver and nothing else, an ELF with a PVH note."""
    return build("tiny-guest", files_in("tests", "tiny"), "-g", "-Wextra", "-ffreestanding",
                 "-fno-tree-loop-distribute-patterns", "-mgeneral-regs-only", "-mno-red-zone", "-fno-pie", "-no-pie",
                 "-fcf-protection=none", "-nostdlib", "-Wl,--build-id=none,--no-warn-rwx-segments",
                 "-T", os.path.join(TOP, "tests", "tiny", "tiny.lds"))


# The boot guests: what each is compiled of beside what all have, and how.
AS_ELF64 = ("-Wa,--64", "-Wl,-m,elf_x86_64")
BOOT_GUESTS = {
    "boot-multiboot1": ("multiboot.c", "boot.lds", "-DMULTIBOOT1"),
    "boot-multiboot1-elf64": ("multiboot.c", "boot.lds", "-DMULTIBOOT1", *AS_ELF64),
    "boot-multiboot1-flat": ("multiboot.c", "boot.lds", "-DMULTIBOOT1", "-DFLAT", "-Wl,--oformat=binary"),
    "boot-multiboot2": ("multiboot.c", "boot.lds", "-DMULTIBOOT2"),
    "boot-multiboot2-flat": ("multiboot.c", "boot.lds", "-DMULTIBOOT2", "-DFLAT", "-Wl,--oformat=binary"),
    "boot-pvh": ("pvh.c", "boot.lds", "-DPVH"),
    "boot-openbsd-amd64": ("openbsd.c", "openbsd.lds", "-DAMD64", *AS_ELF64,
                           "-Wl,--defsym,BASE=0x1000000,--defsym,OFFSET=0,--defsym,WORD=8"),
    "boot-openbsd-i386": ("openbsd.c", "openbsd.lds",
                          "-Wl,--defsym,BASE=0x200000,--defsym,OFFSET=0xd0000000,--defsym,WORD=4"),
    "boot-openbsd-bare": ("openbsd.c", "openbsd.lds", "-Wl,-s",
                          "-Wl,--defsym,BASE=0x200000,--defsym,OFFSET=0xd0000000,--defsym,WORD=4"),
}


def boot_guests():
    """Compiles the guests that say what a loader gave them, one for each protocol and shape of file."""
    folder = os.path.join(TOP, "tests", "boot")
    shared = [os.path.join(folder, name) for name in ("entry.S", "main.c", "print.c", "boot.h", "code32.h")]
    return [build(name, [*shared, os.path.join(folder, own), os.path.join(folder, script)], "-m32", "-march=i686",
                  "-Wextra", "-ffreestanding", "-fno-tree-loop-distribute-patterns", "-mgeneral-regs-only", "-fno-pie",
                  "-no-pie", "-fcf-protection=none", "-fno-stack-protector", "-fno-asynchronous-unwind-tables",
                  "-nostdlib", "-include", os.path.join(folder, "code32.h"),
                  "-Wl,--build-id=none,--no-warn-rwx-segments", "-T", os.path.join(folder, script), *options)
            for name, (own, script, *options) in BOOT_GUESTS.items()]


def programs():
    """Compiles what tests/system/*.sh call, tests/system/*.c and the guests of our own, and returns the programs."""
    sources = [path for path in files_in("tests", "system") if path.endswith(".c")]
    header = abi_header.path(os.path.join(TARGET, "system"))
    headers = [header] + [path for path in files_in("tests", "system") if path.endswith(".h")]
    options = ["-I", os.path.dirname(header), "-lpthread"]
    return [build(os.path.basename(path)[:-2], [path, *headers], *options) for path in sources] \
        + [tiny_guest(), *boot_guests()]


def script_of(command, kernel):
    """What the shell in the host carries out for `command`."""
    path = "PATH=$PATH:$PWD\n"
    if kernel == "debug":
        return f"{path}(\n{command}\n)\nstatus=$?\nsh tests/system/last-reports\nexit $status\n"
    return f"{path}{command}\n"


def make_payload(out, command, files, kernel="stock"):
    """Packs the command's folder into the tar file `out`."""
    with tempfile.TemporaryDirectory() as folder:
        module = MODULES[kernel]
        if os.path.exists(module):
            subprocess.run(["objcopy", "--strip-debug", module, os.path.join(folder, "rvmm.ko")], check=True)
        for program in filter(os.path.exists, PROGRAMS):
            shutil.copy(program, folder)
        shutil.copytree(os.path.join(TOP, "tests", "system"), os.path.join(folder, "tests", "system"))
        for program in programs():
            shutil.copy(program, folder)
        for entry in files:
            path, _, name = entry.partition(":")
            target = os.path.join(folder, name or os.path.basename(path.rstrip("/")))
            if os.path.isdir(path):
                shutil.copytree(path, target)
            else:
                shutil.copy(path, target)
        with open(os.path.join(folder, ".command"), "w") as f:
            f.write(script_of(command, kernel))
        subprocess.run(["tar", "cf", out, "-C", folder, "."], check=True)


class Output:
    """Prints the console as it comes and the kernel's log as whole lines."""

    def __init__(self, quiet=False, log=None, raw=False):
        self.stream = None if quiet else sys.stdout.buffer
        self.file = open(log, "wb") if log else None
        self.raw, self.at_start = raw, True
        self.console, self.kernel, self.partial = b"", [], b""

    def emit(self, data):
        for stream in (self.stream, self.file):
            if stream:
                stream.write(data)
                stream.flush()

    def feed_console(self, data):
        self.console += data
        shown = data if self.raw else data.replace(b"\r", b"")
        if shown:
            self.emit(shown)
            self.at_start = shown.endswith(b"\n")

    def feed_kernel(self, data):
        *lines, self.partial = (self.partial + data).split(b"\n")
        for line in lines:
            line = line.rstrip(b"\r")
            self.kernel.append(line.decode(errors="replace"))
            if self.raw:
                if self.file:
                    self.file.write(b"# kernel: " + line + b"\n")
            else:
                self.emit((b"" if self.at_start else b"\n") + b"# kernel: " + line + b"\n")
                self.at_start = True

    def status(self):
        """The command's exit status, or None while it runs."""
        found = self.console.rfind(EXIT)
        if found < 0 or b"\n" not in self.console[found:]:
            return None
        return int(self.console[found + len(EXIT):].split()[0])


def converse(machine, output, line, deadline, keyboard, silent):
    """Carries bytes until the host is gone, and calls `silent` where it says nothing for long; returns None or what
    went wrong."""
    machine.console.sendall(line + machine.greeting)
    channels = {machine.console: output.feed_console, machine.log: output.feed_kernel}
    open_channels = set(channels)
    while open_channels:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return "out of time"
        wait = SILENCE if left is None else min(left, SILENCE)
        readable, _, _ = select.select([*open_channels, *keyboard], [], [], wait)
        if not readable and wait == SILENCE:
            silent()
        for channel in readable:
            if channel in channels:
                try:
                    data = channel.recv(65536)
                except ConnectionResetError:
                    data = b""
                if data:
                    channels[channel](data)
                else:
                    open_channels.discard(channel)
            else:
                data = os.read(channel, 4096)
                if QUIT_KEY in data:
                    return KEYBOARD
                machine.console.sendall(data)
    return None


def verdict(args, output, problem):
    """Prints the summary and returns the exit code."""
    results = ktap.Results()
    for line in output.console.decode(errors="replace").splitlines():
        results.feed(line)
    status = output.status()
    say = lambda text: (output.emit(text.encode() + b"\n"), output.stream or print(text, flush=True))
    if output.console and not output.at_start:
        output.emit(b"\n")
    trouble = ktap.trouble_in(output.kernel, args.allow)
    if trouble:
        say("# the host's kernel log around the first trouble:")
        for line in ktap.around(output.kernel, trouble[0]):
            say(f"#   {line}")
    for line in trouble:
        say(f"# trouble in the host's kernel log: {line}")
    if problem == KEYBOARD:
        return 0
    if problem is None and status is None:
        problem = "the host ended before the command did"
    if problem:
        say(f"# {problem}")
        return 1
    if results.missing():
        say(f"# {results.missing()} of {results.planned} results are missing")
    if trouble:
        return 1
    if results.count() or results.planned is not None:
        code = results.exit_code()
        return code if code != 0 or status == 0 else 1
    return min(status, 255)


def host_of(args):
    """Returns the module that runs the host, and the host's shape."""
    chosen = {k: getattr(args, k) for k in ("cpu", "smp", "memory", "append") if getattr(args, k)}
    if args.host == "intel":
        if args.icount:
            raise emulated_host.HostError("--icount: Bochs always counts instructions")
        if args.kernel != "stock":
            raise emulated_host.HostError(f"--kernel {args.kernel}: on the amd host only")
        return bochs_host, bochs_host.Shape(**chosen)
    return emulated_host, emulated_host.Shape(icount=args.icount, kernel=args.kernel, **chosen)


def run(args):
    """Starts the host, carries the conversation, returns the exit code and the output."""
    backend, shape = host_of(args)
    output = Output(args.quiet, args.log, raw=args.tty)
    note = lambda text: output.emit(f"# {text}\n".encode())
    state = backend.state_for(shape, note)
    if backend is bochs_host:
        bochs_host.enter_private_world()
    size = terminal_size() if args.tty else (0, 0)
    command = args.command[0] if len(args.command) == 1 else " ".join(map(quote, args.command))
    with tempfile.TemporaryDirectory(prefix="rvmm-run-host.") as folder:
        payload = os.path.join(folder, "payload.tar")
        make_payload(payload, command, args.file, args.kernel)
        disks = [(payload, True), (emulated_host.FILES, True)]
        for entry in args.disk:
            path, _, option = entry.partition(",")
            disks.append((os.path.abspath(path), option == "ro"))
        machine = backend.Machine(shape, disks, state)
        deadline = time.monotonic() + args.timeout if args.timeout else None
        line = f"{int(time.time())} {size[0]} {size[1]} . ./.command\n".encode()
        try:
            silent = lambda: tell_refused(machine, note)
            problem = with_terminal(args.tty, lambda keys: converse(machine, output, line, deadline, keys, silent))
            if problem is None:
                problem = machine.reason() or None
            if problem == "out of time":
                tell_where(machine, note)
        finally:
            machine.kill()
    if problem == "out of time":
        problem = f"out of time after {args.timeout:g} s"
    return verdict(args, output, problem), output


def tell_where(machine, note):
    """Notes where the processors of a host are that is out of time, at two moments."""
    try:
        for line in machine.where():
            note(f"host: {line}")
    except (emulated_host.HostError, OSError, AttributeError) as error:
        note(f"host: it does not say where it is: {error}")


def tell_refused(machine, note):
    """Notes which interrupts the processors of a silent host do not take, where its emulator can be asked."""
    try:
        for line in machine.refused_interrupts():
            note(f"host: {line}")
    except (emulated_host.HostError, OSError):
        pass  # It is asked again with the next silence, and `tell_where` says so in the end.


def terminal_size():
    """Columns and rows of the terminal; a usual size when it does not say."""
    columns, rows = os.get_terminal_size(0)
    return (columns, rows) if columns and rows else (80, 24)


def with_terminal(wanted, body):
    """Runs `body` with the keyboard in raw mode, restored on every way out."""
    if not wanted:
        return body([])
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        return body([0])
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def quote(word):
    return word if word and all(c.isalnum() or c in "-_=./,:+%@" for c in word) else "'" + word.replace("'", "'\\''") + "'"


def main():
    args = parse_args(sys.argv[1:])
    try:
        code, _ = run(args)
    except emulated_host.HostError as error:
        print(f"run-host: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
