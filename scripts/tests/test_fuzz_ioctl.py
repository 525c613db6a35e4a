# SPDX-License-Identifier: GPL-2.0

"""The ioctls that tests/fuzz-ioctl calls are all that the module knows. Their numbers are the ABI's own."""

import os
import re
import sys
import unittest

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
OURS = {"DEV_RUN", "GET_EXITS"}


def text_of(*path):
    with open(os.path.join(TOP, *path), encoding="utf-8") as f:
        return f.read()


def ioctls_of_the_module():
    return set(re.findall(r"pub\(crate\) const (\w+): u32 =\s*io", text_of("abi", "nr.rs"))) | OURS


def ioctls_of_the_fuzzer():
    """Their names; several kinds of files may take the same one."""
    return set(re.findall(r"^    (?:nr|rvmm)::(\w+): ", text_of("tests", "fuzz-ioctl", "src", "table.rs"), re.M))


ANSWERED_IN = {"System": ["sys.rs"], "Vm": ["vm.rs"], "Vcpu": ["vcpu.rs"], "Device": ["device.rs"]}


def answered():
    """The ioctls of each kind of file: the arms of kvm/'s matches."""
    arm = re.compile(r"\b(?:nr|abi|abi_rvmm)::([A-Z0-9_]+)(?= =>| if | \|)")
    found = {(name, kind) for kind, files in ANSWERED_IN.items() for f in files for name in arm.findall(text_of("kvm", f))}
    return {(name, kind) for name, kind in found if name in ioctls_of_the_module()}


def rows():
    """The rows of the table and those of them that never succeed, as pairs of name and kind of file."""
    text = text_of("tests", "fuzz-ioctl", "src", "table.rs")
    table, refused = text.split("pub const REFUSED")
    return (set(re.findall(r"^    (?:nr|rvmm)::(\w+): (\w+), ", table, re.M)),
            set(re.findall(r'^    \("(\w+)", (\w+)\),', refused, re.M)))


class Fuzzed(unittest.TestCase):
    def test_every_kind_of_file_is_asked_what_it_answers(self):
        table, refused = rows()
        self.assertEqual(answered() - table, set())
        self.assertEqual(refused - table, set())
        self.assertEqual(table - answered(), refused)

    def test_every_ioctl_of_the_module_is_fuzzed(self):
        self.assertEqual(sorted(ioctls_of_the_fuzzer()), sorted(ioctls_of_the_module()))
        self.assertGreater(len(ioctls_of_the_module()), 70)

    def test_every_ioctl_of_the_documentation_is_fuzzed(self):
        named = set(re.findall(r"`KVM_([A-Z0-9_]+)`", text_of("docs", "abi.md")))
        ioctls = {n for n in named if re.match(r"(GET|SET|CREATE|CHECK|IRQ|SIGNAL|RUN$|NMI$|X86|INTERRUPT$|REINJECT)", n)}
        constants = {"CREATE_DEVICE_TEST"}
        self.assertEqual(ioctls - ioctls_of_the_fuzzer() - constants, set())


if __name__ == "__main__":
    sys.exit(unittest.main())
