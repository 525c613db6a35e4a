# SPDX-License-Identifier: GPL-2.0

"""The reader of stack frames."""

import importlib.machinery
import importlib.util
import os
import unittest

import sources

LISTING = """
0000000000000010 <small>:
  10:	sub    $0x18,%rsp
  14:	ret

0000000000000020 <large>:
  20:	push   %rbp
  24:	sub    $0x2d48,%rsp
  2b:	sub    $0x8,%rsp
  2f:	ret

0000000000000030 <none>:
  30:	sub    $0x10,%rdi
  34:	ret
"""


def gate():
    path = os.path.join(sources.TOP, "scripts/check-frames")
    loader = importlib.machinery.SourceFileLoader("check_frames", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_frames", loader))
    loader.exec_module(module)
    return module


class Frames(unittest.TestCase):
    def test_each_function_has_the_frame_that_it_makes_first(self):
        found = list(gate().frames(LISTING.splitlines()))
        self.assertEqual(found, [(0x18, "small"), (0x2d48, "large")])
