# SPDX-License-Identifier: GPL-2.0

"""What the architecture promises about the backends: their size, their contract, and that nothing else knows them."""

import glob
import os
import re
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def read(path):
    with open(os.path.join(TOP, path), encoding="utf-8") as f:
        return f.read()


def code(text):
    """Rust without its comments and its strings."""
    return re.sub(r'"(\\.|[^"\\])*"|//[^\n]*', "", text)


class Backends(unittest.TestCase):
    def test_the_contract_has_at_most_24_methods(self):
        traits = re.findall(r"pub\(crate\) trait (\w+).*?\n}\n", read("vcpu/backend.rs"), re.S)
        self.assertEqual(traits, ["Backend", "BackendVcpu"])
        bodies = "".join(re.findall(r"pub\(crate\) trait .*?\n}\n", read("vcpu/backend.rs"), re.S))
        self.assertLessEqual(len(re.findall(r"^    fn \w+", bodies, re.M)), 24)

    def test_both_backends_together_have_fewer_than_8000_lines(self):
        files = [f for v in ("vmx", "svm") for e in ("rs", "S") for f in glob.glob(os.path.join(TOP, v, f"*.{e}"))]
        self.assertGreater(len(files), 10)
        self.assertLess(sum(read(f).count("\n") for f in files), 8000)

    def test_nothing_but_the_root_names_a_backend(self):
        named = []
        for folder in ("abi", "arch", "chipset", "host", "kvm", "machine", "mmu", "vcpu", "virtio"):
            for path in glob.glob(os.path.join(TOP, folder, "**", "*.rs"), recursive=True):
                if re.search(r"\b(crate|super)::(vmx|svm)\b|\bis_(intel|amd|vmx|svm)\b", code(read(path))):
                    named.append(os.path.relpath(path, TOP))
        self.assertEqual(named, [])


if __name__ == "__main__":
    unittest.main()
