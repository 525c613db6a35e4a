# SPDX-License-Identifier: GPL-2.0

"""The figures of the source, on a small made-up tree whose figures are known."""

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "scripts"))

import rust_tree  # noqa: E402

PROGRAM = os.path.join(TOP, "scripts", "house-figures")


def load():
    loader = importlib.machinery.SourceFileLoader("house_figures", PROGRAM)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("house_figures", loader))
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


FIGURES = load()

FILES = {
    "rvmm.rs": "mod a;\nmod b;\n",
    "a/mod.rs": "pub(crate) mod x;\n",
    "a/x.rs": """use crate::b;
/// A chip.
#[derive(Clone)]
pub(crate) struct Chip;
pub(crate) struct PitChannel;

/// Does it.
fn short() {}

fn long() -> &'static str {
    // Why this comes first,
    // in two lines.
    let url = "http://example.org";
    // SAFETY: not one of them.
    g(); // And this is one.
    // So is this.
    url
}
""",
    "b.rs": "use crate::a::x;\nstruct Chip;\n",
}


class Figures(unittest.TestCase):
    def setUp(self):
        tree = rust_tree.Tree("rvmm.rs", FILES.get)
        self.rows = dict(FIGURES.table(tree, {"b.rs"}))

    def test_lines_and_functions(self):
        row = self.rows["a"]
        self.assertEqual((row.files, row.lines, row.longest, row.not_cargo), (2, 19, 18, 19))
        self.assertEqual((row.functions, row.median, row.most), (2, 9, 9))

    def test_names(self):
        self.assertEqual((self.rows["a"].one_word, self.rows["a"].twice), (0.5, 1))
        self.assertEqual((self.rows["all"].one_word, self.rows["all"].twice), (2 / 3, 1))

    def test_a_run_of_comments_is_one_and_proofs_are_none(self):
        self.assertEqual(self.rows["a"].why, 1000 * 3 / 19)

    def test_documented_items(self):
        self.assertEqual(self.rows["a"].docs, 0.5)

    def test_circles(self):
        self.assertEqual((self.rows["all"].circles, self.rows["a"].circles, self.rows["b.rs"].circles), (2, 1, 1))

    def test_the_whole_is_the_sum_of_its_folders(self):
        whole, parts = self.rows["all"], [row for name, row in self.rows.items() if name != "all"]
        self.assertEqual(sum(row.lines for row in parts), whole.lines)
        self.assertEqual(sum(row.files for row in parts), whole.files)

    def test_the_program_prints_a_row_for_each_folder_of_the_module(self):
        text = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, check=True).stdout
        self.assertLessEqual({"all", "abi", "host", "vcpu"}, {line.split()[0] for line in text.splitlines()})


if __name__ == "__main__":
    unittest.main()
