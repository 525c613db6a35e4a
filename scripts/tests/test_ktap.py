# SPDX-License-Identifier: GPL-2.0

"""What the parser of test output and kernel logs must get right."""

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import ktap
import sources


def parse(*lines):
    results = ktap.Results()
    for line in lines:
        results.feed(line)
    return results


class KtapTest(unittest.TestCase):
    def test_counts_passed_failed_and_skipped(self):
        r = parse("1..3", "ok 1 a\r\n", "not ok 2 - b", "ok 3 c # SKIP no disk")

        self.assertEqual((len(r.passed), len(r.failed), len(r.skipped)), (1, 1, 1))
        self.assertEqual(r.exit_code(), 1)

    def test_other_output_is_no_result(self):
        r = parse("okay then", "it is ok", "# ok 1 comment", "not ok", "ok")

        self.assertEqual(r.count(), 0)

    def test_missing_results_are_a_failure(self):
        self.assertEqual(parse("1..2", "ok 1 a").exit_code(), 1)

    def test_all_skipped_is_four_and_all_passed_is_zero(self):
        self.assertEqual(parse("ok 1 a # skip b").exit_code(), 4)
        self.assertEqual(parse("ok 1 a", "1..1").exit_code(), 0)


class TroubleTest(unittest.TestCase):
    def test_finds_what_a_healthy_kernel_does_not_print(self):
        for line in ("[ 1.0] BUG: scheduling while atomic: x", "[ 1.0] kernel BUG at mm/x.c:1!",
                     "[ 1.0] WARNING: CPU: 1 PID: 2 at x", "[ 1.0] Oops: 0002 [#1] SMP",
                     "[ 1.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks",
                     "[ 1.0] watchdog: BUG: soft lockup - CPU#0",
                     "[ 1.0] abi-tests: page allocation failure: order:5, mode:0x40dc0(GFP_KERNEL), nodemask=(null)",
                     "[ 1.0] abi-tests invoked oom-killer: gfp_mask=0x140cca, order=0, oom_score_adj=0",
                     "[ 1.0] BUG kmalloc-64 (Tainted: G O): Right Redzone overwritten",
                     "[ 1.0] BUG: KASAN: slab-use-after-free in x+0x1/0x2",
                     "[ 1.0] UBSAN: array-index-out-of-bounds in x.c:1:2",
                     "[ 1.0] kmemleak: unreferenced object 0xffff888100000000 (size 64):",
                     "[ 1.0] WARNING: possible circular locking dependency detected",
                     "[ 1.0] INFO: lockdep is turned off.",
                     "[ 1.0] kmemleak: Kernel memory leak detector disabled"):
            self.assertEqual(ktap.trouble_in([line]), [line])

    def test_usual_lines_are_no_trouble(self):
        for line in ("[ 1.0] rcu: Hierarchical RCU implementation.", "[ 1.0] debug: on",
                     "[ 1.0] rvmm: loading out-of-tree module taints kernel."):
            self.assertEqual(ktap.trouble_in([line]), [])

    def test_expected_lines_can_be_allowed(self):
        self.assertEqual(ktap.trouble_in(["WARNING: x y"], ["x y"]), [])

    def test_the_trace_of_an_expected_line_is_expected_and_no_other(self):
        log = ["insmod: vmalloc error: size 7", "CPU: 2", "Call Trace:", " f+0x1/0x2", "Call Trace:"]
        self.assertEqual(ktap.trouble_in(log, ["vmalloc error"]), ["Call Trace:"])
        self.assertEqual(ktap.trouble_in(log), ["Call Trace:", "Call Trace:"])
        far = ["vmalloc error"] + ["line"] * ktap.TRACE_BEHIND + ["Call Trace:"]
        self.assertEqual(ktap.trouble_in(far, ["vmalloc error"]), ["Call Trace:"])

    def test_the_log_around_a_trouble_says_whose_trace_it_is(self):
        log = [f"[ {n}.0] line" for n in range(9)] + ["[ 9.0] Call Trace:\n", "[ 9.1]  f+0x1/0x2"]

        around = ktap.around(log, "[ 9.0] Call Trace:", before=2)

        self.assertEqual(around, ["[ 7.0] line", "[ 8.0] line", "[ 9.0] Call Trace:", "[ 9.1]  f+0x1/0x2"])


class SourcesTest(unittest.TestCase):
    def test_comments_and_literals_are_no_code(self):
        text = 'let a = "unsafe"; // unsafe\n/* unsafe */ let c = \'"\'; let r = r#"unsafe "x" "#; fn f<\'a>() {}'

        self.assertNotIn("unsafe", sources.TOKENS.sub(" ", text))

    def test_code_after_a_lifetime_is_seen(self):
        self.assertIn("unsafe", sources.TOKENS.sub(" ", "impl<'a> X<'a> { unsafe fn f() {} }"))


if __name__ == "__main__":
    unittest.main()
