"""Where the time of a round goes, by arm: a bar an arm, its parts in their order."""

from typing import Any, Final

from multispin.campaign.drawings.drawing import Drawing, Table, whole
from multispin.campaign.drawings.style import INK, legend, new_figure, render, wrapped
from multispin.campaign.measured import Measured

__all__ = ["round_parts"]

_PARTS: Final = (
    ("draft_wait_s", "draft", "#0072B2", ""),
    ("rewind_s", "rewind", "#F0E442", "///"),
    ("agent_queue_s", "queue at the agent", "#56B4E9", "\\\\\\"),
    ("uplink_s", "uplink", "#E69F00", ""),
    ("coordinator_queue_s", "queue at the coordinator", "#CC79A7", "..."),
    ("verify_s", "verify", "#009E73", ""),
    ("downlink_s", "downlink", "#D55E00", "xxx"),
)


def round_parts(run: Measured) -> Drawing:
    """Return the figure."""
    title = "Where the time of a round goes"
    columns = (
        "arm",
        *(f"{words}, ms" for _, words, _, _ in _PARTS),
        "sum, ms",
        "tokens a round",
        "sum, ms a token",
        "rounds (n)",
    )
    ordered = sorted(run.parts, key=lambda row: list(run.arms).index(row[0]))
    table = Table(
        columns,
        [
            (
                *(arm, *(1e3 * own[name] for name, *_ in _PARTS)),
                *(1e3 * sum(own.values()), tokens, 1e3 * sum(own.values()) / tokens, n),
            )
            for arm, own, tokens, n in ordered
        ],
    )
    if not ordered:
        return Drawing("round-parts", title, "No round has one-way times: no arm drafts over a link.", "", table)
    caption = (
        f"Mean from verdict to verdict, n = {whole([n for *_, n in ordered])} rounds an arm; openings, and rounds in "
        "which a clock jumped, are left out. Up- and downlink are no surer than the clock bound, their sum is."
    )
    words = "; ".join(
        f"{arm}: {1e3 * sum(own.values()):.3g} ms, most of it {max(_PARTS, key=lambda part: own[part[0]])[1]}"
        for arm, own, *_ in ordered
    )
    svg, png = render(_draw(ordered))
    return Drawing("round-parts", title, caption, f"Bars of the mean round. {words}.", table, svg, png)


def _draw(ordered: list[tuple[str, dict[str, float], float, int]]) -> Any:
    figure, axes = new_figure(1.3 + 0.42 * len(ordered))
    [[axis]] = axes
    left = [0.0] * len(ordered)
    for name, words, colour, hatch in _PARTS:
        widths = [1e3 * own[name] for _, own, _, _ in ordered]
        axis.barh(
            range(len(ordered)),
            widths,
            left=left,
            color=colour,
            edgecolor=INK,
            linewidth=0.4,
            hatch=hatch,
            label=words,
            height=0.62,
        )
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.set_yticks(range(len(ordered)), [wrapped(arm) for arm, *_ in ordered])
    axis.invert_yaxis()
    axis.set_xlabel("ms a round")
    legend(figure, axis, 4)
    return figure
