# SPDX-License-Identifier: GPL-2.0

"""What is made of the output of KVM's own selftests, and the page that keeps it."""

import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import conformance_table as table
from conformance_table import Result

RUN = """# kernel: [    5.0] selftest a
# selftest a begins
#   1..0 # SKIP - Requirement not met: kvm_has_cap(KVM_CAP_X)
# selftest a ended 4 1
# kernel: [    6.0] selftest b
# selftest b begins
#   Random seed: 0x1
#   ==== Test Assertion Failure ====
#     x86/b.c:42: val == 1
#     pid=7 tid=7 errno=22 - Invalid argument
#        1\t(backtrace)
#     KVM_SET_X failed,
#     rc: -1 errno: 22
# selftest b ended 254 2
# selftest x86/c begins
# kernel: [    7.0] selftest x86/c
# selftest x86/c ended 0 3
# kernel: [    8.0] WARNING: CPU: 1 PID: 9 at rvmm
# selftest d begins
# selftest d ended 137 120
# selftest e begins
#   something
"""


class Output(unittest.TestCase):
    def setUp(self):
        self.results = dict(table.results_of(RUN))

    def test_a_skipped_test_says_what_it_asks_for(self):
        self.assertEqual(self.results["a"], Result("skip", "kvm_has_cap(KVM_CAP_X)"))

    def test_a_failed_one_says_where(self):
        self.assertEqual(self.results["b"], Result("fail", "b.c:42: rc: -1 errno: 22"))

    def test_trouble_in_the_hosts_log_is_a_failure_of_the_test_that_ran(self):
        self.assertEqual(self.results["x86/c"].verdict, "fail")
        self.assertIn("WARNING", self.results["x86/c"].reason)

    def test_a_test_that_was_killed_is_out_of_time(self):
        self.assertEqual(self.results["d"], Result("out of time"))

    def test_one_that_did_not_end_has_no_result(self):
        self.assertIsNone(self.results["e"])

    def test_no_reason_breaks_the_table(self):
        self.assertNotIn("|", table.one_line("a | b\nc"))
        self.assertLessEqual(len(table.one_line("x" * 1000)), table.LONGEST_REASON)


class Page(unittest.TestCase):
    TESTS = {t.name: t for t in (table.Test("quick", "a", ""), table.Test("slow", "x86/b", "-v 2"),
                                 table.Test("xen", "x86/xen_c", ""))}

    def test_what_is_written_is_read_again(self):
        results = {place: {} for place in table.PLACES}
        results["kvm", "amd"] = {"a": Result("pass"), "x86/b": Result("pass")}
        results["rvmm", "amd"] = {"a": Result("skip", "no KVM_CAP_X"), "x86/b": Result("out of time")}
        results["rvmm", "intel"] = {"a": Result("fail", "a.c:1: 1 == 2")}
        text = table.page(self.TESTS, results, "Made with this.")
        self.assertEqual(table.read_page(text), results)
        self.assertIn("of 2 that ran on both, 2 pass on KVM and not on rvmm: `a`, `x86/b`.", text)
        self.assertIn("`x86/xen_c`", text.split("## Left out")[1])
        self.assertNotIn("`x86/xen_c`", text.split("## Left out")[0])

    def test_a_gap_is_what_kvm_passes_and_rvmm_does_not(self):
        results = {place: {} for place in table.PLACES}
        results["kvm", "amd"] = {"a": Result("pass"), "b": Result("skip"), "c": Result("pass"), "d": Result("pass")}
        results["rvmm", "amd"] = {"a": Result("pass"), "b": Result("skip"), "c": Result("skip")}
        self.assertEqual(table.gaps(results, "amd"), ["c"])


class List(unittest.TestCase):
    def test_every_test_is_run_or_left_out_for_a_reason(self):
        tests = table.read_list()
        self.assertGreater(len(tests), 100)
        self.assertLessEqual({t.kind for t in tests.values()}, {"quick", "slow", *table.LEFT_OUT})

    def test_arguments_are_the_rest_of_a_line(self):
        with tempfile.NamedTemporaryFile("w") as f:
            f.write("# a comment\nslow   x -a 1 -b\nquick y\n")
            f.flush()
            self.assertEqual(table.read_list(f.name), {"x": table.Test("slow", "x", "-a 1 -b"), "y": table.Test("quick", "y", "")})


if __name__ == "__main__":
    unittest.main()
