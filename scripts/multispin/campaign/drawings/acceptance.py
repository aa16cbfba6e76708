"""Survival by position: how often the first l drafted tokens were all accepted, by arm and task."""

from typing import Any

from multispin.campaign.drawings.drawing import Drawing, Table, look_of
from multispin.campaign.drawings.style import legend, new_figure, render
from multispin.campaign.measured import Measured

__all__ = ["acceptance"]


def acceptance(run: Measured) -> Drawing:
    """Return the figure; a panel a task."""
    title = "Acceptance by position and task"
    table = Table(("arm", "task", "position", "drafts that long (n)", "survived"), list(run.survival))
    if not run.survival:
        return Drawing("acceptance", title, "No arm has rounds: nothing was drafted over a link.", "", table)
    drafts = [n for _, _, position, n, _ in run.survival if position == 1]
    caption = (
        "Share of drafts whose tokens up to a position were all accepted, among those at least that long; "
        f"n = {min(drafts)} to {max(drafts)} drafts a line at position 1, in the table at every position. An "
        "agent that drafts longer when it is sure shows a kinder curve: compare arms with that in mind."
    )
    svg, png = render(_draw(run))
    first = "; ".join(f"{arm}, {task}: {share:.2f}" for arm, task, position, _, share in run.survival if position == 1)
    return Drawing("acceptance", title, caption, f"Survival at position 1: {first}.", table, svg, png)


def _draw(run: Measured) -> Any:
    tasks = list(dict.fromkeys(task for _, task, _, _, _ in run.survival))
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, axes = new_figure(0.9 + 2.1 * rows, rows, columns, sharey=True)
    arms = [arm for arm in run.arms if any(row[0] == arm for row in run.survival)]
    for number, axis in enumerate(axes.flat):
        if number >= len(tasks):
            axis.set_visible(False)
            continue
        for arm in arms:
            points = [(row[2], row[4]) for row in run.survival if row[0] == arm and row[1] == tasks[number]]
            look = look_of(run, arm)
            axis.plot(
                [x for x, _ in points],
                [y for _, y in points],
                color=look.colour,
                marker=look.marker,
                linestyle=look.style,
                linewidth=1.2,
                markersize=4.5,
                label=arm,
            )
        axis.set_ylim(0.0, 1.02)
        axis.set_xlabel("position in the draft")
        axis.set_title(tasks[number], fontsize=9)
        axis.xaxis.get_major_locator().set_params(integer=True)
    for row in axes:
        row[0].set_ylabel("survival")
    legend(figure, axes[0][0])
    return figure
