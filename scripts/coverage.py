# SPDX-License-Identifier: GPL-2.0

"""Which share of the module's lines the host tests enter, by folder and in all.

tests/host is compiled with rustc's counters, and llvm-cov of the same LLVM reads what they counted. It
reports the lines of functions in the files that cargo compiles. A file that cargo does not compile
counts too, as not entered: with those lines of its functions that hold code, which is what llvm-cov
counts in the others to 3 per cent. Not asked for is what only a processor and a kernel can run: host/,
and asm.rs and region.rs of the backends.

The share may not fall below scripts/coverage-floor, in per cent. Whoever makes it grow raises the floor.
"""

import collections
import glob
import json
import os
import re
import subprocess

import rust_tree
import sources

FLOOR = os.path.join(sources.TOP, "scripts", "coverage-floor")
WRAPPER = os.path.join(sources.TOP, "scripts", "rustc-coverage")
NOT_ASKED = re.compile(r"host/.*|(svm|vmx)/(asm|region)\.rs")
PROGRAM = re.compile(r"^\s*Running .*\((\S+)\)$", re.M)
TOOLS = ("llvm-profdata-19", "llvm-cov-19")


def environment(folder):
    """What cargo needs so that its programs write their counters into a folder."""
    for old in glob.glob(os.path.join(folder, "*.prof*")):
        os.remove(old)
    return {"RUSTC_WORKSPACE_WRAPPER": WRAPPER, "LLVM_PROFILE_FILE": os.path.join(folder, "%m.profraw")}


def read(folder, printed):
    """Returns what llvm-cov knows of the programs that cargo said it ran: path to (lines, entered)."""
    merged = os.path.join(folder, "all.profdata")
    subprocess.run([TOOLS[0], "merge", "-sparse", *glob.glob(os.path.join(folder, "*.profraw")), "-o", merged], check=True)
    first, *others = PROGRAM.findall(printed)
    text = subprocess.run([TOOLS[1], "export", "--summary-only", f"-instr-profile={merged}", first,
                           *(f"-object={o}" for o in others)], check=True, capture_output=True, text=True).stdout
    return summary(json.loads(text), os.path.join(sources.TOP, "tests", "host"))


def summary(exported, base):
    found = {}
    for file in exported["data"][0]["files"]:
        path = os.path.relpath(os.path.normpath(os.path.join(base, file["filename"])), sources.TOP)
        found[path] = (file["summary"]["lines"]["count"], file["summary"]["lines"]["covered"])
    return found


def code_lines(source):
    """The lines of a file's functions that hold code."""
    return sum(bool(source.code_lines[n - 1].strip()) for n in source.body_lines())


def by_folder(tree, compiled, found):
    """Maps each folder, and "all" first, to (lines, entered)."""
    rows = collections.defaultdict(lambda: (0, 0))
    rows["all"] = (0, 0)
    for path, source in sorted(tree.sources.items()):
        if NOT_ASKED.fullmatch(path):
            continue
        # What is compiled and not reported has no function.
        lines, entered = found.get(path) or (0 if path in compiled else code_lines(source), 0)
        for row in ("all", os.path.dirname(path).split("/")[0] or path):
            rows[row] = (rows[row][0] + lines, rows[row][1] + entered)
    return dict(rows)


def percent(row):
    return 100 * row[1] / row[0] if row[0] else 100.0


def table(rows):
    yield f"{'folder':10}{'lines':>8}{'entered':>9}{'share':>8}"
    for name, row in rows.items():
        yield f"{name:10}{row[0]:>8}{row[1]:>9}{percent(row):>7.1f}%"


def floor():
    with open(FLOOR, encoding="utf-8") as f:
        return float(f.read())


def verdict(rows, least):
    """Returns what is wrong, or None, and what to say beside the figures."""
    share = percent(rows["all"])
    if share < least:
        return f"the host tests enter {share:.1f} % of the module's lines, scripts/coverage-floor asks for {least:g} %", None
    return None, f"scripts/coverage-floor can be raised to {int(share)}" if share >= least + 1 else None


def measure(folder, printed):
    """Returns the table's lines, and what is wrong or None."""
    rows = by_folder(rust_tree.module(), set(rust_tree.host_tests().sources), read(folder, printed))
    wrong, hint = verdict(rows, floor())
    return [*table(rows), *([hint] if hint else [])], wrong
