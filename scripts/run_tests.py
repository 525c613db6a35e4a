# SPDX-License-Identifier: GPL-2.0

"""Runs rings of tests inside the lab's root and counts their results.

  check    the gates: rustfmt, clippy, check-unsafe, check-panics
  host     cargo tests of tests/host and of the tool
  guest, system, full
           tests/system/*.sh of that ring, each in an emulated host of its own

Prints one KTAP line per result and at the end "N passed, M failed, K skipped",
which also goes to build/summary; logs go to build/log/. The exit code is 0 only
if nothing failed.

A system test is a shell script for the emulated host that prints KTAP. Its head
may hold lines "# key: value":
  ring     guest, system (default) or full
  cpu, smp, append, timeout
           of the host, as run-host takes them
  disk     NAME: a private copy of images/NAME.img as /dev/vdc
  allow    a regular expression of kernel log lines that are expected
  after    a script in tests/system/ that judges the disk afterwards (DISK=FILE)
"""

import argparse
import concurrent.futures
import os
import re
import subprocess
import sys
import tempfile
import threading
import time

import emulated_host
import ktap

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
SYSTEM = os.path.join(TOP, "tests", "system")
LOGS = os.path.join(TOP, "build", "log")
CARGO_RESULT = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)")
CARGO_SUMMARY = re.compile(r"^test result: .*? (\d+) passed; (\d+) failed; (\d+) ignored")
GATES = [
    ("rustfmt", ["scripts/check-rustfmt"]),
    ("clippy of the module", ["scripts/check-clippy", "module"]),
    ("clippy of the tool", ["scripts/check-clippy", "userspace-tool"]),
    ("clippy of the host tests", ["scripts/check-clippy", "tests/host"]),
    ("clippy of the test of the ABI", ["scripts/check-clippy", "tests/abi"]),
    ("the scripts themselves", ["python3", "-m", "unittest", "discover", "-s", "scripts/tests"]),
    ("check-unsafe", ["scripts/check-unsafe"]),
    ("check-panics", ["scripts/check-panics"]),
]
PRINTING = threading.Lock()


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
        began = time.monotonic()
        code, text = run_logged(f"host {folder}", [
            "cargo", "test", "--locked", "--no-fail-fast", "--manifest-path", manifest, "--workspace"], 1500)
        total.add(report(f"host: {folder}", cargo_results(text, code), began, text))


class SystemTest:
    """One script of tests/system with what its head asks for."""

    def __init__(self, name):
        self.name = name
        self.keys = {"ring": ["system"]}
        found = {}
        with open(os.path.join(SYSTEM, name + ".sh")) as f:
            for line in f:
                match = re.match(r"^# (ring|cpu|smp|memory|append|timeout|disk|allow|after): (.+)$", line)
                if match:
                    found.setdefault(match.group(1), []).append(match.group(2).strip())
                elif not line.startswith("#"):
                    break
        self.keys.update(found)

    def get(self, key, default=None):
        return self.keys.get(key, [default])[0]

    def shape(self):
        return emulated_host.Shape(self.get("cpu", "max"), int(self.get("smp", 2)),
                                   self.get("memory", "4G"), False, self.get("append", ""))

    def command(self, disk):
        timeout = self.get("timeout", "300")
        command = [sys.executable, os.path.join(HERE, "run_host.py"), "--timeout", timeout]
        for key in ("cpu", "smp", "memory", "append"):
            if self.get(key):
                command.append(f"--{key}={self.get(key)}")
        for allow in self.keys.get("allow", []):
            command.append(f"--allow={allow}")
        if disk:
            command += ["--disk", disk]
        return command + ["--", f"sh tests/system/{self.name}.sh"], int(timeout) + 300

    def run(self):
        """Returns the results, the text printed and the time of the start."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="rvmm-test.", dir=emulated_host.IMAGES) as folder:
            disk = None
            if self.get("disk"):
                base = os.path.join(emulated_host.IMAGES, self.get("disk") + ".img")
                if not os.path.exists(base):
                    results = ktap.Results()
                    results.skipped.append(f"{self.name}: no image {self.get('disk')}; run 'make lab-debian'")
                    return results, "", began
                disk = os.path.join(folder, "disk.img")
                subprocess.run(["cp", "--sparse=always", "--reflink=auto", base, disk], check=True)
            command, limit = self.command(disk)
            code, text = run_logged(f"system {self.name}", command, limit)
            results = ktap.Results()
            for line in text.splitlines():
                results.feed(line)
            if self.get("after") and not code:
                env = {**os.environ, "DISK": disk}
                code, more = run_logged(f"system {self.name} after",
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


def ring_emulated(ring):
    def run(total, args):
        names = sorted(n[:-3] for n in os.listdir(SYSTEM) if n.endswith(".sh") and n != "lib.sh")
        tests = [SystemTest(n) for n in names if not args.only or n in args.only.split(",")]
        tests = [t for t in tests if t.get("ring") == ring and not t.name.endswith(".after")]
        for shape in {t.shape().name(): t.shape() for t in tests}.values():
            emulated_host.state_for(shape, lambda text: say(f"# {text}"))
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            futures = {pool.submit(t.run): t for t in tests}
            for done in concurrent.futures.as_completed(futures):
                results, text, began = done.result()
                total.add(report(f"{ring}: {futures[done].name}", results, began, text))
    return run


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


RINGS = {"run": ring_run, "check": ring_check, "host": ring_host, "guest": ring_emulated("guest"),
         "system": ring_emulated("system"), "full": ring_emulated("full")}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--jobs", type=int, default=max(1, min(4, (os.cpu_count() or 1) // 1)))
    p.add_argument("--only", help="names of system tests, comma separated")
    p.add_argument("rings", nargs="+", choices=RINGS)
    args = p.parse_args()
    os.makedirs(LOGS, exist_ok=True)
    total, began = ktap.Results(), time.monotonic()
    for ring in args.rings:
        try:
            RINGS[ring](total, args)
        except emulated_host.HostError as error:
            total.failed.append(f"{ring}: {error}")
            say(f"not ok {ring} # {error}")
    say(f"# {time.monotonic() - began:.0f} s; logs are in build/log")
    summary = f"{len(total.passed)} passed, {len(total.failed)} failed, {len(total.skipped)} skipped"
    with open(os.path.join(TOP, "build", "summary"), "w") as f:
        f.write(summary + "\n")
    say(summary)
    sys.exit(1 if total.failed or not total.count() else 0)


if __name__ == "__main__":
    main()
