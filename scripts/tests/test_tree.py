# SPDX-License-Identifier: GPL-2.0

"""The rules of the source tree: who imports whom, how long files are, how types are named, and what the architecture
promises about the backends. scripts/tree_rules.py has the rules; small made-up trees show here that each can fail."""

import glob
import os
import re
import sys
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "scripts"))

import rust_tree  # noqa: E402
import tree_rules  # noqa: E402


def read(path):
    with open(os.path.join(TOP, path), encoding="utf-8") as f:
        return f.read()


def code(text):
    """Rust without its comments and its strings."""
    return re.sub(r'"(\\.|[^"\\])*"|//[^\n]*', "", text)


def tree(**files):
    """A crate of some files: `vcpu__run="use …"` is vcpu/run.rs. Folders and the root are made up as needed."""
    texts = {name.replace("__", "/") + ".rs": text for name, text in files.items()}
    folders = {os.path.dirname(path) for path in texts} - {""}
    for folder in folders:
        names = sorted(os.path.basename(p)[:-3] for p in texts if os.path.dirname(p) == folder and "mod.rs" not in p)
        names += sorted(os.path.basename(f) for f in folders if os.path.dirname(f) == folder)
        texts[f"{folder}/mod.rs"] = texts.get(f"{folder}/mod.rs", "") + "".join(f"pub(crate) mod {n};\n" for n in names)
    own = "".join(f"pub(crate) mod {f};\n" for f in sorted(folders) if "/" not in f)
    texts["rvmm.rs"] = own + texts.get("rvmm.rs", "")
    return rust_tree.Tree("rvmm.rs", texts.get)


class TheTree(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.new, cls.stale = tree_rules.compare(tree_rules.broken(), tree_rules.listed())

    def test_it_keeps_the_rules(self):
        self.assertEqual(self.new, [], "see scripts/tree_rules.py for what these rules ask")

    def test_no_exception_is_left_that_nothing_needs(self):
        self.assertEqual(self.stale, [], "take them out: python3 scripts/tree_rules.py --update")

    def test_all_files_of_the_module_are_read(self):
        found = {os.path.relpath(p, TOP) for f in ("abi", "arch", "chipset", "host", "kvm", "machine", "mmu", "svm", "vcpu", "virtio", "vmx")
                 for p in glob.glob(os.path.join(TOP, f, "**", "*.rs"), recursive=True)}
        self.assertEqual(found - set(rust_tree.module().sources), set())
        self.assertGreater(len(found), 150)


class Reading(unittest.TestCase):
    def test_every_way_to_name_a_file_is_an_import(self):
        for text in ("use crate::b::x::Thing;", "use crate::{b::{x::{Thing, Other}}};", "use crate::b::x;",
                     "fn f() { crate::b::x::g() }", "use crate::b; fn f() { b::x::g() }",
                     "use super::b::x::Thing as Other;", "use crate::b::x::{self as y};"):
            self.assertIn("b/x.rs", tree(a__y=text.replace("super", "super::super"), b__x="").edges["a/y.rs"], text)

    def test_comments_strings_and_foreign_crates_are_not(self):
        for text in ("// use crate::b::x;", "/// [`crate::b::x::T`]\nfn f() {}", 'const A: &str = "crate::b::x";',
                     "use kernel::b::x;", "pub(in crate::b::x) fn f() {}"):
            self.assertEqual(tree(a__y=text, b__x="").edges["a/y.rs"], {}, text)

    def test_a_name_shown_again_leads_to_the_file_that_has_it(self):
        made = tree(a__y="use crate::b::Thing;", b__mod="pub(crate) use x::Thing;\n", b__x="pub(crate) struct Thing;")
        self.assertEqual(list(made.edges["a/y.rs"]), ["b/x.rs"])
        self.assertEqual(made.edges["b/mod.rs"], {})

    def test_functions_have_the_lines_of_their_bodies(self):
        source = rust_tree.Source("a.rs", "fn a(x: [u8; 2]) {\n    if x { \"}\" }\n}\nfn b();\ntrait T { fn c(); }\n")
        self.assertEqual([(f.name, f.lines()) for f in source.functions()], [("a", 3)])

    def test_types_are_those_of_modules(self):
        text = "struct A;\nimpl T for A {\n    type B = u8;\n}\nmacro! {\n    struct C: u8 {}\n}\nmod m {\n    type D = u8;\n}\ntype E = u8;\n"
        self.assertEqual([t.name for t in tree(a=text, **{"rvmm": "mod a;"}).sources["a.rs"].types()], ["A", "C", "D", "E"])


class Rules(unittest.TestCase):
    def test_1_the_ground_floors_import_nothing_above(self):
        made = tree(abi__vm="use crate::arch::cr;", arch__cr="use crate::abi::vm;", mmu__a="use crate::chipset::pic;",
                    chipset__pic="use crate::mmu::a;", virtio__blk="use crate::chipset::pic; use crate::mmu::mem; use crate::chipset::pci;",
                    mmu__mem="use crate::arch::cr;", chipset__pci="")
        self.assertEqual(sorted(tree_rules.in_layers(made)), [
            "1 abi/vm.rs -> arch/cr.rs", "1 arch/cr.rs -> abi/vm.rs", "1 chipset/pic.rs -> mmu/a.rs",
            "1 mmu/a.rs -> chipset/pic.rs", "1 virtio/blk.rs -> chipset/pic.rs"])

    def test_2_to_6_who_imports_whom(self):
        made = tree(host__file="use crate::virtio::blk; use crate::mmu::mem;", virtio__blk="", mmu__mem="", mmu__table="",
                    machine__ram="use crate::vcpu::run; use crate::host::file;", vcpu__run="use crate::svm::exit;",
                    svm__exit="use crate::vcpu::run; use crate::vcpu::exit; use crate::mmu::table;", vcpu__exit="",
                    machine__devices="", machine__service__blk="",
                    kvm__device="use crate::machine::devices; use crate::machine::service::blk; use crate::virtio::blk as b;")
        self.assertEqual(sorted(tree_rules.in_layers(made)), [
            "2 host/file.rs -> virtio/blk.rs", "3 machine/ram.rs -> vcpu/run.rs", "4 vcpu/run.rs -> svm/exit.rs",
            "5 svm/exit.rs -> mmu/table.rs", "5 svm/exit.rs -> vcpu/run.rs",
            "6 kvm/device.rs -> machine/service/blk.rs", "6 kvm/device.rs -> virtio/blk.rs"])

    def test_7_no_arrow_up_inside_vcpu(self):
        made = tree(vcpu__run="use crate::vcpu::handle::msr; use super::state;", vcpu__handle__msr="use crate::vcpu::core;",
                    vcpu__core="use crate::vcpu::handle::msr;", vcpu__state="use super::run;", vcpu__bench="use super::run;")
        self.assertEqual(sorted(tree_rules.in_floors(made)), [
            "7 vcpu/bench.rs is on no floor", "7 vcpu/core.rs -> vcpu/handle/msr.rs", "7 vcpu/state.rs -> vcpu/run.rs"])

    def test_8_no_circle(self):
        made = tree(a__x="use crate::a::y;", a__y="use crate::b::z;", b__z="use crate::a::x;", b__w="use crate::a::x;")
        self.assertEqual(sorted(tree_rules.in_circles(made)), ["8 a/x.rs", "8 a/y.rs", "8 b/z.rs"])

    def test_9_only_the_root_has_statics_and_parameters(self):
        made = tree(rvmm="static R: u8 = 0;\nfn poll() -> u32 { module_parameters::poll.value() }\n",
                    a__x="pub(crate) static S: u8 = 0;", a__y="fn f() { crate::poll() }", a__z="use crate::module_parameters;")
        self.assertEqual(sorted(tree_rules.with_statics(made)), [
            "9 a/x.rs holds S", "9 a/y.rs asks the root for poll", "9 a/z.rs asks the root for module_parameters",
            "9 a/z.rs reads a parameter"])

    def test_10_what_does_not_reach_the_host_is_compiled_by_cargo(self):
        made = tree(host__file="", vcpu__run="use crate::vcpu::disk;", vcpu__disk="use crate::host::file;", vcpu__exit="",
                    vcpu__state="")
        self.assertEqual(list(tree_rules.not_under_cargo(made, {"vcpu/state.rs"})), ["10 vcpu/exit.rs"])

    def test_11_files_and_functions_end(self):
        long = "fn f() {\n" + "    g();\n" * 79 + "}\n"
        found = [rust_tree.Source(path, long + "\n" * more) for path, more in
                 (("a.rs", 0), ("b.rs", 719), ("c.rs", 720), ("rvmm.rs", 70))]
        self.assertEqual([line for line in tree_rules.too_long(found) if "f()" not in line],
                         ["11 c.rs = 801", "11 rvmm.rs = 151"])
        self.assertIn("11 a.rs f() = 81", list(tree_rules.too_long(found)))
        self.assertEqual(list(tree_rules.too_long([rust_tree.Source("a.rs", long.replace("    g();\n", "", 1))])), [])

    def test_12_one_word_is_used_qualified(self):
        made = tree(a__pit="pub(crate) struct Channel; struct Inner; pub(crate) struct Mode; pub(crate) struct PitState;",
                    a__x="use super::pit; fn f(c: pit::Channel) {}", a__y="use super::pit::{Channel, PitState};",
                    b__z="use crate::a::pit::Mode as PitMode; fn f(c: crate::a::pit::Mode) {}")
        self.assertEqual(list(tree_rules.named_badly(made)), ["12 a/pit.rs Channel is one word"])

    def test_12_an_abbreviation_that_the_glossary_explains_is_no_word(self):
        made = tree(a__x="pub(crate) struct Pit;\npub(crate) struct Gfn;\npub(crate) struct Line;\npub(crate) struct Rtc;\n",
                    b__y="use crate::a::x::{Gfn, Line, Pit, Rtc};")
        known = tree_rules.abbreviations("| PIT, i8254 | a timer |\n| gfn | a number | `Gfn` |\n| line | a wire |\n")
        self.assertEqual(known, {"Pit", "Gfn"})
        self.assertEqual(list(tree_rules.named_badly(made, known)), ["12 a/x.rs Line is one word", "12 a/x.rs Rtc is one word"])

    def test_12_a_name_is_of_one_type(self):
        made = tree(a__x="enum DiskPlace {}", b__y="struct DiskPlace;", b__z="impl T for u8 {\n    type DiskPlace = u8;\n}\n")
        self.assertEqual(sorted(tree_rules.named_badly(made)), [
            "12 a/x.rs DiskPlace is a name of several types", "12 b/y.rs DiskPlace is a name of several types"])


class Exceptions(unittest.TestCase):
    def test_what_is_listed_is_allowed_and_no_more(self):
        self.assertEqual(tree_rules.compare(["8 a.rs", "8 b.rs"], ["8 a.rs"]), (["8 b.rs"], []))

    def test_an_exception_that_nothing_needs_is_told(self):
        self.assertEqual(tree_rules.compare([], ["8 a.rs"]), ([], ["8 a.rs"]))

    def test_a_long_function_gets_no_longer(self):
        self.assertEqual(tree_rules.compare(["11 a.rs f() = 90"], ["11 a.rs f() = 95"]), ([], []))
        self.assertEqual(tree_rules.compare(["11 a.rs f() = 96"], ["11 a.rs f() = 95"]), (["11 a.rs f() = 96"], []))


class Backends(unittest.TestCase):
    def test_the_contract_has_at_most_20_methods(self):
        traits = re.findall(r"pub\(crate\) trait (\w+).*?\n}\n", read("vcpu/backend.rs"), re.S)
        self.assertEqual(traits, ["VendorBackend", "BackendVcpu"])
        bodies = "".join(re.findall(r"pub\(crate\) trait .*?\n}\n", read("vcpu/backend.rs"), re.S))
        self.assertLessEqual(len(re.findall(r"^    fn \w+", bodies, re.M)), 20)

    def test_both_backends_together_have_fewer_than_8000_lines(self):
        files = [f for v in ("vmx", "svm") for e in ("rs", "S") for f in glob.glob(os.path.join(TOP, v, f"*.{e}"))]
        self.assertGreater(len(files), 10)
        self.assertLess(sum(read(f).count("\n") for f in files), 8000)

    def test_nothing_but_the_root_names_a_backend(self):
        named = []
        for folder in ("abi", "arch", "chipset", "host", "kvm", "machine", "mmu", "vcpu", "virtio"):
            for path in glob.glob(os.path.join(TOP, folder, "**", "*.rs"), recursive=True):
                if re.search(r"\b(crate|super)::(vmx|svm)\b|\bis_(intel|amd|vmx|svm)\b", code(read(path))):
                    named.append(os.path.relpath(path, TOP))
        self.assertEqual(named, [])


def timers_dropped_late(text):
    """The structs of a file in which a timer is not the first field: what comes before it is dropped while it may fire."""
    found = []
    for name, body in re.findall(r"struct (\w+)[^{;()]*\{(.*?)\n\s*\}", code(text), re.S):
        fields = re.findall(r"^\s*(?:pub(?:\([^)]*\))?\s+)?(\w+): (\w+)", body, re.M)
        if "DeadlineTimer" in [kind for _, kind in fields[1:]]:
            found.append(name)
    return found


class Endings(unittest.TestCase):
    def test_a_timer_ends_before_what_it_looks_at(self):
        self.assertEqual(timers_dropped_late("struct Owner {\n    data: Vec<u8>,\n    timer: DeadlineTimer<Owner>,\n}"), ["Owner"])
        self.assertEqual(timers_dropped_late("struct Owner {\n    timer: DeadlineTimer<Owner>,\n    data: u8,\n}"), [])
        texts = rust_tree.module().sources
        self.assertEqual([f"{path} {name}" for path in texts for name in timers_dropped_late(read(path))], [])
        self.assertGreater(sum("DeadlineTimer<" in read(path) for path in texts), 2)

    def test_what_ends_something_is_made_only_where_it_is_wanted(self):
        # Many types of host/ have a destructor, and `c.then_some(x)` makes x whatever c is, and drops it.
        hasty = [path for path in rust_tree.module().sources if path.startswith("host/") and "then_some(" in code(read(path))]
        self.assertEqual(hasty, [])


if __name__ == "__main__":
    unittest.main()
