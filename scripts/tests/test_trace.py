# SPDX-License-Identifier: GPL-2.0

"""host/trace.h and host/trace.rs declare the same tracepoints; no compiler looks at both."""

import os
import re
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def read(*path):
    with open(os.path.join(TOP, *path), encoding="utf-8") as f:
        return f.read()


def in_c(text):
    """Maps each event to its arguments, as (type, name) in order."""
    text = re.sub(r"DECLARE_EVENT_CLASS\(.*?\n\);", "", text, flags=re.S)
    found = {}
    for name, proto, args in re.findall(
            r"(?:TRACE_EVENT|DEFINE_EVENT)\((?:\w+, )?rvmm_(\w+),\s*TP_PROTO\(([^)]*)\),\s*TP_ARGS\(([^)]*)\)", text):
        found[name] = [tuple(p.split()) for p in re.split(r",\s*", proto)]
        assert [n for _, n in found[name]] == re.split(r",\s*", args), name
    return found


def in_rust(text):
    """The same, of the macro's input."""
    return {name: [(kind, field) for field, kind in re.findall(r"^        (\w+): (\w+),", body, re.M)]
            for name, body in re.findall(r"^    fn (\w+)\(\w+ \{\n(.*?)^    \}\);", text, re.M | re.S)}


def in_stand_in(text):
    """The same, of tests/host's."""
    return {name: [(kind, field) for field, kind in re.findall(r"(\w+): (\w+)", fields)]
            for name, fields in re.findall(r"^    (\w+)\(\w+ \{ (\w+: .*?) \}\);$", text, re.M)}


class Tracepoints(unittest.TestCase):
    def test_both_files_have_the_same_events_with_the_same_fields(self):
        c, rust = in_c(read("host", "trace.h")), in_rust(read("host", "trace.rs"))
        self.assertEqual(rust, c)
        self.assertEqual(in_stand_in(read("tests", "host", "host", "trace.rs")), c)
        self.assertGreater(len(c), 10)

    def test_all_types_mean_the_same_in_both_languages(self):
        kinds = {kind for fields in in_c(read("host", "trace.h")).values() for kind, _ in fields}
        self.assertLessEqual(kinds, {"bool", "u16", "u32", "u64"})

    def test_the_decision_names_each(self):
        decision = read("docs", "adr", "0009-tracepoints-with-the-kernels-static-branches.md")
        self.assertEqual(set(re.findall(r"`rvmm_(\w+)`", decision)), set(in_c(read("host", "trace.h"))))

    def test_a_difference_is_seen(self):
        c = "TRACE_EVENT(rvmm_a,\n\tTP_PROTO(u32 x, u64 y),\n\tTP_ARGS(x, y),\n"
        rust = "    fn a(A {\n        /// It.\n        x: u64,\n        y: u64,\n    });\n"
        self.assertNotEqual(in_c(c), in_rust(rust))
        self.assertEqual(in_c(c), in_rust(rust.replace("x: u64", "x: u32")))


if __name__ == "__main__":
    unittest.main()
