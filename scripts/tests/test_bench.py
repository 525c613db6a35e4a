# SPDX-License-Identifier: GPL-2.0

"""Tests of what the scoreboard makes of the lines that guests print."""

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import bench_guests


class ParserTest(unittest.TestCase):
    def test_figures_belong_to_the_node_that_was_named_last(self):
        found = bench_guests.Parser("node kvm\nguest blk-4k-read-depth-1 instructions 5 7\r\n"
                                    "node rvmm\nguest blk-4k-read-depth-1 instructions 2\n")
        self.assertEqual(found.figures["kvm"]["blk-4k-read-depth-1"], ("instructions", (5.0, 7.0)))
        self.assertEqual(found.figures["rvmm"]["blk-4k-read-depth-1"], ("instructions", (2.0,)))

    def test_exits_of_a_row_are_those_between_its_marks_for_each_request(self):
        found = bench_guests.Parser("node rvmm\nat a exits 100\nat A exits 4196\n")
        self.assertEqual(found.figures["rvmm"]["blk-4k-read-depth-1-exits"], ("exits", (2.0,)))

    def test_a_mark_without_its_beginning_gives_no_exits(self):
        self.assertEqual(bench_guests.Parser("node rvmm\nat A exits 4196\n").figures, {})

    def test_a_row_that_failed_keeps_the_reason(self):
        found = bench_guests.Parser("node rvmm\nfailed blk-4k-read-depth-1 wrong data were read\n")
        self.assertEqual(found.failed, {("rvmm", "blk-4k-read-depth-1"): "wrong data were read"})


if __name__ == "__main__":
    unittest.main()
