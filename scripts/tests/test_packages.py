# SPDX-License-Identifier: GPL-2.0

"""What goes into packages: the crates that a program is made of, and the scripts."""

import os
import subprocess
import sys
import tempfile
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "scripts"))

import crate_texts  # noqa: E402

DEBIAN = os.path.join(TOP, "userspace-tool", "packaging", "debian")


def package(name, source="registry"):
    return {"id": name, "name": name, "version": "1.0.0", "source": source}


def node(name, **kinds):
    """A crate and what it depends on, by name."""
    return {"id": name, "deps": [{"pkg": pkg, "dep_kinds": [{"kind": None if kind == "normal" else kind}]}
                                 for pkg, kind in kinds.items()]}


class Crates(unittest.TestCase):
    def test_those_that_only_build_or_test_a_program_do_not_end_in_it(self):
        names = ("tool", "a", "b", "tests", "builds", "beside")
        data = {"packages": [package(n, None if n == "tool" else "registry") for n in names],
                "resolve": {"nodes": [node("tool", a="normal", tests="dev", builds="build"), node("a", b="normal"), node("b"),
                                      node("tests", beside="normal"), node("builds"), node("beside")]}}
        self.assertEqual([p["name"] for p in crate_texts.crates(data, "tool")], ["a", "b"])

    def test_license_files_are_found_beside_the_manifest(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("LICENSE-MIT", "COPYING", "README.md"):
                with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
                    f.write(f"text of {name}\n")
            found = list(crate_texts.texts({"manifest_path": os.path.join(folder, "Cargo.toml")}))
        self.assertEqual(found, ["text of COPYING", "text of LICENSE-MIT"])


class DkmsBuild(unittest.TestCase):
    """What it says where a kernel is none for it."""

    def refused(self, config):
        with tempfile.TemporaryDirectory() as headers:
            with open(os.path.join(headers, ".config"), "w", encoding="utf-8") as f:
                f.write(config)
            done = subprocess.run(["bash", os.path.join(DEBIAN, "dkms-build"), "7.3.0-test", headers],
                                  env={**os.environ, "RVMM_DKMS_CACHE": headers}, capture_output=True, text=True)
        self.assertNotEqual(done.returncode, 0)
        return done.stderr

    def test_a_kernel_without_rust(self):
        self.assertIn("was built without support for Rust", self.refused("# CONFIG_RUST is not set\n"))

    def test_a_kernel_of_another_compiler(self):
        said = self.refused('CONFIG_RUST=y\nCONFIG_RUSTC_VERSION_TEXT="rustc 0.9"\n')
        self.assertIn("was built by 'rustc 0.9'", said)


if __name__ == "__main__":
    unittest.main()
