"""Acceptance against cost as an SVG: a number for each draft, one shape for each temperature, the names below."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Point", "draw_drafts"]

_WIDTH, _HEIGHT, _LEFT, _TOP = 560, 300, 60, 30
_LINE = 16
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito


class Point(NamedTuple):
    """A draft.

    Attributes:
        name: pair, engine and recipe.
        cost: a row of the draft in rows of the target.
        acceptance: accepted of drafted tokens at each temperature; null where nothing was drafted.
    """

    name: str
    cost: float
    acceptance: Sequence[float | None]


def draw_drafts(points: Sequence[Point], temperatures: Sequence[float], num_draft_tokens: int, note: str) -> str:
    """Return an SVG; up and left is better.

    Args:
        points: in the order of their numbers.
        temperatures: of each point's acceptance, in order.
        num_draft_tokens: of a round.
        note: what was measured, on what, a line.
    """
    widest = max(1.0, *(point.cost for point in points)) * 1.05
    below = _TOP + _HEIGHT + 50
    height = below + _LINE * (len(points) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 40} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="100%" height="100%" fill="white"/><text x="{_LEFT}" y="14">accepted of drafted tokens, '
        f"L = {num_draft_tokens}, against cost</text>",
    ]
    for tenth in range(0, 11, 2):
        y = _TOP + _HEIGHT * (1 - tenth / 10)
        parts.append(f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.0f}" text-anchor="end">{tenth / 10:.1f}</text>')
    for quarter in range(int(widest * 4) + 1):
        x = _LEFT + _WIDTH * quarter / 4 / widest
        parts.append(f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{_TOP}" y2="{_TOP + _HEIGHT}" stroke="#ddd"/>')
        text = f"{quarter / 4:.2f}"
        parts.append(f'<text x="{x:.0f}" y="{_TOP + _HEIGHT + 14}" text-anchor="middle">{text}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_TOP + _HEIGHT + 30}">a row of the draft, in rows of the target</text>')
    for number, point in enumerate(points):
        colour, x = _COLOURS[number % len(_COLOURS)], _LEFT + _WIDTH * point.cost / widest
        for place, rate in enumerate(point.acceptance):
            if rate is None:
                continue
            y = _TOP + _HEIGHT * (1 - rate)
            fill = colour if place == 0 else "white"
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}"/>')
            parts.append(f'<text x="{x + 7:.1f}" y="{y + 4:.1f}">{number + 1}</text>')
        shares = ", ".join(
            f"{'-' if rate is None else f'{rate:.3f}'} at {temperature:g}"
            for rate, temperature in zip(point.acceptance, temperatures, strict=True)
        )
        text = f"{number + 1}  {escape(point.name)}: {shares}; cost {point.cost:.2f}"
        parts.append(f'<text x="{_LEFT}" y="{below + _LINE * number}" fill="{colour}">{text}</text>')
    shapes = f"filled: temperature {temperatures[0]:g}" + ("; hollow: the others" if len(temperatures) > 1 else "")
    parts.append(f'<text x="{_LEFT}" y="{below + _LINE * len(points)}">{shapes}; {escape(note)}</text>')
    return "\n".join([*parts, "</svg>", ""])
