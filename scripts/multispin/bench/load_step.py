"""How the control follows a step of the load: from the rounds of one run, with a picture. No I/O.

At first one user, then several, then one again. A user is in one of two modes: its agent drafts, or the coordinator
goes on alone. The control has settled after a step when no mode changes any more.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from msgspec import Struct

from multispin_models.records import RoundRecord

__all__ = ["Phase", "arrived_s", "draw", "look_at", "modes_of"]

BIN_S = 0.5
LEAST = 3  # rounds of one kind in a row that are a mode: a draft that an agent has no guess for is none


class Phase(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One phase of the run.

    Attributes:
        users: at once.
        seconds: of the phase.
        settled_s: from its begin to the last change of a mode; 0 without one.
        changes: of modes, of all its users, the first mode of a request not counted.
        alone_share: of the tokens after it had settled.
        goodput_tokens_per_s: after it had settled; null if nothing is left of it.
    """

    users: int
    seconds: float
    settled_s: float
    changes: int
    alone_share: float | None
    goodput_tokens_per_s: float | None


class Mode(NamedTuple):
    """Since when an agent is in a mode, and in which."""

    since_s: float
    is_alone: bool


def arrived_s(record: RoundRecord) -> float:
    """Return when a round's verdict came, by the monotonic clock."""
    return record.sent_ns / 1e9 + record.round_trip_s


def modes_of(rounds: Iterable[RoundRecord]) -> list[Mode]:
    """Return the modes of one agent in order; runs of fewer than `LEAST` rounds are none of their own."""
    found: list[Mode] = []
    kind, since_s, count = None, 0.0, 0
    for record in sorted((each for each in rounds if not each.is_open), key=arrived_s):
        is_alone = record.num_draft_tokens == 0
        if is_alone is not kind:
            kind, since_s, count = is_alone, arrived_s(record), 0
        count += 1
        if count == LEAST and (not found or found[-1].is_alone is not kind):
            found.append(Mode(since_s, is_alone))
    return found


def look_at(rounds: Sequence[RoundRecord], begin_s: float, end_s: float, users: int) -> Phase:
    """Return what happened between two instants of the monotonic clock."""
    by_agent: dict[str, list[RoundRecord]] = defaultdict(list)
    for record in rounds:
        by_agent[record.agent_id].append(record)
    changes = [
        later.since_s
        for own in by_agent.values()
        for _, later in pairwise(modes_of(own))
        if begin_s <= later.since_s < end_s
    ]
    settled_s = max(changes, default=begin_s) - begin_s
    after = [record for record in rounds if begin_s + settled_s <= arrived_s(record) < end_s]
    tokens = sum(record.num_accepted + 1 for record in after)
    left_s = end_s - begin_s - settled_s
    return Phase(
        users=users,
        seconds=end_s - begin_s,
        settled_s=settled_s,
        changes=len(changes),
        alone_share=sum(record.num_draft_tokens == 0 for record in after) / tokens if tokens else None,
        goodput_tokens_per_s=tokens / left_s if left_s > BIN_S else None,
    )


def draw(rounds: Sequence[RoundRecord], edges_s: Sequence[float], title: str) -> str:
    """Return an SVG by half seconds: goodput of all users, and the share that agents drafted for; steps dashed."""
    begin_s, end_s = edges_s[0], edges_s[-1]
    bins = max(1, int((end_s - begin_s) / BIN_S))
    tokens, drafted = [0] * bins, [0] * bins
    for record in rounds:
        place = int((arrived_s(record) - begin_s) / BIN_S)
        if 0 <= place < bins:
            tokens[place] += record.num_accepted + 1
            drafted[place] += (record.num_accepted + 1) * (record.num_draft_tokens > 0)
    most = max(*tokens, 1)
    width, height, left, top = 640, 120, 50, 30

    def line(values: Sequence[float], y: int, color: str) -> str:
        points = " ".join(
            f"{left + width * (place + 0.5) / bins:.1f},{y + height * (1 - value):.1f}"
            for place, value in enumerate(values)
        )
        return f'<polyline fill="none" stroke="{color}" points="{points}"/>'

    lower = top + height + 40
    shares = [part / whole if whole else 0.0 for part, whole in zip(drafted, tokens, strict=True)]
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 360" font-family="sans-serif" font-size="11">',
        f'<text x="{left}" y="14">{title}</text>',
        f'<text x="{left}" y="{top - 3}">tokens/s, all users; top {most / BIN_S:.0f}</text>',
        line([value / most for value in tokens], top, "#1f77b4"),
        f'<text x="{left}" y="{lower - 3}">share of tokens from rounds that an agent drafted for; top 1</text>',
        line(shares, lower, "#d62728"),
    ]
    for edge in edges_s:
        x = left + width * (edge - begin_s) / (end_s - begin_s)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{lower + height}" stroke="#999" stroke-dasharray="3"/>'
        )
        parts.append(f'<text x="{x:.1f}" y="{lower + height + 14}">{edge - begin_s:.1f} s</text>')
    return "\n".join([*parts, "</svg>", ""])
