# SPDX-License-Identifier: GPL-2.0

"""Runs KVM's own selftests in the emulated hosts, on stock KVM and on rvmm in KVM's place, and writes docs/conformance.md.

Several tests run in one host, one after the other. A test that brings the host down has failed, and the rest of its
company goes on in another host.

Examples:
  scripts/conformance
  scripts/conformance --hosts amd --nodes rvmm x86/cpuid_test irqfd_test
  scripts/conformance --dry x86/smm_test
"""

import argparse
import concurrent.futures
import os
import subprocess
import sys
import tempfile
from typing import NamedTuple

import conformance_table as table
import emulated_host

HERE = os.path.dirname(os.path.abspath(__file__))
BUILT = os.path.join(emulated_host.LAB, "selftests", "build")
DRIVE = os.path.join(emulated_host.IMAGES, "selftests.img")
LOGS = os.path.join(table.TOP, "build", "log")
# Seconds of the host's time for each test.
LIMITS = {"amd": {"quick": 120, "slow": 400}, "intel": {"quick": 150, "slow": 500}}
# How many tests share a host. On Bochs 3.0 a guest of KVM's that spins with its interrupts off is never left, and
# nobody else comes to run on its one CPU any more.
COMPANY = {"amd": 12, "intel": 1}


def parse_args():
    p = argparse.ArgumentParser(prog="conformance", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hosts", default="amd,intel", help="amd, intel or both (default)")
    p.add_argument("--nodes", default="kvm,rvmm", help="kvm, rvmm or both (default)")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="hosts at a time (default: %(default)s)")
    p.add_argument("--dry", action="store_true", help="do not write docs/conformance.md")
    p.add_argument("tests", nargs="*", metavar="TEST", help="names of tests; all that are to be run without them")
    return p.parse_args()


def built_tests():
    """The names of the programs that the lab has built."""
    for folder, prefix in ((BUILT, ""), (os.path.join(BUILT, "x86"), "x86/")):
        for entry in os.scandir(folder):
            if entry.is_file() and os.access(entry.path, os.X_OK):
                yield prefix + entry.name


def list_and_build_differ(tests):
    """Says what is built and not in the list, or the other way round; an empty string where both are the same."""
    built = set(built_tests())
    new, gone = sorted(built - set(tests)), sorted(set(tests) - built)
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in
                     (("not in tests/system/conformance.list", new), ("not built", gone)) if names)


class Company(NamedTuple):
    """Tests that run one after the other in one host."""

    node: str
    host: str
    name: str
    tests: list

    def run(self):
        """Returns the results by name; of what did not come to run there is none."""
        limits = [LIMITS[self.host][t.kind] for t in self.tests]
        seconds = 2 * sum(limits) + 120
        # Not in /tmp: Bochs' runner has one of its own.
        with tempfile.NamedTemporaryFile("w", suffix=".list", dir=LOGS) as f:
            f.write("".join(f"{limit} {t.name} {t.args}\n" for limit, t in zip(limits, self.tests)))
            f.flush()
            command = [sys.executable, os.path.join(HERE, "run_host.py"), f"--host={self.host}", f"--timeout={seconds}",
                       f"--disk={DRIVE},ro", f"--file={f.name}:list", "--",
                       f"sh tests/system/conformance-run {self.node} list"]
            with open(os.path.join(LOGS, f"conformance-{self.node}-{self.host}-{self.name}.log"), "w+b") as log:
                subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False)
                log.seek(0)
                text = log.read().decode(errors="replace")
        return dict(table.results_of(text))


def run_company(company):
    """Runs tests to the end, in as many hosts as it takes. Yields name and result."""
    while company.tests:
        found = company.run()
        for name, result in found.items():
            yield name, result or table.Result("fail", "the host ended, or stood still")
        left = [t for t in company.tests if t.name not in found]
        if not found:
            yield from ((t.name, table.Result("fail", "the host did not start")) for t in left)
            return
        company = company._replace(name=company.name + "x", tests=left)


def run_all(args, tests, results):
    """Runs the tests that were asked for and puts what became of them into `results`."""
    chosen = [tests[n] for n in args.tests] if args.tests else [t for t in tests.values() if t.is_run()]
    companies = [Company(node, host, str(at // COMPANY[host]), chosen[at:at + COMPANY[host]])
                 for host in args.hosts.split(",") for node in args.nodes.split(",")
                 for at in range(0, len(chosen), COMPANY[host])]

    def run(company):
        for name, result in run_company(company):
            results[company.node, company.host][name] = result
            print(f"{result.verdict:12}{table.TITLES[company.node, company.host]:12} {name}"
                  + (f" # {result.reason}" if result.reason else ""), flush=True)

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(run, companies))


def versions():
    """What the results are about."""
    def of(*packages):
        said = subprocess.run(["dpkg-query", "-W", "-f", "${Version} ", *packages], capture_output=True, check=True)
        return said.stdout.decode().split()[0]
    with open(os.path.join(emulated_host.LAB, "kernel", "release"), encoding="utf-8") as f:
        release = f.read().strip()
    return (f"Made with Linux {release}, on QEMU {of('qemu-system-x86')} (`-cpu max`, two CPUs) as AMD and "
            f"Bochs {of('bochs')} (Core i7-3770K, one CPU) as Intel.")


def main():
    args = parse_args()
    tests = table.read_list()
    if unknown := [n for n in args.tests if n not in tests]:
        sys.exit(f"conformance: no such tests: {', '.join(unknown)}")
    if not os.path.exists(DRIVE):
        sys.exit("conformance: the lab has no selftests; run 'make lab-selftests' first")
    if differ := list_and_build_differ(tests):
        sys.exit(f"conformance: {differ}")
    os.makedirs(LOGS, exist_ok=True)
    found = {place: {} for place in table.PLACES}
    run_all(args, tests, found)
    # Read after the run, which takes long: another may have written meanwhile.
    results = {place: {} for place in table.PLACES}
    if os.path.exists(table.PAGE):
        with open(table.PAGE, encoding="utf-8") as f:
            results = table.read_page(f.read())
    for place in table.PLACES:
        results[place].update(found[place])
    if not args.dry:
        with open(table.PAGE, "w", encoding="utf-8") as f:
            f.write(table.page(tests, results, versions()))
    for host in args.hosts.split(","):
        print(f"# {host}: KVM passes and rvmm does not: {', '.join(table.gaps(results, host)) or 'none'}")


if __name__ == "__main__":
    main()
