# SPDX-License-Identifier: GPL-2.0

"""soak-faults lets every allocation of every ioctl fail that the tests of the ABI and the tool make: those are all that can
succeed."""

import glob
import os
import re
import sys
import unittest

import test_fuzz_ioctl as ioctls

# By number, as a constant of abi/; or a method of the library's, which has the ioctl's name or a longer one.
CONSTANT = re.compile(r"\b[A-Z][A-Z0-9_]+\b")
METHOD = re.compile(r"\.(\w+)\(")
# Random calls, which soak-faults does not make.
RANDOM = {"fuzz.rs", "fuzz_devices.rs", "random.rs"}


def plain(name):
    return name.replace("_", "").lower()


def made_in(text):
    """Returns the ioctls that a source may make, in small letters."""
    text = re.sub(r"//.*", "", text)
    methods = {plain(name) for name in METHOD.findall(text)}
    return {plain(name) for name in CONSTANT.findall(text)} | methods | {m.removesuffix("ess") for m in methods}


def made():
    found = set()
    for folder in ("tests/abi/src", "userspace-tool/rvmm-run/src"):
        for path in glob.glob(os.path.join(ioctls.TOP, folder, "**", "*.rs"), recursive=True):
            if os.path.basename(path) not in RANDOM:
                with open(path, encoding="utf-8") as f:
                    found |= made_in(f.read())
    return found


class Faults(unittest.TestCase):
    def test_every_ioctl_that_can_succeed_meets_faults(self):
        table, refused = ioctls.rows()
        names = {name for name, kind in table - refused}
        self.assertGreater(len(names), 70)
        there = made()
        self.assertEqual(sorted(name for name in names if plain(name) not in there), [])

    def test_calls_are_seen_by_number_and_by_name(self):
        there = made_in("ioctl(fd, nr::GET_LAPIC, 0); vm.set_tss_address(1); // nr::SMI\n cpu.get_mp_state()")
        self.assertLessEqual({"getlapic", "settssaddr", "getmpstate"}, there)
        self.assertNotIn("smi", there)


if __name__ == "__main__":
    sys.exit(unittest.main())
