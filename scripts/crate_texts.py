# SPDX-License-Identifier: GPL-2.0

"""Prints the names and the license texts of the crates that a program is made of, each text once.

Usage: crate_texts.py MANIFEST PACKAGE
"""

import glob
import json
import os
import subprocess
import sys

PATTERNS = ("LICENSE*", "LICENCE*", "COPYING*", "COPYRIGHT*")


def metadata(manifest):
    """What cargo knows of the workspace, without the network."""
    command = ["cargo", "metadata", "--locked", "--offline", "--format-version=1",
               "--filter-platform=x86_64-unknown-linux-gnu", "--manifest-path", manifest]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def crates(data, package):
    """The packages that end in a program: what `package` depends on, but not to build or to test it."""
    packages = {p["id"]: p for p in data["packages"]}
    nodes = {n["id"]: n for n in data["resolve"]["nodes"]}
    rest = [i for i, p in packages.items() if p["name"] == package]
    found = set(rest)
    while rest:
        for dependency in nodes[rest.pop()]["deps"]:
            is_linked = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if is_linked and dependency["pkg"] not in found:
                found.add(dependency["pkg"])
                rest.append(dependency["pkg"])
    return sorted((packages[i] for i in found if packages[i]["source"]), key=lambda p: (p["name"], p["version"]))


def texts(package):
    """The license files beside a crate's manifest."""
    folder = os.path.dirname(package["manifest_path"])
    for path in sorted({p for pattern in PATTERNS for p in glob.glob(os.path.join(folder, pattern)) if os.path.isfile(p)}):
        with open(path, encoding="utf-8", errors="replace") as f:
            yield f.read().strip()


def main():
    manifest, package = sys.argv[1:]
    by_text = {}
    print("Crates that the programs are made of, with their licenses\n")
    for crate in crates(metadata(manifest), package):
        name = f"{crate['name']} {crate['version']}"
        print(f"{name}: {crate['license'] or 'see below'}")
        for text in texts(crate):
            by_text.setdefault(text, []).append(name)
    for text, names in by_text.items():
        print(f"\n{'=' * 72}\n{', '.join(names)}\n\n{text}")


if __name__ == "__main__":
    main()
