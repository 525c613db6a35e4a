# SPDX-License-Identifier: GPL-2.0

"""The ioctls that tests/fuzz-ioctl calls are all that the module knows, by name and number."""

import os
import re
import sys
import unittest

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
ABI = os.path.join(TOP, "abi")
DIRECTION = {"io": 0, "iow": 1, "ior": 2, "iowr": 3}
SIZES = {"u64": 8, "[u64; 2]": 16, "[u8; 128]": 128, "[u8; 392]": 392}


def text_of(*path):
    with open(os.path.join(TOP, *path)) as f:
        return f.read()


def struct_sizes():
    """The sizes that the ABI's structs are declared with."""
    sizes = dict(SIZES)
    for name in os.listdir(ABI):
        for struct, size in re.findall(r"^    struct (\w+) = (\d+) \{", text_of("abi", name), re.M):
            sizes[struct] = int(size)
    return sizes


def ioctls_of_the_module():
    sizes, found = struct_sizes(), {}
    pattern = r"const (\w+): u32 =\s*(io\w*)(?:::<((?:\[[^]]*\]|[\w:]+))>)?\((0x[0-9a-f]+)\);"
    for name, kind, struct, command in re.findall(pattern, text_of("abi", "nr.rs")):
        size = sizes[struct.split("::")[-1]] if struct else 0
        found[name] = DIRECTION[kind] << 30 | size << 16 | 0xae << 8 | int(command, 16)
    for name in ("DEV_RUN", "GET_EXITS"):
        number = re.search(rf"const {name}: u32 = (0x[0-9a-f_]+);", text_of("abi", "rvmm.rs"))
        found[name] = int(number.group(1).replace("_", ""), 16)
    return found


def ioctls_of_the_fuzzer():
    rows = re.findall(r'\("(\w+)", (0x[0-9a-f_]+), ', text_of("tests", "fuzz-ioctl", "src", "table.rs"))
    return {name: int(number.replace("_", ""), 16) for name, number in rows}


class Fuzzed(unittest.TestCase):
    def test_every_ioctl_of_the_module_is_fuzzed(self):
        self.assertEqual(ioctls_of_the_fuzzer(), ioctls_of_the_module())

    def test_no_ioctl_is_missed_by_the_pattern(self):
        declared = re.findall(r"pub\(crate\) const (\w+): u32 = io", text_of("abi", "nr.rs"))
        self.assertEqual(sorted(declared + ["DEV_RUN", "GET_EXITS"]), sorted(ioctls_of_the_module()))
        self.assertGreater(len(declared), 70)

    def test_every_ioctl_of_the_documentation_is_fuzzed(self):
        named = set(re.findall(r"`KVM_([A-Z0-9_]+)`", text_of("docs", "abi.md")))
        known = {name for name in ioctls_of_the_fuzzer()}
        ioctls = {n for n in named if re.match(r"(GET|SET|CREATE|CHECK|IRQ|SIGNAL|RUN$|NMI$|X86|INTERRUPT$|REINJECT)", n)}
        constants = {"CREATE_DEVICE_TEST"}
        self.assertEqual(ioctls - known - constants, set())


if __name__ == "__main__":
    sys.exit(unittest.main())
