# SPDX-License-Identifier: GPL-2.0

"""How the share of the module's lines that host tests enter is counted and judged."""

import os
import sys
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "scripts"))

import coverage  # noqa: E402
import rust_tree  # noqa: E402

FUNCTION = "fn f() {\n    // Why.\n\n    g();\n}\n"
FILES = {
    "rvmm.rs": "mod a;\nmod host;\nmod svm;\n",
    "a/mod.rs": "mod x;\nmod y;\nmod z;\n",
    "a/x.rs": FUNCTION,
    "a/y.rs": FUNCTION,
    "a/z.rs": "struct Z;\n",
    "host/mod.rs": FUNCTION,
    "svm/mod.rs": "mod asm;\nmod exit;\n",
    "svm/asm.rs": FUNCTION,
    "svm/exit.rs": FUNCTION * 2,
}
PRINTED = """   Compiling a v0.1.0
     Running unittests src/lib.rs (/lab/target/1/debug/deps/a-0f)
test t::x ... ok
     Running unittests src/lib.rs (/lab/target/1/debug/deps/b-1e)
   Doc-tests a
"""


class Share(unittest.TestCase):
    def setUp(self):
        tree = rust_tree.Tree("rvmm.rs", FILES.get)
        self.rows = coverage.by_folder(tree, {"a/x.rs", "a/z.rs"}, {"a/x.rs": (5, 4), "tests/host/src/lib.rs": (9, 9)})

    def test_a_file_that_cargo_does_not_compile_is_not_entered(self):
        self.assertEqual(self.rows["a"], (5 + 3, 4))

    def test_what_needs_a_processor_is_left_aside(self):
        self.assertNotIn("host", self.rows)
        self.assertEqual(self.rows["svm"], (6, 0))

    def test_the_whole_is_the_sum_of_its_folders(self):
        self.assertEqual(self.rows["all"], (14, 4))

    def test_below_the_floor_is_wrong(self):
        wrong, hint = coverage.verdict(self.rows, 30)
        self.assertIn("28.6 %", wrong)
        self.assertIsNone(hint)

    def test_at_the_floor_is_not_and_far_above_it_asks_for_more(self):
        self.assertEqual(coverage.verdict(self.rows, 28), (None, None))
        self.assertIn("28", coverage.verdict(self.rows, 27)[1])

    def test_the_floor_is_a_share(self):
        self.assertTrue(0 < coverage.floor() <= 100)


class Cargo(unittest.TestCase):
    def test_the_programs_are_those_that_cargo_ran(self):
        self.assertEqual(coverage.PROGRAM.findall(PRINTED), ["/lab/target/1/debug/deps/a-0f", "/lab/target/1/debug/deps/b-1e"])

    def test_paths_are_those_of_the_checkout(self):
        lines = {"lines": {"count": 3, "covered": 2}}
        found = coverage.summary({"data": [{"files": [{"filename": "src/../../../arch/cr.rs", "summary": lines}]}]},
                                 os.path.join(TOP, "tests", "host"))
        self.assertEqual(found, {"arch/cr.rs": (3, 2)})


if __name__ == "__main__":
    unittest.main()
