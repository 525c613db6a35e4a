# SPDX-License-Identifier: GPL-2.0

"""Which kernel the lab takes from an archive, and what it says when that has moved on."""

import os
import subprocess
import tempfile
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PARTS = ["linux-binary-{0}-amd64", "linux-modules-{0}-amd64", "linux-base-{0}-amd64", "linux-headers-{0}-amd64",
         "linux-headers-{0}-common", "linux-kbuild-{0}", "linux-source-{1}"]
KERNEL = "7.3.4+deb13 7.3.4-1~bpo13+1 7.3"


def kernel(base, version=None, without=()):
    """The lines of an archive that has this kernel, but for the parts named `without`."""
    version = version or f"{base.partition('+')[0]}-1~bpo13+1"
    series = ".".join(base.split(".")[:2])
    return [f"{p.format(base, series)} {version}" for p in PARTS if not any(w in p for w in without)]


def shell(text, lab=None):
    """Runs `text` with the functions of kernel.sh, no archive behind them. Returns its exit code and output."""
    env = {**os.environ, "top": TOP, **({"RVMM_LAB": lab} if lab else {})}
    script = f". {TOP}/scripts/lab/common.sh; . {TOP}/scripts/lab/kernel.sh; set -euo pipefail\n{text}"
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True)
    return done.returncode, done.stdout.strip() + done.stderr.strip()


def choose(archive, *series, function="choose_kernel"):
    lines = "\n".join(archive)
    code, out = shell(f"list=$(complete_kernels <<'END'\n{lines}\nEND\n)\n{function} {' '.join(series)} <<<\"$list\"")
    assert code == 0, out
    return out


class Choice(unittest.TestCase):
    def test_the_newest_version_of_a_known_series_is_taken(self):
        archive = kernel("7.3.4+deb13") + kernel("7.3.10+deb13") + kernel("7.3.9+deb13")
        self.assertEqual(choose(archive, "7.3"), "7.3.10+deb13 7.3.10-1~bpo13+1 7.3")

    def test_a_newer_series_that_nobody_has_tried_is_left(self):
        archive = kernel("7.4.1+deb13") + kernel("7.3.4+deb13") + kernel("8.0.1+deb13") + kernel("7.2.12+deb13")
        self.assertEqual(choose(archive, "7.3"), KERNEL)
        newer = choose(archive, "7.3", function="newer_kernels").splitlines()
        self.assertEqual([line.split()[0] for line in newer], ["8.0.1+deb13", "7.4.1+deb13"])

    def test_of_two_known_series_the_newer_goes_first_and_the_older_does(self):
        archive = kernel("7.3.4+deb13") + kernel("7.4.1+deb13")
        self.assertTrue(choose(archive, "7.3", "7.4").startswith("7.4.1+deb13 "))
        self.assertEqual(choose(archive[:len(PARTS)], "7.3", "7.4"), KERNEL)

    def test_a_kernel_that_lacks_a_package_is_no_choice(self):
        for part in PARTS[1:]:
            lacking = kernel("7.3.5+deb13", without=[part])
            self.assertEqual(choose(kernel("7.3.4+deb13") + lacking, "7.3"), KERNEL, part)

    def test_all_packages_are_of_one_version(self):
        mixed = kernel("7.3.5+deb13", without=["modules"]) + ["linux-modules-7.3.5+deb13-amd64 7.3.5-2~bpo13+1"]
        self.assertEqual(choose(kernel("7.3.4+deb13") + mixed, "7.3"), KERNEL)

    def test_other_flavours_are_no_kernels(self):
        archive = ["linux-binary-7.3.9+deb13-cloud-amd64 7.3.9-1", "linux-binary-7.3.9+deb13-rt-amd64 7.3.9-1"]
        self.assertEqual(choose(archive, "7.3"), "")

    def test_the_tree_names_a_series(self):
        code, out = shell("known_series")
        self.assertEqual(code, 0)
        self.assertRegex(out, r"^\d+\.\d+( \d+\.\d+)*$")


class Lab(unittest.TestCase):
    """The stages, with an archive of our own."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.lab = folder.name
        for name in ("kernel", "stamps", "log"):
            os.mkdir(os.path.join(self.lab, name))

    def write(self, name, text):
        with open(os.path.join(self.lab, name), "w") as f:
            f.write(text)

    def read(self, name):
        with open(os.path.join(self.lab, name)) as f:
            return f.read().strip()

    def run_lab(self, archive, then):
        lines = "\n".join(archive)
        return shell("known_series() { echo 7.3; }\nfetch_kernel() { echo fetched; }\n"
                     f"archive_kernels() {{ complete_kernels <<'END'\n{lines}\nEND\n}}\n{then}", self.lab)

    def test_an_archive_without_a_known_series_says_what_it_has(self):
        code, out = self.run_lab(kernel("7.5.2+deb13") + kernel("7.4.1+deb13"), "find_kernel")
        self.assertEqual(code, 1)
        self.assertIn("(7.3)", out)
        self.assertIn("7.5.2+deb13 7.4.1+deb13", out)

    def test_a_kernel_that_is_gone_says_which_would_do(self):
        self.write("kernel/version", KERNEL + "\n")
        code, out = self.run_lab(kernel("7.3.6+deb13") + kernel("7.4.1+deb13"), "fetch_kernel_or_tell")
        self.assertEqual(code, 1)
        self.assertIn("7.3.4-1~bpo13+1 is gone", out)
        self.assertIn("7.3.6-1~bpo13+1 would do", out)
        self.assertNotIn("fetched", out)

    def test_a_kernel_that_is_there_is_fetched(self):
        self.write("kernel/version", KERNEL + "\n")
        self.assertEqual(self.run_lab(kernel("7.3.4+deb13"), "fetch_kernel_or_tell"), (0, "fetched"))

    def test_a_lab_keeps_the_known_kernel_that_it_has(self):
        self.write("kernel/version", KERNEL + "\n")
        self.write("stamps/kernel-packages", "key\n")
        self.assertEqual(self.run_lab(kernel("7.3.6+deb13"), "find_kernel"), (0, ""))
        self.assertEqual(self.read("kernel/version"), KERNEL)

    def test_a_lab_whose_kernel_was_never_fetched_looks_again(self):
        self.write("kernel/version", KERNEL + "\n")
        self.assertEqual(self.run_lab(kernel("7.3.6+deb13"), "find_kernel")[0], 0)
        self.assertEqual(self.read("kernel/version"), "7.3.6+deb13 7.3.6-1~bpo13+1 7.3")
        self.assertEqual(self.read("kernel/release"), "7.3.6+deb13-amd64")

    def test_a_lab_with_a_kernel_that_is_known_no_more_looks_again(self):
        self.write("kernel/version", "7.2.12+deb13 7.2.12-1~bpo13+1 7.2\n")
        self.write("stamps/kernel-packages", "key\n")
        self.assertEqual(self.run_lab(kernel("7.3.4+deb13"), "find_kernel")[0], 0)
        self.assertEqual(self.read("kernel/version"), KERNEL)


if __name__ == "__main__":
    unittest.main()
