# SPDX-License-Identifier: GPL-2.0

"""Kbuild refuses kernels that the module does not work on."""

import os
import subprocess
import sys
import unittest

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def read_kbuild(*settings):
    """Makes make read the file, which has no target of its own. Returns what it says."""
    return subprocess.run(["make", "--no-print-directory", "-f", "Kbuild", "obj=.", *settings], cwd=TOP,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


class Kbuild(unittest.TestCase):
    def test_a_kernel_with_preempt_rt_is_refused_with_a_reason(self):
        self.assertIn("rvmm does not work on kernels with PREEMPT_RT", read_kbuild("CONFIG_PREEMPT_RT=y"))

    def test_a_kernel_without_it_is_not(self):
        self.assertNotIn("PREEMPT_RT", read_kbuild())


if __name__ == "__main__":
    sys.exit(unittest.main())
