# SPDX-License-Identifier: GPL-2.0

"""Finds and reads the project's own source files; shared by the gates."""

import os
import re

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NOT_OURS = {".git", "third", "target", "build"}

# Comments, strings and character literals, in the order in which they win.
# A lifetime ('a) is no literal, so a quote counts only with its closing one.
TOKENS = re.compile(
    r"//[^\n]*|/\*.*?\*/|b?r(?P<h>#*)\".*?\"(?P=h)|b?c?\"(?:\\.|[^\"\\])*\"|b?'(?:\\[^\n]{1,10}?|[^'\\\n])'",
    re.DOTALL)


def files(*suffixes):
    """Returns the paths, relative to the checkout, of our files with these suffixes."""
    found = []
    for folder, folders, names in os.walk(TOP):
        folders[:] = [d for d in folders if d not in NOT_OURS]
        found += [os.path.relpath(os.path.join(folder, n), TOP) for n in names if n.endswith(suffixes)]
    return sorted(found)


def code_of(path):
    """Returns a Rust file without comments and literals."""
    with open(os.path.join(TOP, path), encoding="utf-8") as f:
        return TOKENS.sub(" ", f.read())
