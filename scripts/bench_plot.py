# SPDX-License-Identifier: GPL-2.0

"""Draws the scoreboard: for each row KVM's and rvmm's figure on a logarithmic axis."""

import math
from xml.sax.saxutils import escape

LEFT, RIGHT, WIDTH, LINE, HEAD = 330, 90, 1060, 20, 70
KVM, OURS, AIM, GRID, TEXT = "#b0452c", "#1f6f8b", "#7a9a3a", "#e2e2e2", "#222222"


def svg(board):
    """Returns the drawing as text. Rows without both figures are left out; memory has another unit."""
    rows = [r for r in board["rows"] if "ratio" in r and r["kvm"]["unit"] == "instructions"]
    values = [r[n]["median"] for r in rows for n in ("kvm", "rvmm")]
    floor = board["floor"].get("gprs")
    low = math.floor(math.log10(max(1, min(values + ([floor] if floor else [])))))
    high = math.ceil(math.log10(max(values)))
    height = HEAD + LINE * len(rows) + 30

    def x(value):
        return LEFT + (math.log10(max(value, 1)) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12" fill="{TEXT}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="16" y="24" font-size="16">Instructions of the emulated host for one operation</text>',
        f'<circle cx="22" cy="42" r="5" fill="{OURS}"/><text x="32" y="46">rvmm</text>',
        f'<circle cx="92" cy="42" r="5" fill="{KVM}"/><text x="102" y="46">KVM</text>',
        f'<path d="M162 36v12" stroke="{AIM}" stroke-width="3"/><text x="170" y="46">target</text>',
        f'<text x="{WIDTH - 14}" y="46" text-anchor="end">rvmm / KVM</text>',
    ]
    for power in range(low, high + 1):
        at = x(10 ** power)
        parts.append(f'<path d="M{at:.1f} {HEAD - 6}V{height - 24}" stroke="{GRID}"/>'
                     f'<text x="{at:.1f}" y="{height - 8}" text-anchor="middle">{10 ** power:,}</text>')
    if floor:
        parts.append(f'<path d="M{x(floor):.1f} {HEAD - 6}V{height - 24}" stroke="{TEXT}" stroke-dasharray="3 3"/>'
                     f'<text x="{x(floor) + 4:.1f}" y="{HEAD - 10}">floor {floor:.0f}</text>')
    for number, row in enumerate(rows):
        y = HEAD + LINE * number + 8
        ours, theirs = x(row["rvmm"]["median"]), x(row["kvm"]["median"])
        parts.append(f'<text x="{LEFT - 14}" y="{y + 4}" text-anchor="end">{escape(row["title"])}</text>'
                     f'<path d="M{min(ours, theirs):.1f} {y}H{max(ours, theirs):.1f}" stroke="#999999"/>')
        if row["target"]:
            at = x(row["kvm"]["median"] * row["target"])
            parts.append(f'<path d="M{at:.1f} {y - 6}v12" stroke="{AIM}" stroke-width="3"/>')
        parts.append(f'<circle cx="{theirs:.1f}" cy="{y}" r="5" fill="{KVM}"/>'
                     f'<circle cx="{ours:.1f}" cy="{y}" r="5" fill="{OURS}"/>'
                     f'<text x="{WIDTH - 14}" y="{y + 4}" text-anchor="end">{row["ratio"]:.3f}</text>')
    return "\n".join(parts + ["</svg>", ""])
