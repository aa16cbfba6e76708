"""Temperatures through the run: the hottest zone of every machine, looks in cells that do not count marked."""

from collections import defaultdict
from typing import Any

from multispin.campaign.drawings.drawing import Drawing, Table, whole
from multispin.campaign.drawings.style import COLOURS, INK, STYLES, legend, new_figure, render
from multispin.campaign.measured import Measured

__all__ = ["thermal"]


def thermal(run: Measured) -> Drawing:
    """Return the figure."""
    title = "Temperatures through the run"
    traces: dict[str, list[tuple[float, float, bool]]] = defaultdict(list)
    for device, end, seconds, celsius, is_counted in run.thermal:
        traces[f"{device}, {end}"].append((seconds, celsius, is_counted))
    table = Table(
        ("machine", "looks (n)", "least, °C", "most, °C", "first, °C", "last, °C"),
        [
            (name, len(own), min(y for _, y, _ in own), max(y for _, y, _ in own), own[0][1], own[-1][1])
            for name, own in traces.items()
        ],
    )
    if not traces:
        return Drawing("thermal", title, "No machine told a temperature.", "", table)
    limit = run.plan.limits.max_temperature_c
    caption = (
        f"Hottest zone at every look, n = {whole([len(own) for own in traces.values()])} looks a machine; wall time "
        "from each machine's first look. Crosses: looks in cells that do not count."
    )
    if limit is not None:
        caption += f" The plan's limit is {limit:g} °C."
    words = "; ".join(f"{name}: {row[2]:.0f} to {row[3]:.0f} °C" for name, row in zip(traces, table.rows, strict=True))
    svg, png = render(_draw(traces, limit))
    return Drawing("thermal", title, caption, f"Temperatures. {words}.", table, svg, png)


def _draw(traces: dict[str, list[tuple[float, float, bool]]], limit: float | None) -> Any:
    figure, axes = new_figure(2.6)
    [[axis]] = axes
    for number, (name, own) in enumerate(traces.items()):
        colour = COLOURS[number % len(COLOURS)]
        axis.plot(
            [x / 60.0 for x, _, _ in own],
            [y for _, y, _ in own],
            color=colour,
            linestyle=STYLES[number % len(STYLES)],
            linewidth=1.0,
            label=name,
        )
        out = [(x, y) for x, y, is_counted in own if not is_counted]
        axis.plot([x / 60.0 for x, _ in out], [y for _, y in out], color=colour, marker="x", linestyle="")
    if limit is not None:
        axis.axhline(limit, color=INK, linewidth=0.8, linestyle=":")
    axis.set_xlabel("minutes")
    axis.set_ylabel("°C")
    legend(figure, axis, 3)
    return figure
