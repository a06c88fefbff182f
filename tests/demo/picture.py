# SPDX-License-Identifier: Apache-2.0
"""Draws what the client of a moving pod felt, as an SVG: the longest answer over time."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 960, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 44, 36
LOW_MS, HIGH_MS = 0.1, 10_000.0
STYLE = """text{font:12px sans-serif;fill:#333}.title{font-size:14px;font-weight:bold}
.grid{stroke:#ddd}.dot{fill:#1f6feb}.late{fill:#d1242f}.move{fill:#1f6feb;opacity:.12}
@media(prefers-color-scheme:dark){text{fill:#ccc}.grid{stroke:#444}svg{background:#111}}"""


@dataclass(frozen=True)
class Panel:
    """One timeline.

    Attributes:
        title: above it.
        points: seconds, answers, the longest of them in milliseconds; for each 20 ms.
        moves: begin and end of each move, seconds.
    """

    title: str
    points: Sequence[tuple[float, int, float]]
    moves: Sequence[tuple[float, float]]


def draw(panels: Sequence[Panel]) -> str:
    """All panels, one below the other, as one SVG document."""
    parts = [_panel(one, number * HEIGHT) for number, one in enumerate(panels)]
    height = HEIGHT * len(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}"><style>{STYLE}</style>{"".join(parts)}</svg>\n'
    )


def _panel(panel: Panel, offset: int) -> str:
    until_s = max((point[0] for point in panel.points), default=1.0) or 1.0

    def x(at_s: float) -> float:
        return LEFT + at_s / until_s * (WIDTH - LEFT - RIGHT)

    def y(took_ms: float) -> float:
        share = math.log(min(max(took_ms, LOW_MS), HIGH_MS) / LOW_MS) / math.log(HIGH_MS / LOW_MS)
        return offset + HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    out = [f'<text class="title" x="{LEFT}" y="{offset + 22}">{html.escape(panel.title)}</text>']
    for begin_s, end_s in panel.moves:
        out.append(
            f'<rect class="move" x="{x(begin_s):.1f}" y="{offset + TOP}" '
            f'width="{max(2.0, x(end_s) - x(begin_s)):.1f}" height="{HEIGHT - TOP - BOTTOM}"/>'
        )
    for line_ms in (0.1, 1, 10, 100, 1000, 10_000):
        at = y(line_ms)
        label = f"{line_ms:g} ms" if line_ms < 1000 else f"{line_ms / 1000:g} s"
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{label}</text>')
    for second in range(0, int(until_s) + 1, max(1, int(until_s // 10))):
        where = f'x="{x(second):.1f}" y="{offset + HEIGHT - 12}"'
        out.append(f'<text {where} text-anchor="middle">{second} s</text>')
    for at_s, _, longest_ms in panel.points:
        kind = "late" if longest_ms >= 100 else "dot"
        out.append(
            f'<circle class="{kind}" cx="{x(at_s):.1f}" cy="{y(longest_ms):.1f}" '
            f'r="{3 if longest_ms >= 100 else 1.6}"/>'
        )
    return "".join(out)
