# SPDX-License-Identifier: GPL-2.0

"""The rules of the source tree, as data, and what breaks them.

Each rule gives lines "RULE SUBJECT". Those that the tree does not keep yet are in
scripts/tree-exceptions.txt, which only shrinks: scripts/tests/test_tree.py fails for a line that is
missing there, and for one that is no longer needed. Run as a program it prints what breaks the
rules; with --update it rewrites the list, where no rule then has more lines than before, so after
an exception went or a file moved.
"""

import collections
import os
import re
import sys
from typing import NamedTuple

import rust_tree
import sources

LIST = os.path.join(sources.TOP, "scripts", "tree-exceptions.txt")
ROOT = "rvmm.rs"


class Imports(NamedTuple):
    """Files that match `who` import only files that match one of `only`, and none of `never`."""

    rule: int
    who: str
    only: str = ".*"
    never: str = "(?!)"


# Patterns of whole paths. A folder may import itself where `only` names it.
LAYERS = [
    Imports(1, r"abi/.*", only=r"abi/.*"),
    Imports(1, r"arch/.*", only=r"arch/.*"),
    Imports(1, r"mmu/.*", only=r"(mmu|arch|abi)/.*"),
    Imports(1, r"chipset/.*", only=r"(chipset|arch|abi)/.*"),
    Imports(1, r"virtio/.*", only=r"(virtio|arch)/.*|mmu/mem\.rs|chipset/saved\.rs|chipset/pci(\.rs|/.*)"),
    Imports(2, r"host/.*", only=r"(host|arch|mmu)/.*"),
    Imports(3, r"machine/.*", never=r"(vcpu|kvm|svm|vmx)/.*"),
    Imports(4, r"vcpu/.*", never=r"(kvm|svm|vmx)/.*"),
    Imports(5, r"svm/.*", only=r"(svm|host|arch|abi)/.*|vcpu/(backend|exit|state|controls|event)\.rs|mmu/(format|asid)\.rs"),
    Imports(5, r"vmx/.*", only=r"(vmx|host|arch|abi)/.*|vcpu/(backend|exit|state|controls|event)\.rs|mmu/(format|asid)\.rs"),
    # The chips whose state KVM's own ioctls carry are no devices here.
    Imports(6, r"kvm/.*", never=r"(virtio|machine/service|svm|vmx)/.*"
            r"|chipset/(bus|rtc|uart|i8042|pm|ring)\.rs|chipset/pci(\.rs|/.*)"),
]

# The floors of vcpu/, the lowest first. A file imports its own floor and those below. Values are
# also the rules of one thing each, made of numbers: what they decide, somebody above carries out.
FLOORS = [
    ("values", r"backend|exit|state|controls|outcome|event|io|debugger|cpuid|msr_table|mce|pvclock|poll|progress|record"
               r"|timer_advance|code_cache|pv|steal|vapic|hyperv(/.*)?|emulate(/.*)?"),
    ("core", r"core|vm|requests|context|paging|second_level(/.*)?|inject|guest_debug|synic|nested"),
    ("access", r"access(/.*)?"),
    ("emul", r"emul(/.*)?"),
    ("handle", r"handle(/.*)?"),
    ("fast_path", r"fast_path"),
    ("run", r"run"),
]

# Not in reach of cargo: what only a processor can run.
NOT_UNDER_CARGO = re.compile(r"host/.*|(svm|vmx)/(asm|region)\.rs|rvmm\.rs")
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_ROOT = 800, 80, 150


def in_layers(tree, layers=None):
    """Rules 1 to 6: who imports whom."""
    for path, edges in tree.edges.items():
        for layer in LAYERS if layers is None else layers:
            if re.fullmatch(layer.who, path):
                for target in edges:
                    # The root is rule 9's.
                    if target != ROOT and (not re.fullmatch(layer.only, target) or re.fullmatch(layer.never, target)):
                        yield f"{layer.rule} {path} -> {target}"


def floor_of(path):
    """The floor of a file of vcpu/, or None where it has none; vcpu/mod.rs only names the others."""
    inside = re.fullmatch(r"vcpu/(.+?)(/mod)?\.rs", path)
    found = [n for n, (_, files) in enumerate(FLOORS) if inside and re.fullmatch(files, inside.group(1))]
    return found[0] if found else None


def in_floors(tree):
    """Rule 7: no arrow up inside vcpu, and no file without a floor."""
    for path, edges in tree.edges.items():
        if not path.startswith("vcpu/") or path == "vcpu/mod.rs":
            continue
        own = floor_of(path)
        if own is None:
            yield f"7 {path} is on no floor"
            continue
        for target in edges:
            theirs = floor_of(target)
            if theirs is not None and theirs > own:
                yield f"7 {path} -> {target}"


def in_circles(tree):
    """Rule 8: every file of a circle. The root is left out, as rule 9 has no file import it."""
    for circle in tree.circles(without={ROOT}):
        for path in circle:
            yield f"8 {path}"


def with_statics(tree):
    """Rule 9: only the root holds statics and knows the module's parameters."""
    for path, source in tree.sources.items():
        if path == tree.root:
            continue
        for name in source.statics():
            yield f"9 {path} holds {name}"
        for name, _ in sorted(tree.edges[path].get(tree.root, ()), key=str):
            yield f"9 {path} asks the root for {name}"
        if "module_parameters" in source.code:
            yield f"9 {path} reads a parameter"


def not_under_cargo(tree, compiled):
    """Rule 10: what does not reach host/ is among the files that cargo compiles."""
    for path in tree.sources:
        if NOT_UNDER_CARGO.fullmatch(path) or path in compiled or path.endswith("/mod.rs") and not any(
                tree.sources[path].functions()):
            continue
        if not any(p.startswith("host/") for p in tree.reached(path)):
            yield f"10 {path}"


def too_long(all_sources):
    """Rule 11: files and functions; the number is what they have, and what an exception lets them have."""
    for source in all_sources:
        most = LONGEST_ROOT if source.path == ROOT else LONGEST_FILE
        if source.length() > most:
            yield f"11 {source.path} = {source.length()}"
        for function in source.functions():
            if function.lines() > LONGEST_FUNCTION:
                yield f"11 {source.path} {function.name}() = {function.lines()}"


def abbreviations(glossary):
    """The abbreviations that a glossary explains, as types are named: a term in capitals, `MSI`, is Msi, and a row that
    has a type for its term, `gfn | … | `Gfn``, is that."""
    found = set()
    for row in re.findall(r"^\| (.*) \|$", glossary, re.M):
        first, *rest = row.split(" | ")
        for term in re.split(r", ", first):
            if re.fullmatch(r"[A-Z][A-Z0-9]*", term) or rest[-1:] == [f"`{term.capitalize()}`"]:
                found.add(term.capitalize())
    return found


def is_bare(name, written):
    """Whether a one-word type is named without the module that says which one it is."""
    *before, last = written.split("::")
    if before and before[-1] not in ("crate", "super", "self"):
        return False
    return last != "_" and len(rust_tree.humps(last)) == 1 and name is not None


def named_badly(tree, abbreviated=frozenset()):
    """Rule 12: one word that is no abbreviation, used bare in another file; and one name of several types."""
    types = [t for source in tree.sources.values() for t in source.types()]
    files = collections.defaultdict(set)
    for found in types:
        files[found.name].add(found.path)
        taken = (pair for edges in tree.edges.values() for pair in edges.get(found.path, ()))
        is_word = len(rust_tree.humps(found.name)) == 1 and found.name not in abbreviated
        if is_word and any(n == found.name and is_bare(n, a) for n, a in taken):
            yield f"12 {found.path} {found.name} is one word"
    for name, paths in files.items():
        if len(paths) > 1:
            yield from (f"12 {path} {name} is a name of several types" for path in paths)


def glossary():
    with open(os.path.join(sources.TOP, "docs", "glossary.md"), encoding="utf-8") as f:
        return f.read()


def broken():
    """All that breaks the rules in the checkout, sorted."""
    module, tool = rust_tree.module(), rust_tree.tool()
    compiled = set(rust_tree.host_tests().sources)
    found = [*in_layers(module), *in_floors(module), *in_circles(module), *in_circles(tool), *with_statics(module),
             *not_under_cargo(module, compiled), *too_long(map(rust_tree.Source.on_disk, sources.files(".rs"))),
             *named_badly(module, abbreviations(glossary()))]
    return sorted(set(found), key=by_rule)


def by_rule(line):
    rule, _, subject = line.partition(" ")
    return int(rule), subject


def subject(line):
    """A line without the number that it may grow to."""
    return line.partition(" = ")[0]


def size(line):
    return int(line.partition(" = ")[2] or 0)


def listed():
    with open(LIST, encoding="utf-8") as f:
        return [line.partition("  # ")[0].strip() for line in f if line.strip() and not line.startswith("#")]


def compare(found, exceptions):
    """Returns what is new or has grown, and the exceptions that nothing needs any more."""
    have, allowed = ({subject(line): size(line) for line in lines} for lines in (found, exceptions))
    new = [line for line in found if size(line) > allowed.get(subject(line), -1)]
    return new, [line for line in exceptions if subject(line) not in have]


def update():
    """Rewrites the list with what breaks the rules now. Returns what forbids that."""
    with open(LIST, encoding="utf-8") as f:
        old = f.read().splitlines()
    reasons = dict(line.split("  # ") for line in old if "  # " in line and not line.startswith("#"))
    found, sizes = broken(), {subject(line): size(line) for line in listed()}
    now, before = (collections.Counter(by_rule(line)[0] for line in lines) for lines in (found, listed()))
    more = [f"{line} was {s}" for line in found for s in [sizes.get(subject(line))] if s is not None and size(line) > s]
    more += [f"rule {rule} would have {now[rule]} exceptions, before it had {before[rule]}"
            for rule in sorted(now) if now[rule] > before[rule]]
    if not more:
        head = [line for line in old if line.startswith("#")]
        with open(LIST, "w", encoding="utf-8") as f:
            f.writelines(line + "\n" for line in head)
            f.writelines(line + (f"  # {reasons[line]}" if line in reasons else "") + "\n" for line in found)
    return more


def main():
    if "--help" in sys.argv or "-h" in sys.argv:
        print(__doc__)
        return
    lines = update() if "--update" in sys.argv else broken()
    print("\n".join(lines))
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
