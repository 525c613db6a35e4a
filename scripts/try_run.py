#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Tries what `make run` starts, on a terminal of its own: waits for the guest's login prompt, logs in,
uses the disk, powers the guest off, and sees the terminal as it was before.

Prints KTAP. The terminal's text goes to build/log/make-run.terminal.
"""
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STEPS = (
    ("the guest gives a login prompt", 400, rb"login: ", b"root\n"),
    ("root logs in", 100, rb"# ", b"echo $((6 * 7)) >/mnt/answer && sync && cat /mnt/answer\n"),
    ("the disk takes a file", 60, rb"\n42\r?\n", b"poweroff\n"),
    ("the guest powers off", 100, rb"[Pp]ower down", b""),
)


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, command, log):
        self.ours, theirs = pty.openpty()
        self.before = termios.tcgetattr(theirs)
        self.theirs, self.log, self.seen = theirs, log, b""
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs,
                                        start_new_session=True, cwd=TOP)

    def wait_for(self, pattern, seconds):
        """Waits for text after what earlier calls found; returns whether it came."""
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, self.seen)):
            readable, _, _ = select.select([self.ours], [], [], max(0, min(1, end - time.monotonic())))
            if readable:
                data = os.read(self.ours, 65536)
                self.log.write(data)
                self.seen += data
            elif time.monotonic() >= end or self.process.poll() is not None:
                return False
        self.seen = self.seen[match.end():]
        return True

    def send(self, data):
        os.write(self.ours, data)

    def end(self, seconds):
        """Returns the exit code; ends the program by force after `seconds`."""
        stop = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < stop:
            self.wait_for(rb"(?!)", 1)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()


def main():
    results = []
    os.makedirs(os.path.join(TOP, "build", "log"), exist_ok=True)
    with open(os.path.join(TOP, "build", "log", "make-run.terminal"), "wb") as log:
        terminal = Terminal([os.path.join(TOP, "scripts", "run-guest")], log)
        for name, seconds, pattern, answer in STEPS:
            results.append((terminal.wait_for(pattern, seconds), name))
            if not results[-1][0]:
                break
            terminal.send(answer)
        code = terminal.end(60)
        results.append((code == 0, f"make run ends with 0 (it was {code})"))
        results.append((termios.tcgetattr(terminal.theirs) == terminal.before, "the terminal is as it was"))
    print(f"1..{len(results)}")
    for number, (good, name) in enumerate(results, 1):
        print(f"{'ok' if good else 'not ok'} {number} make-run: {name}")
    sys.exit(0 if all(good for good, _ in results) else 1)


if __name__ == "__main__":
    main()
