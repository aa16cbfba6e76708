"""Latency against energy: every arm at every setting a point, and the line of those that no other beats in both."""

from collections import defaultdict
from statistics import median
from typing import Any

from multispin.campaign.drawings.drawing import Drawing, Table, energy_words, look_of, whole
from multispin.campaign.drawings.style import INK, legend, new_figure, render
from multispin.campaign.effects import setting_of
from multispin.campaign.measured import Measured

__all__ = ["pareto"]


def pareto(run: Measured) -> Drawing:
    """Return the figure; points are medians over device-blocks."""
    label, sentence = energy_words(run)
    title = f"Latency against energy ({label})"
    points: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for each in run.cells:
        if each.tpot_s is not None and each.energy_j_per_token is not None:
            points[each.cell.arm, setting_of(run.varied, each.cell.factors)].append(
                (each.tpot_s, each.energy_j_per_token)
            )
    middle = {
        key: (1e3 * median(x for x, _ in own), median(y for _, y in own), len(own)) for key, own in points.items()
    }
    best = [
        key
        for key, (x, y, _) in middle.items()
        if not any(a <= x and b <= y and (a, b) != (x, y) for a, b, _ in middle.values())
    ]
    table = Table(
        ("arm", "setting", "TPOT, ms", f"J/token ({label})", "n", "on the front"),
        [(arm, setting, x, y, n, (arm, setting) in best) for (arm, setting), (x, y, n) in sorted(middle.items())],
    )
    labels = {each.energy_label for each in run.cells if each.energy_label is not None}
    if not middle or len(labels) > 1:
        why = "Joules of different labels are not drawn together. " if middle else "Nothing to draw. "
        return Drawing("pareto", title, why + sentence, "", table)
    caption = (
        f"Medians of TPOT and joules a token, n = {whole([n for _, _, n in middle.values()])} cells a point; left and "
        f"below is better, the line joins points that no other beats in both. {sentence}"
    )
    words = "; ".join(
        f"{arm} ({setting}): {middle[arm, setting][0]:.3g} ms, {middle[arm, setting][1]:.3g} J" for arm, setting in best
    )
    svg, png = render(_draw(run, middle, best, label))
    return Drawing("pareto", title, caption, f"On the front: {words}.", table, svg, png)


def _draw(
    run: Measured, middle: dict[tuple[str, str], tuple[float, float, int]], best: list[tuple[str, str]], label: str
) -> Any:
    figure, axes = new_figure(3.4)
    [[axis]] = axes
    front = sorted(middle[key][:2] for key in best)
    axis.plot([x for x, _ in front], [y for _, y in front], color=INK, linewidth=0.9, linestyle=":")
    for arm in run.arms:
        own = [each for (name, _), each in middle.items() if name == arm]
        if own:
            look = look_of(run, arm)
            axis.plot(
                [x for x, _, _ in own],
                [y for _, y, _ in own],
                color=look.colour,
                marker=look.marker,
                linestyle="",
                markersize=5.5,
                label=arm,
            )
    axis.set_xlim(left=0.0)
    axis.set_ylim(bottom=0.0)
    axis.set_xlabel("TPOT, ms")
    axis.set_ylabel(f"J/token ({label})")
    legend(figure, axis, 4)
    return figure
