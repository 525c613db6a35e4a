# SPDX-License-Identifier: GPL-2.0

"""KVM's own selftests by where they ran: what a run printed, what became of each test, and docs/conformance.md.

The page is where the results are kept: a run of some tests reads it, changes their cells and writes it again.
"""

import os
import re
from typing import NamedTuple

import ktap

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LIST = os.path.join(TOP, "tests", "system", "conformance.list")
PAGE = os.path.join(TOP, "docs", "conformance.md")
# Where a test runs: the node and the host. The order is that of the columns.
PLACES = (("kvm", "amd"), ("rvmm", "amd"), ("kvm", "intel"), ("rvmm", "intel"))
TITLES = {("kvm", "amd"): "KVM, AMD", ("rvmm", "amd"): "rvmm, AMD",
          ("kvm", "intel"): "KVM, Intel", ("rvmm", "intel"): "rvmm, Intel"}
VERDICTS = ("pass", "skip", "fail", "out of time")
# Why the tests with another word than quick and slow in the list are run by nobody.
LEFT_OUT = {
    "nested": "nested virtualization, which rvmm does not have yet: its guests see neither SVM nor VMX",
    "xen": "Xen's hypercalls, which rvmm does not have",
    "sev": "AMD's encrypted guests, which no processor here has and rvmm does not",
    "guest_memfd": "memory of guests that user space has not mapped (KVM_CREATE_GUEST_MEMFD), which rvmm does not have",
    "time": "it takes more than ten minutes on an emulated processor, on KVM too",
    "parameters": "it is a part of a script that turns parameters of KVM's modules on and off",
}
SKIPPED, KILLED = 4, 128 + 9
LONGEST_REASON = 140

INTRODUCTION = """<!-- SPDX-License-Identifier: GPL-2.0 -->
# KVM's own selftests

The kernel's source has tests of KVM, `tools/testing/selftests/kvm`. `make conformance` builds them from the source of
the stock kernel, runs each on stock KVM and on rvmm (`insmod rvmm.ko kvm_node=1`) in the same emulated host, and writes
this page. Nothing in it is written by hand.

What KVM does not pass on an emulated processor says nothing about rvmm: the emulator lacks what the test needs, or is
too slow for it. What counts is a row that KVM passes and rvmm does not.

Each test runs in a root of its own. Where rvmm is in KVM's place, `/sys/module` of that root holds what the tests read
of KVM's parameters, since without them each skips itself: `force_emulation_prefix=0`, `enable_pmu=N`,
`eager_page_split=N`, `tdp_mmu=Y`, `npt=Y` or `ept=Y`, and the like. Nothing else is made up; the programs are as the
kernel's makefile builds them.

`scripts/conformance TEST…` runs some of the tests and changes their cells here; `make test` fails where a test that
is not slow passes in the column for rvmm on AMD and does no longer. The list of the tests, with their arguments, is
`tests/system/conformance.list`.
"""


class Test(NamedTuple):
    """A line of the list."""

    kind: str
    name: str
    args: str

    def is_run(self):
        return self.kind not in LEFT_OUT


class Result(NamedTuple):
    """What became of a test, and why."""

    verdict: str
    reason: str = ""


def read_list(path=LIST):
    """Returns the tests of the list by name."""
    tests = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            words = line.split(maxsplit=2)
            if words and not line.startswith("#"):
                tests[words[1]] = Test(words[0], words[1], words[2].strip() if len(words) > 2 else "")
    return tests


def one_line(text):
    """A reason that fits into a table."""
    text = re.sub(r"\s+", " ", text.replace("|", "/").replace("`", "'")).strip()
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON - 1] + "…"


def reason_of(verdict, said):
    """Finds in a test's last lines why it did not pass."""
    if verdict == "skip":
        found = [m.group(1) for line in said if (m := re.search(r"#? ?SKIP:?[\s-]*(.*)$", line))]
        return one_line(re.sub(r"^Requirement not met: ", "", found[-1] if found else ""))
    for number, line in enumerate(said):
        if "Test Assertion Failure" in line:
            where = re.match(r"\s*(\S+:\d+): (.*)", said[number + 1]) if number + 1 < len(said) else None
            message = [l.strip() for l in said[number + 2:] if re.match(r"  \S", l) and not re.match(r"  pid=", l)]
            text = message[-1] if message else where.group(2) if where else ""
            return one_line(f"{os.path.basename(where.group(1))}: {text}" if where else text)
    lines = [l.strip() for l in said if re.search(r"not ok|rror|ailed|nhandled|xpected|# .*\.c:\d+", l)]
    return one_line(lines[0] if lines else said[-1] if said else "")


def results_of(text):
    """Yields the name and the result of each test in what conformance-run printed, and of the last that did not end
    the name and None."""
    logs, owner = {}, None
    for line in text.splitlines():
        if not line.startswith("# kernel: "):
            continue
        if found := re.search(r"\bselftest (\S+)$", line):
            owner = found.group(1)
        elif owner:
            logs.setdefault(owner, []).append(line[len("# kernel: "):])
    current, said = None, []
    for line in text.splitlines():
        # The first of the two may have been torn apart by what came in the kernel's log.
        if found := re.match(r"# selftest (\S+) begins$|# kernel: .*\bselftest (\S+)$", line):
            current = found.group(1) or found.group(2)
            said = [] if found.group(1) else said
        elif found := re.match(r"# selftest (\S+) ended (\d+) (\d+)$", line):
            current = found.group(1)
            yield current, judged(int(found.group(2)), said, logs.get(current, []))
            current, said = None, []
        elif line.startswith("#   "):
            said.append(line[len("#   "):])
    if current:
        yield current, None


def judged(code, said, log):
    """The result of a test by its exit code, its last lines and the kernel's log while it ran."""
    if trouble := ktap.trouble_in(log):
        return Result("fail", one_line("the host's log: " + re.sub(r"^\[ *[\d.]+\] ", "", trouble[0])))
    if code == 0:
        return Result("pass")
    if code == KILLED:
        return Result("out of time")
    verdict = "skip" if code == SKIPPED else "fail"
    return Result(verdict, reason_of(verdict, said))


def read_page(text):
    """Returns the results in a page, by place and name."""
    results = {place: {} for place in PLACES}
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if re.match(r"\| `", line) and len(cells) == 1 + len(PLACES):
            for place, cell in zip(PLACES, cells[1:]):
                if cell in VERDICTS:
                    results[place][cells[0].strip("`")] = Result(cell)
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if re.match(r"\| `", line) and len(cells) == 3:
            place = {title: place for place, title in TITLES.items()}.get(cells[1])
            if place and (old := results[place].get(cells[0].strip("`"))):
                results[place][cells[0].strip("`")] = Result(old.verdict, cells[2])
    return results


def gaps(results, host):
    """The tests that KVM passes on a host and rvmm does not."""
    kvm, rvmm = results["kvm", host], results["rvmm", host]
    return sorted(n for n, r in kvm.items() if r.verdict == "pass" and n in rvmm and rvmm[n].verdict != "pass")


def page(tests, results, versions):
    """The text of docs/conformance.md."""
    run = [t.name for t in tests.values() if t.is_run()]
    lines = [INTRODUCTION, versions, "", "## Summary", "", table_row("", *TITLES.values()), rule(1 + len(PLACES))]
    for verdict in VERDICTS:
        lines.append(table_row(verdict, *(str(sum(results[p][n].verdict == verdict for n in run if n in results[p]))
                                          for p in PLACES)))
    for host, title in (("amd", "AMD"), ("intel", "Intel")):
        found = gaps(results, host)
        both = sum(n in results["rvmm", host] for n in results["kvm", host])
        lines += ["", f"On {title}, of {both} that ran on both, {len(found)} pass on KVM and not on rvmm" +
                  (": " + ", ".join(f"`{n}`" for n in found) if found else "") + "."]
    lines += ["", "## Test by test", "", table_row("test", *TITLES.values()), rule(1 + len(PLACES))]
    for name in run:
        lines.append(table_row(f"`{name}`", *(results[p][name].verdict if name in results[p] else "-" for p in PLACES)))
    lines += ["", "## Why not", "", table_row("test", "where", "what it says"), rule(3)]
    for name in run:
        for place in PLACES:
            if (result := results[place].get(name)) and result.reason:
                lines.append(table_row(f"`{name}`", TITLES[place], result.reason))
    lines += ["", "## Left out", ""]
    for kind, why in LEFT_OUT.items():
        names = ", ".join(f"`{t.name}`" for t in tests.values() if t.kind == kind)
        lines += [f"- {why}: {names}."]
    return "\n".join(lines) + "\n"


def table_row(*cells):
    return "| " + " | ".join(cells) + " |"


def rule(count):
    return "|" + "---|" * count
