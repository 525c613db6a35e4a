# SPDX-License-Identifier: GPL-2.0

"""The tests that the threat model names are there."""

import os
import re
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def read(*path):
    with open(os.path.join(TOP, *path), encoding="utf-8") as f:
        return f.read()


def sources(*folder):
    """The text of all Rust files below a folder."""
    return "".join(read(at, name) for at, _, names in os.walk(os.path.join(TOP, *folder))
                   for name in names if name.endswith(".rs"))


def named():
    """The rows of the table: the class, and the tests in its last column."""
    section = read("docs", "threat-model.md").split("## The faults that KVM has had", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return {row[0].strip(): re.findall(r"`([^`]+)`", row[-1]) for row in rows[1:]}


class ThreatModel(unittest.TestCase):
    def test_every_class_has_tests(self):
        table = named()
        self.assertGreater(len(table), 15)
        self.assertEqual([c for c, tests in table.items() if not tests], [])

    def test_every_test_that_it_names_exists(self):
        known = set(re.findall(r"\bfn (\w+)", sources("tests", "host")))
        known |= set(re.findall(r'\("([^"]+)",', sources("tests", "abi")))
        known |= {name[:-3] for name in os.listdir(os.path.join(TOP, "tests", "system")) if name.endswith(".sh")}
        self.assertEqual([t for tests in named().values() for t in tests if t not in known], [])


if __name__ == "__main__":
    unittest.main()
