# SPDX-License-Identifier: GPL-2.0

"""Runs the scoreboard in the emulated host and prints it.

The host counts: under QEMU's icount its TSC advances by one for each instruction,
of the host and of its guests. One and the same client (tests/bench) runs on
/dev/rvmm and on /dev/kvm. A figure is the median over the rounds; the spread is
what lies between the 10th and the 90th percentile, in per cent of it. The whole
table goes to docs/bench/scoreboard.json and scoreboard.svg. A row that could not
run is SKIP with the reason; a guest that read wrong data makes the whole run fail. docs/bench/README.md defines the rows.

Examples:
  scripts/bench
  scripts/bench --rows cpuid,rdmsr --nodes rvmm
  scripts/bench --profile cpuid --nodes rvmm
"""

import argparse
import concurrent.futures
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import bench_guests
import bench_plot
import bench_profile
import bench_rows
import emulated_host
import run_host

TOP = run_host.TOP
BUILD = os.path.join(TOP, "build")
SOURCES = os.path.join(TOP, "tests", "bench")
OUT = os.path.join(TOP, "docs", "bench")
LOGS = os.path.join(BUILD, "log")


def parse_args():
    p = argparse.ArgumentParser(prog="bench", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", help="names of rows, comma separated; the files are then not written")
    p.add_argument("--nodes", default="kvm,rvmm", help="kvm, rvmm or both (default)")
    p.add_argument("--timeout", type=float, default=900, help="seconds of wall time (default: 900)")
    p.add_argument("--profile", metavar="ROW", help="count the instructions of one row by function instead")
    p.add_argument("--dry", action="store_true", help="do not write the files under docs/bench")
    return p.parse_args()


def is_guest_row(name):
    return name.startswith(bench_rows.GUEST_ROWS)


def percentile(ordered, share):
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(unit, samples):
    """The figures of one row on one node."""
    ordered = sorted(samples)
    half = len(ordered) // 2
    median = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
    spread = percentile(ordered, 0.9) - percentile(ordered, 0.1)
    return {"unit": unit, "median": median, "low": ordered[0], "high": ordered[-1],
            "spread": spread / median if median else 0, "samples": len(samples)}


class Run:
    """What the client printed."""

    def __init__(self, text):
        self.nodes, self.floor, self.ended, self.failures = {}, {}, False, []
        node = None
        for line in text.replace("\r", "").splitlines():
            words = line.split()
            if words[:1] == ["floor"]:
                exits = int(words[6])
                self.floor = {"bare": int(words[2]) / exits, "gprs": int(words[4]) / exits}
            elif words[:1] == ["node"]:
                node = self.nodes.setdefault(words[1], {})
                self.ended |= words[1] == "end"
            elif words[:1] == ["row"] and len(words) > 3:
                node[words[1]] = summary(words[2], [float(w) for w in words[3:]])
            elif words[:1] == ["skip"]:
                node[words[1]] = {"skip": " ".join(words[2:])}


    def add(self, other, ended):
        """Takes another run's figures, which `ended` well or not."""
        for node, rows in other.nodes.items():
            self.nodes.setdefault(node, {}).update(rows)
        self.floor = self.floor or other.floor
        self.ended = self.ended and ended


def set_ratio(row):
    """Adds the ratio to a row that both nodes have."""
    row.pop("ratio", None)
    if all(row[n].get("median") for n in ("rvmm", "kvm")):
        row["ratio"] = row["rvmm"]["median"] / row["kvm"]["median"]


def table(run, names):
    """One entry for each row: the definition and the figures of both nodes."""
    rows = []
    for row in bench_rows.ROWS:
        if names and row.name not in names:
            continue
        entry = {"name": row.name, "title": row.title, "target": row.target, "limit": row.limit}
        for node in ("rvmm", "kvm"):
            entry[node] = run.nodes.get(node, {}).get(row.name, {"skip": "nothing was printed"})
        set_ratio(entry)
        rows.append(entry)
    return rows


def recorded(rows, nodes):
    """Fills the columns of nodes that did not run from the last table written."""
    path = os.path.join(OUT, "scoreboard.json")
    if not os.path.exists(path):
        return
    with open(path) as f:
        old = {r["name"]: r for r in json.load(f)["rows"]}
    for row in rows:
        for node in {"rvmm", "kvm"} - set(nodes):
            row[node] = old.get(row["name"], {}).get(node, row[node])
        set_ratio(row)


def verdict(row):
    """"ok" or "over", or nothing where nothing is aimed at or known."""
    aims = [(row.get("ratio"), row["target"]), (row["rvmm"].get("median"), row["limit"])]
    held = [figure <= aim for figure, aim in aims if figure is not None and aim]
    return ("ok" if all(held) else "over") if held else ""


def figure(cell):
    """A number for people, with its spread."""
    if "skip" in cell:
        return "SKIP", ""
    value = cell["median"]
    digits = 0 if value >= 100 else 1 if value >= 10 else 3
    return f"{value:,.{digits}f}", f"{100 * cell['spread']:.1f}%" if cell["samples"] > 1 else ""


def print_table(rows, floor):
    base = f"{floor['gprs']:.0f}" if floor else "n/a"
    print(f"{'row':<34} {'rvmm':>12} {'±':>6} {'KVM':>12} {'±':>6} {'ratio':>7} {'target':>7} {'floor':>6}")
    for row in rows:
        ours, our_spread = figure(row["rvmm"])
        theirs, their_spread = figure(row["kvm"])
        ratio = f"{row['ratio']:.3f}" if "ratio" in row else "-"
        aim = f"{row['target']:.3f}" if row["target"] else f"<{row['limit']:g}" if row["limit"] else "-"
        print(f"{row['name']:<34} {ours:>12} {our_spread:>6} {theirs:>12} {their_spread:>6} "
              f"{ratio:>7} {aim:>7} {base:>6}  {verdict(row)}".rstrip())
        for reason in sorted({f"{n}: {row[n]['skip']}" for n in ("rvmm", "kvm") if "skip" in row[n]}):
            print(f"    SKIP {reason}")


def machine():
    """What the figures depend on."""
    version = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, check=True, text=True)
    release = os.path.join(emulated_host.LAB, "obj", "include", "config", "kernel.release")
    with open(release) as f:
        kernel = f.read().strip()
    return {"qemu": version.stdout.splitlines()[0], "kernel": kernel, "cpu": bench_rows.HOST_CPU, "icount": "shift=0,sleep=off"}


def client_rows(names, cpus):
    """The rows of the client that are wanted and need a host with so many CPUs."""
    rows = [row.name for row in bench_rows.ROWS if not is_guest_row(row.name) and bench_rows.cpus(row.name) == cpus]
    return [name for name in rows if not names or name in names]


def run_client(args, names, files):
    """The rows of the client, in emulated hosts of their own. Returns a `Run`."""
    whole = Run("node end")
    for cpus in (1, 2):
        rows = client_rows(names, cpus)
        if not rows:
            continue
        command = f"sh run.sh '{args.nodes.replace(',', ' ')}' {' '.join(rows)}"
        log = os.path.join(LOGS, f"bench-{cpus}")
        host = run_host.parse_args(["--icount", "--smp", str(cpus), "--cpu", bench_rows.HOST_CPU, "--quiet", "--log", log,
                                    "--timeout", str(args.timeout), *files, "--", command])
        code, output = run_host.run(host)
        run = Run(output.console.decode(errors="replace"))
        whole.add(run, ended=run.ended and code == 0)
    return whole


def run_guests(args, names):
    """The rows of whole guests. Returns a `bench_guests.Parser`."""
    if names and not any(map(is_guest_row, names)):
        return bench_guests.Parser("")
    return bench_guests.run(args.nodes.split(","), args.timeout, names)


def measure(args, names, files):
    """Runs both hosts at once, which the counted instructions do not feel."""
    os.makedirs(LOGS, exist_ok=True)
    for cpus in (1, 2):
        emulated_host.state_for(emulated_host.Shape(cpu=bench_rows.HOST_CPU, smp=cpus, icount=True))
    run_host.programs()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        client = pool.submit(run_client, args, names, files)
        guests = pool.submit(run_guests, args, names)
        run, found = client.result(), guests.result()
    for node, rows in found.figures.items():
        for name, (unit, values) in rows.items():
            run.nodes.setdefault(node, {})[name] = summary(unit, values)
    for (node, name), why in found.failed.items():
        run.nodes.setdefault(node, {})[name] = {"skip": f"FAILED: {why}"}
        run.failures.append(f"{node} {name}: {why}")
    return run, {"boot_exits": found.exits, "row_exits": found.row_exits}


def write_board(board):
    with open(os.path.join(OUT, "scoreboard.json"), "w") as f:
        json.dump(board, f, indent=1)
        f.write("\n")
    with open(os.path.join(OUT, "scoreboard.svg"), "w") as f:
        f.write(bench_plot.svg(board))


def profile(args, files):
    """Prints the profile of one row on each node."""
    with tempfile.TemporaryDirectory(prefix="rvmm-bench.") as folder:
        disk = None
        if args.profile in bench_profile.GUEST_ROWS:
            files, disk = bench_guests.payload(folder)
        for node in args.nodes.split(","):
            bench_profile.profile(node, args.profile, files, disk)


def main():
    args = parse_args()
    names = args.rows.split(",") if args.rows else []
    began = time.monotonic()
    floor, late = (os.path.join(bench_guests.build_modules(), f"rvmm_{name}.ko") for name in ("floor", "late"))
    files = []
    for path in (bench_guests.build_client(), floor, os.path.join(SOURCES, "run.sh"), late):
        files += ["--file", path]
    if args.profile:
        profile(args, files[1:4:2])
        return
    run, exits = measure(args, names, files)
    rows = table(run, names)
    if args.nodes != "kvm,rvmm":
        recorded(rows, args.nodes.split(","))
        print(f"# only {args.nodes} ran; other figures are those of the last table")
    print_table(rows, run.floor)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"# instructions of the emulated host; {time.monotonic() - began:.0f} s, "
          f"{used.ru_utime + used.ru_stime:.0f} s of CPU time; logs: build/log/bench*")
    if not run.ended:
        print("# the host ended before the client did")
    elif not names and not args.dry and not run.failures and args.nodes == "kvm,rvmm":
        write_board({"machine": machine(), "floor": run.floor, **exits, "rows": rows})
    for failure in run.failures:
        print(f"# FAILED {failure}")
    sys.exit(0 if run.ended and not run.failures else 1)


if __name__ == "__main__":
    main()
