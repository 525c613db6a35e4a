# SPDX-License-Identifier: GPL-2.0

"""Writes what rvmm adds to KVM's ABI as a C header: the constants and structs of abi/rvmm.rs, in that file's order.

Usage: python3 scripts/abi_header.py >rvmm_abi.h
"""

import os
import re

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TYPES = {f"{sign}{bits}": f"{'u' * (sign == 'u')}int{bits}_t" for sign in "iu" for bits in (8, 16, 32, 64)}
ITEM = re.compile(r"^pub\(crate\) const (?P<const>\w+): \w+ = (?P<value>[\w <]+);"
                  r"|^    struct (?P<struct>\w+) = (?P<bytes>\d+) \{(?P<body>.*?)^    \}", re.M | re.S)


def of_c(name):
    """`VirtioBlkConfig` is struct rvmm_virtio_blk_config."""
    return "struct rvmm" + re.sub(r"(?=[A-Z])", "_", name).lower()


def field(name, rust):
    """A field of a type of the ABI: a number, an array, or another struct."""
    array = re.fullmatch(r"\[(\w+); (\w+)\]", rust)
    if array:
        length = array[2] if array[2].isdigit() else f"RVMM_{array[2]}"
        return field(f"{name}[{length}]", array[1])
    return f"{TYPES.get(rust) or of_c(rust)} {name};"


def header():
    with open(os.path.join(TOP, "abi", "rvmm.rs"), encoding="utf-8") as f:
        text = f.read()
    lines = ["/* SPDX-License-Identifier: GPL-2.0 */", "/* Made from abi/rvmm.rs by scripts/abi_header.py. */", "#include <stdint.h>"]
    for item in ITEM.finditer(text):
        if item["const"]:
            value = re.sub(r"(?<=\w)_(?=\w)", "", item["value"])
            lines.append(f"#define RVMM_{item['const']} ({value})")
            continue
        fields = re.findall(r"^        (\w+): (.+?),$", item["body"], re.M)
        lines.append(f"{of_c(item['struct'])} {{ {' '.join(field(*f) for f in fields)} }};")
        lines.append(f"_Static_assert(sizeof({of_c(item['struct'])}) == {item['bytes']}, \"{item['struct']}\");")
    return "\n".join(lines) + "\n"


def path(folder):
    """Returns the header's path in a folder, having written it if it changed."""
    path, text = os.path.join(folder, "rvmm_abi.h"), header()
    try:
        with open(path, encoding="utf-8") as f:
            is_new = f.read() != text
    except FileNotFoundError:
        is_new = True
    if is_new:
        os.makedirs(folder, exist_ok=True)
        with open(f"{path}.{os.getpid()}", "w", encoding="utf-8") as f:
            f.write(text)
        os.rename(f.name, path)
    return path


if __name__ == "__main__":
    print(header(), end="")
