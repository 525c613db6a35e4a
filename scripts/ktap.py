# SPDX-License-Identifier: GPL-2.0

"""Reads KTAP from test output and kernel logs for signs of trouble.

The parser takes lines as they come from a console: other output between the
results is allowed, and lines may end in CR LF. A kernel log is trouble when it
holds a line that a healthy kernel does not print.
"""

import re

RESULT = re.compile(r"^\s*(not ok|ok)\b\s*(\d+)?\s*-?\s*(.*)$")
SKIP = re.compile(r"#\s*SKIP\b\s*(.*)$", re.IGNORECASE)
TODO = re.compile(r"#\s*(TODO|XFAIL)\b", re.IGNORECASE)
PLAN = re.compile(r"^\s*1\.\.(\d+)")
TROUBLE = re.compile(
    r"BUG:|kernel BUG at|\bBUG\b.*\bat\b|WARNING:|\bOops\b|Kernel panic|Call Trace:"
    r"|general protection fault|unable to handle|rcu:? .*(stall|detected)|soft lockup"
    r"|hung_task|blocked for more than|\bUBSAN\b|\bKASAN\b|leaked|segfault at"
    r"|allocation failure|invoked oom-killer|\bBUG \S+ \(|unreferenced object|non-static key"
    r"|(lockdep|kmemleak|ODEBUG)\b.* (off|disabled)"
)

# Within how many lines behind what it is about a trace begins: registers stand between.
TRACE_BEHIND = 30


class Results:
    """The results of one test program: counts and the lines that count."""

    def __init__(self):
        self.passed, self.failed, self.skipped = [], [], []
        self.planned = None

    def feed(self, line):
        """Takes one line of output; returns True when it was a result or plan."""
        line = line.rstrip("\r\n")
        plan = PLAN.match(line)
        if plan:
            self.planned = int(plan.group(1))
            return True
        match = RESULT.match(line)
        if not match or (match.group(2) is None and not match.group(3)):
            return False
        name = match.group(3)
        skip = SKIP.search(name)
        if skip:
            self.skipped.append(name)
        elif match.group(1) == "ok" or TODO.search(name):
            self.passed.append(name)
        else:
            self.failed.append(name)
        return True

    def count(self):
        return len(self.passed) + len(self.failed) + len(self.skipped)

    def missing(self):
        """Results that the plan announced and nobody printed."""
        return max(0, (self.planned or 0) - self.count())

    def exit_code(self):
        """kselftest's: 0 passed, 1 failed, 4 all skipped."""
        if self.failed or self.missing():
            return 1
        return 4 if self.skipped and not self.passed else 0

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped


def trouble_in(lines, allowed=()):
    """Returns the log lines that a healthy kernel does not print.

    `allowed` holds regular expressions of lines that a test expects; the trace that stands close behind such a line is
    expected with it.
    """
    allow = [re.compile(a) for a in allowed]
    trouble, trace_of = [], -TRACE_BEHIND - 1
    for number, line in enumerate(lines):
        if any(a.search(line) for a in allow):
            trace_of = number
        elif "Call Trace:" in line and number - trace_of <= TRACE_BEHIND:
            trace_of = -TRACE_BEHIND - 1
        elif TROUBLE.search(line):
            trouble.append(line.rstrip())
    return trouble


def around(lines, line, before=6, after=16):
    """Returns the log around the first such line: what a trace belongs to stands above it."""
    kept = [l.rstrip() for l in lines]
    at = kept.index(line)
    return kept[max(0, at - before):at + after]
