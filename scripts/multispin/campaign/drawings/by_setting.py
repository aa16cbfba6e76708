"""A metric of every arm over users, a panel a link: medians over device-blocks, with their range."""

from collections import defaultdict
from statistics import mean, median
from typing import Any

from multispin.campaign.drawings.drawing import Drawing, Table, energy_words, look_of, whole
from multispin.campaign.drawings.style import legend, new_figure, render
from multispin.campaign.measured import Measured
from multispin.campaign.metrics import Metric

__all__ = ["by_setting"]

_Key = tuple[str, str, str]  # arm, panel, place on the axis


def by_setting(run: Measured, metric: Metric) -> Drawing:
    """Return the figure of a metric; factors besides users and link are averaged over within a device-block."""
    x_factor = next((name for name in ("users", "link") if name in run.varied), "")
    panel_factor = "link" if x_factor == "users" and "link" in run.varied else ""
    places = [str(level) for level in run.levels(x_factor)] if x_factor else [""]
    panels = [str(level) for level in run.levels(panel_factor)] if panel_factor else [""]
    figures = _figures(run, metric, x_factor, panel_factor, places, panels)
    label, sentence = energy_words(run)
    is_energy = metric.name == "energy_j_per_token"
    title = f"{metric.title} by arm" + (f" ({label})" if is_energy else "")
    others = [name for name in run.varied if name not in {x_factor, panel_factor}]
    caption = (
        f"Median over device-blocks, lines from least to most; n = {whole([len(own) for own in figures.values()])} "
        f"device-blocks a point. {'Lower' if metric.lower_is_better else 'Higher'} is better."
    )
    if others:
        caption += f" Mean over {', '.join(others)} within a block."
    if is_energy:
        caption += f" {sentence}"
    table = Table(
        ("arm", panel_factor or "link", x_factor or "setting", f"median, {metric.unit}", "least", "most", "n"),
        [
            (arm, panel, place, median(own) * metric.scale, min(own) * metric.scale, max(own) * metric.scale, len(own))
            for (arm, panel, place), own in figures.items()
        ],
    )
    name = metric.name.removesuffix("_per_s").removesuffix("_s")
    if is_energy and len({each.energy_label for each in run.cells} - {None}) > 1:
        return Drawing(name, title, f"Joules of different labels are not drawn together. {sentence}", "", table)
    if not figures:
        return Drawing(name, title, f"Nothing to draw. {sentence if is_energy else ''}", "", table)
    svg, png = render(_draw(run, metric, figures, places, panels, x_factor, panel_factor, label if is_energy else ""))
    return Drawing(name, title, caption, _words(metric, figures, x_factor), table, svg, png)


def _figures(
    run: Measured, metric: Metric, x_factor: str, panel_factor: str, places: list[str], panels: list[str]
) -> dict[_Key, list[float]]:
    """Return a value a device-block by arm, panel and place; an arm without the factor is in all of them."""
    blocks: dict[_Key, dict[tuple[str, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in run.cells:
        value = getattr(each, metric.name)
        if value is None:
            continue
        factors = each.cell.factors
        own_panels = [str(factors[panel_factor])] if panel_factor in factors else panels
        own_places = [str(factors[x_factor])] if x_factor in factors else places
        for panel in own_panels:
            for place in own_places:
                blocks[each.cell.arm, panel, place][each.cell.device, each.cell.block].append(value)
    ordered = [(arm, panel, place) for arm in run.arms for panel in panels for place in places]
    return {key: [mean(own) for own in blocks[key].values()] for key in ordered if key in blocks}


def _draw(
    run: Measured,
    metric: Metric,
    figures: dict[_Key, list[float]],
    places: list[str],
    panels: list[str],
    x_factor: str,
    panel_factor: str,
    label: str,
) -> Any:
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(0.9 + 2.1 * rows, rows, columns, sharey=True)
    arms = [arm for arm in run.arms if any(key[0] == arm for key in figures)]
    for number, axis in enumerate(axes.flat):
        if number >= len(panels):
            axis.set_visible(False)
            continue
        panel = panels[number]
        for place_of_arm, arm in enumerate(arms):
            shift = 0.5 * ((place_of_arm + 0.5) / len(arms) - 0.5)
            points = [(index, figures[arm, panel, x]) for index, x in enumerate(places) if (arm, panel, x) in figures]
            middle = [median(own) * metric.scale for _, own in points]
            below = [m - min(own) * metric.scale for m, (_, own) in zip(middle, points, strict=True)]
            above = [max(own) * metric.scale - m for m, (_, own) in zip(middle, points, strict=True)]
            look = look_of(run, arm)
            axis.errorbar(
                [index + shift for index, _ in points],
                middle,
                yerr=[[max(0.0, each) for each in below], [max(0.0, each) for each in above]],
                color=look.colour,
                marker=look.marker,
                linestyle=look.style,
                linewidth=1.2,
                markersize=4.5,
                label=arm,
            )
        axis.set_xticks(range(len(places)), places)
        axis.set_xlim(-0.5, len(places) - 0.5)
        axis.set_xlabel(x_factor)
        if panel_factor:
            axis.set_title(f"{panel_factor} {panel}", fontsize=9)
    axes[0][0].set_ylim(bottom=0.0)  # shared by all, so only now
    for row in axes:
        row[0].set_ylabel(f"{metric.unit} ({label})" if label else metric.unit)
    legend(figure, axes[0][0])
    return figure


def _words(metric: Metric, figures: dict[_Key, list[float]], x_factor: str) -> str:
    arms = dict.fromkeys(arm for arm, _, _ in figures)
    told = []
    for arm in arms:
        values = [median(own) * metric.scale for key, own in figures.items() if key[0] == arm]
        told.append(f"{arm} {min(values):.3g} to {max(values):.3g}")
    return f"{metric.title} in {metric.unit} over {x_factor or 'arms'}: {'; '.join(told)}."
