# SPDX-License-Identifier: GPL-2.0

"""Runs rings of tests inside the lab's root and counts their results.

  check    the gates: rustfmt, clippy, check-unsafe, check-panics, check-faults, check-mitigations, check-frames, check-deb
  host     cargo tests of tests/host and of the tool, and the share of the module that the former enter
  guest, system, full, soak
           tests/system/*.sh of that ring, each in an emulated host of its own

Prints one KTAP line per result and at the end "N passed, M failed, K skipped",
which also goes to build/summary; logs go to build/log/. The exit code is 0 only
if nothing failed. Each system test runs on each emulated host that it is for and
that --hosts has; its line says "guest@intel: …", and a table of case by host
comes last. docs/lab-intel.md has the hosts.

A system test is a shell script for the emulated host that prints KTAP. Its head
may hold lines "# key: value":
  ring     guest, system (default), full or soak
  cpu, smp, append, timeout
           of the host, as run-host takes them
  disk     NAME: a private copy of images/NAME.img as /dev/vdc
  file     a file or folder of the source, or built from it, that the test finds in its folder
  allow    a regular expression of kernel log lines that are expected
  after    a script in tests/system/ that judges the disk afterwards (DISK=FILE)
  hosts    where the test makes sense; amd and intel without it. What is for amd is for amd-debug
  loops    N: it goes on for $SOAK_SECONDS, N parts of --minutes
A key may end in @HOST, or in @amd or @intel for all hosts of the vendor: it goes
before the plain one. cpu and memory without it are QEMU's. Time limits are three
times as long on Intel's, four times on the debug kernel.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple

import bochs_host
import coverage
import emulated_host
import ktap

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
SYSTEM = os.path.join(TOP, "tests", "system")
LOGS = os.path.join(TOP, "build", "log")
COVERAGE = os.path.join(TOP, "build", "coverage")
CARGO_RESULT = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)")
CARGO_SUMMARY = re.compile(r"^test result: .*? (\d+) passed; (\d+) failed; (\d+) ignored")
GATES = [
    ("rustfmt", ["scripts/check-rustfmt"]),
    ("clippy of the module", ["scripts/check-clippy", "module"]),
    ("clippy of the tool", ["scripts/check-clippy", "userspace-tool"]),
    ("clippy of the host tests", ["scripts/check-clippy", "tests/host"]),
    ("clippy of the test of the ABI", ["scripts/check-clippy", "tests/abi"]),
    ("clippy of the random callers", ["scripts/check-clippy", "tests/fuzz-ioctl"]),
    ("the scripts themselves", ["python3", "-m", "unittest", "discover", "-s", "scripts/tests"]),
    ("check-unsafe", ["scripts/check-unsafe"]),
    ("check-panics", ["scripts/check-panics"]),
    ("check-faults", ["scripts/check-faults"]),
    ("check-mitigations", ["scripts/check-mitigations"]),
    ("check-frames", ["scripts/check-frames"]),
    ("check-deb", ["scripts/check-deb"]),
]
PRINTING = threading.Lock()


class Host(NamedTuple):
    """An emulated host: what runs it, the processor where a test asks for no other, its kernel, and the parameters that
    its tests load the module with."""

    backend: Any
    cpu: str
    kernel: str = "stock"
    parameters: str = ""


HOSTS = {
    "amd": Host(emulated_host, "max"),
    "amd-4level": Host(emulated_host, "max,la57=off"),
    "amd-shadow": Host(emulated_host, "max,npt=off"),
    "amd-debug": Host(emulated_host, "max", "debug"),
    "intel": Host(bochs_host, bochs_host.DEFAULT_CPU),
    "intel-new": Host(bochs_host, "arrow_lake"),
    "intel-old": Host(bochs_host, "corei5_lynnfield_750"),
    "intel-shadow": Host(bochs_host, bochs_host.DEFAULT_CPU, parameters="ept=0"),
    "intel-core2": Host(bochs_host, "core2_penryn_t9600"),
}
DEFAULT_HOSTS = [name for name, host in HOSTS.items() if host.kernel == "stock"]


def say(text):
    with PRINTING:
        print(text, flush=True)


def tail(text, lines):
    return "\n".join("# " + line for line in text.splitlines()[-lines:])


def run_logged(name, command, timeout, env=None):
    """Runs a command; returns its exit code and what it printed, kept in build/log too."""
    path = os.path.join(LOGS, re.sub(r"[^A-Za-z0-9_.-]+", "-", name) + ".log")
    with open(path, "w+b") as log:
        try:
            code = subprocess.run(command, cwd=TOP, stdin=subprocess.DEVNULL, stdout=log,
                                  stderr=subprocess.STDOUT, timeout=timeout, env=env).returncode
        except subprocess.TimeoutExpired:
            code = 124
        log.seek(0)
        return code, log.read().decode(errors="replace")


def report(name, results, began, text="", lines=40):
    """Prints the verdict on one program of several results."""
    seconds = time.monotonic() - began
    counts = f"{len(results.passed)} passed, {len(results.failed)} failed, {len(results.skipped)} skipped"
    word = "not ok" if results.failed else "ok"
    shown = [f"{word} {name} # {counts}, {seconds:.1f} s"]
    shown += [f"#   failed: {f}" for f in results.failed[:20]]
    shown += [f"#   skipped: {s}" for s in results.skipped[:20]]
    if results.failed and text:
        shown.append(tail(text, lines))
    say("\n".join(shown))
    return results


class Table:
    """The results of the system tests by case and host."""

    def __init__(self):
        self.cells = {}

    def add(self, case, host, results):
        self.cells.setdefault(case, {})[host] = results

    def lines(self, hosts):
        yield "# " + f"{'case':32}" + "".join(f"{h:>16}" for h in hosts)
        for case in sorted(self.cells):
            yield "# " + f"{case:32}" + "".join(f"{self.cell(case, h):>16}" for h in hosts)

    def cell(self, case, host):
        results = self.cells[case].get(host)
        if results is None:
            return "-"
        if results.failed:
            return f"{len(results.failed)} failed"
        return f"{len(results.passed)} ok" if results.passed else "skipped"


TABLE = Table()


def ring_check(total, _args):
    for name, command in GATES:
        began, results = time.monotonic(), ktap.Results()
        code, text = run_logged(f"check {name}", command, 900)
        if code == 4:
            results.skipped.append(f"{name}: {text.strip().splitlines()[-1] if text.strip() else ''}")
        else:
            (results.failed if code else results.passed).append(name)
        total.add(report(f"check: {name}", results, began, text))


def cargo_results(text, code):
    results = ktap.Results()
    counted = [0, 0, 0]
    for line in text.splitlines():
        match = CARGO_RESULT.match(line)
        if match:
            kind = {"ok": results.passed, "FAILED": results.failed, "ignored": results.skipped}
            kind[match.group(2)].append(match.group(1))
        match = CARGO_SUMMARY.match(line)
        if match:
            counted = [a + int(b) for a, b in zip(counted, match.groups())]
    # A test that prints while it runs tears its line apart: trust the sums.
    for names, count in zip((results.passed, results.failed, results.skipped), counted):
        del names[count:]
        names += ["(name lost)"] * (count - len(names))
    if code and not results.failed:
        results.failed.append("cargo test" + (" (out of time)" if code == 124 else ""))
    return results


def ring_host(total, _args):
    for folder in ("tests/host", "userspace-tool"):
        manifest = os.path.join(TOP, folder, "Cargo.toml")
        if not os.path.exists(manifest):
            continue
        counts = folder == "tests/host" and all(map(shutil.which, coverage.TOOLS))
        env = {**os.environ, **coverage.environment(COVERAGE)} if counts else None
        began = time.monotonic()
        code, text = run_logged(f"host {folder}", [
            "cargo", "test", "--locked", "--no-fail-fast", "--manifest-path", manifest, "--workspace"], 1500, env)
        total.add(report(f"host: {folder}", cargo_results(text, code), began, text))
        if folder == "tests/host":
            total.add(report_coverage(text, counts))


def report_coverage(text, counts):
    """Prints which share of the module the tests entered, and judges it by its floor."""
    began, results = time.monotonic(), ktap.Results()
    if not counts:
        results.skipped.append(f"coverage: there is no {coverage.TOOLS[1]}; run 'make lab'")
        return report("host: coverage", results, began)
    try:
        lines, wrong = coverage.measure(COVERAGE, text)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        lines, wrong = [], f"llvm-cov: {error}"
    if lines:
        say("\n".join("# " + line for line in lines))
    (results.failed if wrong else results.passed).append(wrong or "coverage")
    return report("host: coverage", results, began)


class SystemTest:
    """One script of tests/system on one host, with what its head asks for."""

    QEMU_ONLY = ("cpu", "memory")
    KEY = re.compile(r"^# (ring|cpu|smp|memory|append|timeout|disk|file|allow|after|hosts|loops)(@[a-z0-9-]+)?: (.+)$")

    def __init__(self, name, host="amd"):
        self.name, self.host = name, host
        self.is_debug = HOSTS[host].kernel == "debug"
        self.seconds = 0
        self.vendor = host.partition("-")[0]
        self.keys = {}
        with open(os.path.join(SYSTEM, name + ".sh")) as f:
            for line in f:
                match = self.KEY.match(line)
                if match:
                    self.keys.setdefault(match.group(1) + (match.group(2) or ""), []).append(match.group(3).strip())
                elif not line.startswith("#"):
                    break

    def all(self, key):
        for own in (f"{key}@{self.host}", f"{key}@{self.vendor}"):
            if own in self.keys:
                return self.keys[own]
        if self.vendor != "amd" and key in self.QEMU_ONLY:
            return []
        return self.keys.get(key, [])

    def get(self, key, default=None):
        return (self.all(key) or [default])[0]

    def ring(self):
        return self.get("ring", "system")

    def fits(self):
        named = re.split(r"[ ,]+", self.get("hosts", "amd,intel"))
        return self.host in named or (self.is_debug and self.vendor in named)

    def parts(self):
        """How many parts of the time of all loops this one has; 0: it is none."""
        return int(self.get("loops", "0"))

    def log_name(self):
        return f"system {self.name}" + ("" if self.host == "amd" else f" {self.host}")

    def label(self):
        return f"{self.ring()}@{self.host}"

    def shape_keys(self):
        keys = {"cpu": HOSTS[self.host].cpu}
        if self.is_debug:
            keys["kernel"] = HOSTS[self.host].kernel
        keys.update((k, v) for k in ("cpu", "smp", "memory", "append") if (v := self.get(k)))
        return {k: int(v) if k == "smp" else v for k, v in keys.items()}

    def backend(self):
        return HOSTS[self.host].backend

    def shape(self):
        return self.backend().Shape(**self.shape_keys())

    def timeout(self):
        given = any(f"timeout@{name}" in self.keys for name in (self.host, self.vendor))
        slower = 1 if given else 4 if self.is_debug else 3 if self.vendor == "intel" else 1
        return slower * int(self.get("timeout", "300")) + self.seconds

    def command(self, disk):
        command = [sys.executable, os.path.join(HERE, "run_host.py"), f"--host={self.vendor}",
                   f"--timeout={self.timeout()}"]
        command += [f"--{key}={value}" for key, value in self.shape_keys().items()]
        command += [f"--allow={allow}" for allow in self.all("allow")]
        command += [f"--file={os.path.join(TOP, path)}" for path in self.all("file")]
        if disk:
            command += ["--disk", disk]
        parameters = HOSTS[self.host].parameters
        given = f"SOAK_SECONDS={self.seconds} " if self.parts() else ""
        given += f"MODULE_PARAMETERS='{parameters}' " if parameters else ""
        return command + ["--", f"{given}sh tests/system/{self.name}.sh"], self.timeout() + 300

    def skipped(self, why):
        results = ktap.Results()
        results.skipped.append(f"{self.name}: {why}")
        return results

    def run(self):
        """Returns the results, the text printed and the time of the start."""
        began = time.monotonic()
        missing = [path for path in self.all("file") if not os.path.exists(os.path.join(TOP, path))]
        if missing:
            return self.skipped(f"no {missing[0]}; run 'make lab', or 'make deb'"), "", began
        with tempfile.TemporaryDirectory(prefix="rvmm-test.", dir=emulated_host.IMAGES) as folder:
            disk = None
            if self.get("disk"):
                base = os.path.join(emulated_host.IMAGES, self.get("disk") + ".img")
                if not os.path.exists(base):
                    return self.skipped(f"no image {self.get('disk')}; run 'make lab' or 'make lab-debian'"), "", began
                disk = os.path.join(folder, "disk.img")
                subprocess.run(["cp", "--sparse=always", "--reflink=auto", base, disk], check=True)
            command, limit = self.command(disk)
            code, text = run_logged(self.log_name(), command, limit)
            results = ktap.Results()
            for line in text.splitlines():
                results.feed(line)
            if self.get("after") and not code:
                env = {**os.environ, "DISK": disk}
                code, more = run_logged(f"{self.log_name()} after",
                                        ["bash", os.path.join(SYSTEM, self.get("after"))], 600, env)
                for line in more.splitlines():
                    results.feed(line)
                text += more
        if code not in (0, 4) and not results.failed:
            results.failed.append(f"{self.name}: {last_remark(text)}")
        if not results.count():
            (results.passed if code == 0 else results.skipped).append(self.name)
        return results, text, began


def last_remark(text):
    remarks = [l for l in text.splitlines() if l.startswith("# ") and not l.startswith("# kernel:")]
    return remarks[-1][2:] if remarks else "failed"


def boot_once(backend, shape):
    """Saves the state that this shape's tests start from. Those say what is wrong where that fails."""
    try:
        backend.state_for(shape, lambda text: say(f"# {text}"))
    except emulated_host.HostError as error:
        say(f"# {shape.name()}: {error}")


def ring_emulated(total, args):
    """All rings of system tests that were asked for, in one pool."""
    names = sorted(n[:-3] for n in os.listdir(SYSTEM) if n.endswith(".sh") and n != "lib.sh")
    tests = [SystemTest(n, host) for host in args.hosts for n in names
             if not args.only or n in args.only.split(",")]
    # The longest first, so that none is left over when the others are done.
    tests = [t for t in tests if t.ring() in args.rings and t.fits()]
    parts = sum(t.parts() for t in tests)
    for test in tests:
        test.seconds = args.minutes * 60 * test.parts() // max(1, parts)
    tests.sort(key=lambda t: -t.timeout())
    shapes = {t.shape().name(): (t.backend(), t.shape()) for t in tests}.values()
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda shape: boot_once(*shape), shapes))
        futures = {pool.submit(t.run): t for t in tests}
        for done in concurrent.futures.as_completed(futures):
            test, (results, text, began) = futures[done], done.result()
            TABLE.add(test.name, test.host, results)
            label = test.ring() if args.hosts == ["amd"] else test.label()
            total.add(report(f"{label}: {test.name}", results, began, text))


def ring_run(total, args):
    if args.only and "make-run" not in args.only.split(","):
        return
    began, results = time.monotonic(), ktap.Results()
    code, text = run_logged("make run", [sys.executable, os.path.join(HERE, "try_run.py")], 900)
    for line in text.splitlines():
        results.feed(line)
    if code and not results.failed:
        results.failed.append("make run: " + last_remark(text))
    total.add(report("run: make run", results, began, text))


RINGS = {"run": ring_run, "check": ring_check, "host": ring_host, "guest": ring_emulated, "system": ring_emulated,
         "full": ring_emulated, "soak": ring_emulated}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--jobs", type=int, default=max(1, min(4, (os.cpu_count() or 1) // 1)))
    p.add_argument("--only", help="names of system tests, comma separated")
    p.add_argument("--hosts", default=",".join(DEFAULT_HOSTS), help="emulated hosts of the system tests, of "
                   f"{','.join(HOSTS)} (default: %(default)s)")
    p.add_argument("--minutes", type=int, default=60, help="for all the loops of the ring soak together (default: %(default)s)")
    p.add_argument("rings", nargs="+", choices=RINGS)
    args = p.parse_args()
    args.hosts = args.hosts.split(",")
    if not set(args.hosts) <= set(HOSTS):
        p.error(f"unknown host in {args.hosts}")
    os.makedirs(LOGS, exist_ok=True)
    total, began = ktap.Results(), time.monotonic()
    # The emulated rings have one runner.
    for run in dict.fromkeys(RINGS[ring] for ring in args.rings):
        try:
            run(total, args)
        except emulated_host.HostError as error:
            total.failed.append(f"{run.__name__}: {error}")
            say(f"not ok {run.__name__} # {error}")
    if TABLE.cells and args.hosts != ["amd"]:
        say("\n".join(TABLE.lines(args.hosts)))
    say(f"# {time.monotonic() - began:.0f} s; logs are in build/log")
    summary = f"{len(total.passed)} passed, {len(total.failed)} failed, {len(total.skipped)} skipped"
    with open(os.path.join(TOP, "build", "summary"), "w") as f:
        f.write(summary + "\n")
    say(summary)
    sys.exit(1 if total.failed or not total.count() else 0)


if __name__ == "__main__":
    main()
