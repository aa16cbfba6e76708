"""Effects with their intervals: every arm against every rival, a panel a metric."""

import math
from typing import Any, Final

from multispin.campaign.drawings.drawing import Drawing, Table, energy_words, look_of, whole
from multispin.campaign.drawings.style import INK, new_figure, render, wrapped
from multispin.campaign.effects import ALL, EffectRow
from multispin.campaign.measured import Measured

__all__ = ["effect_table", "forest"]

_TICKS: Final = (0.05, 0.1, 0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0, 10.0, 20.0)


def effect_table(rows: list[EffectRow]) -> Table:
    """Return effects as numbers."""
    columns = ("metric", "arm", "rival", "setting", "device", "scale", "estimate", "low", "high", "p (Holm)")
    return Table(
        (*columns, "device-blocks (n)", "devices", "verdict", "why no interval"),
        [
            (
                *(row.metric.title, row.arm, row.rival, row.setting, row.device or "all", row.effect.scale),
                *(row.effect.estimate, row.effect.low, row.effect.high, row.p_adjusted),
                *(row.effect.num_blocks, row.effect.num_devices, row.verdict, row.effect.reason),
            )
            for row in rows
        ],
    )


def forest(run: Measured, found: list[EffectRow]) -> Drawing:
    """Return the figure of the comparisons over all settings."""
    rows = [row for row in found if row.setting == ALL and not row.device and row.metric.is_ratio]
    label, sentence = energy_words(run)
    title = "Effect of every arm against its rivals"
    table = effect_table([row for row in found if row.setting == ALL and not row.device])
    drawn = [row for row in rows if row.effect.estimate is not None]
    if not drawn:
        return Drawing("effects", title, "No arm shares device-blocks with a rival.", "", table)
    blocks = whole([row.effect.num_blocks for row in drawn])
    caption = (
        "Ratio of the arm's figure to its rival's, geometric mean of paired device-blocks over all settings, with 95 % "
        f"intervals over device-blocks; n = {blocks}. Left of 1 is less: better for times and joules, worse for "
        "goodput. A point without a line has too few blocks for an interval."
    )
    if any(row.metric.name == "energy_j_per_token" for row in drawn):
        caption += f" {sentence}"
    words = "; ".join(
        f"{row.metric.title}, {row.arm} against {row.rival}: {row.effect.estimate:.2f}" for row in drawn[:12]
    )
    svg, png = render(_draw(run, drawn, label))
    return Drawing("effects", title, caption, f"Ratios. {words}.", table, svg, png)


def _draw(run: Measured, rows: list[EffectRow], label: str) -> Any:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    pairs = list(dict.fromkeys((row.arm, row.rival) for row in rows))
    columns = min(3, len(metrics))
    lines = -(-len(metrics) // columns)
    figure, axes = new_figure(lines * (0.75 + 0.36 * len(pairs)), lines, columns, sharey=True)
    for number, axis in enumerate(axes.flat):
        if number >= len(metrics):
            axis.set_visible(False)
            continue
        metric = metrics[number]
        axis.axvline(1.0, color=INK, linewidth=0.8)
        for row in rows:
            if row.metric != metric:
                continue
            y, look, effect = pairs.index((row.arm, row.rival)), look_of(run, row.arm), row.effect
            if effect.low is not None and effect.high is not None:
                axis.plot([effect.low, effect.high], [y, y], color=look.colour, linewidth=1.6)
            axis.plot([effect.estimate], [y], color=look.colour, marker=look.marker, markersize=5.0)
        axis.set_xscale("log")
        ends = [
            value
            for row in rows
            if row.metric == metric
            for value in (row.effect.low, row.effect.estimate, row.effect.high)
            if value is not None
        ]
        reach = max(1.25, *(max(value, 1.0 / value) for value in ends if 0.0 < value < math.inf))
        reach = min(reach * 1.1, 30.0)
        axis.set_xlim(1.0 / reach, reach)
        ticks = [tick for tick in _TICKS if 1.0 / reach < tick < reach]
        if reach > 2.2:
            ticks = [tick for tick in ticks if tick not in {0.8, 1.25}]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_xticks([], minor=True)
        suffix = f"\n({label})" if metric.name == "energy_j_per_token" else ""
        axis.set_title(wrapped(metric.title, 30) + suffix, fontsize=8.5)
        axis.set_yticks(range(len(pairs)), [f"{wrapped(a, 22)}\nvs {wrapped(b, 22)}" for a, b in pairs], fontsize=7.5)
        axis.set_ylim(len(pairs) - 0.5, -0.5)
    return figure
