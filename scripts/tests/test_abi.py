# SPDX-License-Identifier: GPL-2.0

"""The ABI's numbers and layouts are written down once: in abi/, which the module, the tool and the tests compile, and
which C programs get as a header. tests/host/src/t_abi is the one witness beside it, and docs/ tells people."""

import os
import re
import subprocess
import sys
import tempfile
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "scripts"))

import abi_header  # noqa: E402
from sources import TOKENS, files, code_of  # noqa: E402

DIRECTION = {"io": 0, "iow": 1, "ior": 2, "iowr": 3}
SIZES = {"u64": 8, "[u64; 2]": 16, "[u8; 128]": 128, "[u8; 392]": 392}
# Where they may stand, and where the module's callers are; in the module, a chip may call its own setup what it likes.
ELSEWHERE = ("abi/", "tests/host/src/t_abi/")
PROGRAMS = ("userspace-tool/", "tests/")


def text_of(*path):
    with open(os.path.join(TOP, *path), encoding="utf-8") as f:
        return f.read()


def structs(text):
    """The structs that the ABI declares, with their sizes."""
    return {name: int(size) for name, size in re.findall(r"^    struct (\w+) = (\d+) \{", text, re.M)}


def abi_structs():
    return {name: size for f in os.listdir(os.path.join(TOP, "abi")) for name, size in structs(text_of("abi", f)).items()}


def requests():
    """The ioctls of KVM's that the ABI has: name and number."""
    sizes, found = SIZES | abi_structs(), {}
    pattern = r"const (\w+): u32 =\s*(io\w*)(?:::<((?:\[[^]]*\]|[\w:]+))>)?\((0x[0-9a-f]+)\);"
    for name, kind, struct, command in re.findall(pattern, text_of("abi", "nr.rs")):
        size = sizes[struct.split("::")[-1]] if struct else 0
        found[name] = DIRECTION[kind] << 30 | size << 16 | 0xae << 8 | int(command, 16)
    return found


def own_constants():
    """What rvmm adds: the names of its constants, and the numbers of those that nothing else could mean."""
    found = dict(re.findall(r"^pub\(crate\) const (\w+): \w+ = ([^;]+);", text_of("abi", "rvmm.rs"), re.M))
    numbers = {int(v.replace("_", ""), 16) for v in found.values() if re.fullmatch(r"0x[0-9a-f_]+", v)}
    return set(found), numbers


def second_definitions(path, code):
    """What `code`, a file without its comments and strings, writes down although abi/ has it."""
    names, numbers = own_constants()
    numbers |= set(requests().values())
    for literal in re.findall(r"\b0x[0-9a-fA-F_]+", code):
        if int(literal[2:].replace("_", ""), 16) in numbers:
            yield f"{path}: {literal}"
    for name in re.findall(r"\b(?:const|#define)\s+(?:RVMM_)?(\w+)\b", code):
        if name in names or re.sub(r"^TYPE_", "DEV_", name) in names:
            yield f"{path}: {name}"
    if not path.startswith(PROGRAMS):
        return
    own = set(structs(text_of("abi", "rvmm.rs")))
    for name in re.findall(r"\bstruct (\w+)\b(?=[^;]{0,40}\{)", code):
        if name in own:
            yield f"{path}: struct {name}"


class WrittenOnce(unittest.TestCase):
    def test_nothing_else_defines_what_abi_has(self):
        found = []
        for path in files(".rs", ".c", ".h", ".S"):
            if not path.startswith(ELSEWHERE):
                found += second_definitions(path, code_of(path))
        self.assertEqual(found, [])

    def test_a_second_definition_is_found(self):
        for code in ("const UART: u32 = 0x7276_0000;", "#define RUN 0xaef0", "ioctl(fd, 0x8090ae81, &regs)",
                     "pub(crate) const BLK_READ_ONLY: u32 = 1;", "const TYPE_UART: u32 = kind();",
                     "struct VirtioBlkConfig {\n    fd: i32,\n}"):
            self.assertEqual(len(list(second_definitions("tests/x", TOKENS.sub(" ", code)))), 1, code)

    def test_its_use_is_none(self):
        for code in ("use crate::abi::rvmm::BLK_READ_ONLY;", "abi::VirtioBlkConfig { fd, ..zero }", "0xaeff", "// 0xaef0",
                     "fn create(config: &abi::UartConfig) {}"):
            self.assertEqual(list(second_definitions("tests/x", TOKENS.sub(" ", code))), [], code)

    def test_all_programs_compile_the_same_files(self):
        for root in ("tests/host/src/lib.rs", "userspace-tool/rvmm-run/src/lib.rs", "tests/abi/src/main.rs",
                     "tests/fuzz-ioctl/src/main.rs"):
            self.assertRegex(text_of(root), r'#\[path = "\.\./\.\./\.\./abi/mod\.rs"\]\n(pub\(crate\) )?mod abi;', root)


class Header(unittest.TestCase):
    def test_all_that_rvmm_adds_is_in_it(self):
        text, (names, _) = abi_header.header(), own_constants()
        self.assertEqual(set(re.findall(r"^#define RVMM_(\w+)", text, re.M)), names)
        self.assertEqual(len(re.findall(r"^struct rvmm_", text, re.M)), len(structs(text_of("abi", "rvmm.rs"))))

    def test_a_compiler_takes_it(self):
        with tempfile.TemporaryDirectory() as folder:
            abi_header.path(folder)
            command = ["gcc", "-Wall", "-Werror", "-fsyntax-only", "-x", "c", os.path.join(folder, "rvmm_abi.h")]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            except FileNotFoundError:
                self.skipTest("no gcc")
            self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
