"""Where cooperation pays: the ratio of the best cooperating arm's TPOT to a rival's, over users and link."""

from typing import Any, NamedTuple

from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.patches import Rectangle

from multispin.campaign.drawings.drawing import Drawing, Table, whole
from multispin.campaign.drawings.style import COLOURS, INK, new_figure, render
from multispin.campaign.effects import EffectRow, effects_at
from multispin.campaign.measured import Measured
from multispin.campaign.metrics import METRICS
from multispin.campaign.plan import Cooperation

__all__ = ["crossover"]

_BLUE_TO_VERMILLION = LinearSegmentedColormap.from_list("cooperation", [COLOURS[0], "#f4f4f4", COLOURS[1]])


class _Square(NamedTuple):
    rival: str
    users: str
    link: str
    row: EffectRow


def crossover(run: Measured) -> Drawing:
    """Return the map; at each users and link the arm with the least ratio is shown, and named in the table."""
    title = "Cross-over: where cooperation pays (TPOT)"
    squares = _squares(run)
    columns = ("rival", "users", "link", "best arm", "ratio of TPOT", "low", "high", "p (Holm)", "n", "verdict")
    table = Table(
        columns,
        [
            (
                *(each.rival, each.users, each.link, each.row.arm),
                *(each.row.effect.estimate, each.row.effect.low, each.row.effect.high, each.row.p_adjusted),
                *(each.row.effect.num_blocks, each.row.verdict),
            )
            for each in squares
        ],
    )
    if not squares:
        return Drawing(
            "crossover", title, "Needs an arm that cooperates, a rival, and levels of users or link.", "", table
        )
    others = [name for name in run.varied if name not in {"users", "link"}]
    caption = (
        "Ratio of the least TPOT of any cooperating arm to the rival's: blue, below 1, cooperation is faster; "
        "vermillion, above 1, it is slower. The arm is chosen with the same data, which flatters it a little. "
        f"Framed where a difference was found; n = {whole([each.row.effect.num_blocks for each in squares])} "
        "device-blocks a square. An arm that a link does not concern is shown at all links."
        + (f" Mean over {', '.join(others)}." if others else "")
    )
    won, lost = (sum(each.row.verdict == verdict for each in squares) for verdict in ("better", "worse"))
    words = f"{len(squares)} squares: cooperation is faster in {won}, slower in {lost}, nothing found in the rest."
    svg, png = render(_draw(run, squares))
    return Drawing("crossover", title, caption, words, table, svg, png)


def _squares(run: Measured) -> list[_Square]:
    names = [name for name in ("users", "link") if name in run.varied]
    if not names:
        return []
    [tpot] = [metric for metric in METRICS if metric.name == "tpot_s"]
    best: dict[tuple[str, str, str], EffectRow] = {}
    links = [str(level) for level in run.levels("link")] or ["none"]
    for row in effects_at(run, tpot, names):
        if row.effect.estimate is None or not isinstance(run.arms[row.arm], Cooperation):
            continue
        own_links = [str(row.levels["link"])] if "link" in row.levels else links if "link" in run.varied else ["any"]
        for link in own_links:
            key = row.rival, str(row.levels.get("users", "any")), link
            held = best.get(key)
            if held is None or (held.effect.estimate or 0.0) > row.effect.estimate:
                best[key] = row
    return [_Square(*key, row) for key, row in best.items()]


def _draw(run: Measured, squares: list[_Square]) -> Any:
    rivals = list(dict.fromkeys(each.rival for each in squares))
    users = _present([str(level) for level in run.levels("users")], {each.users for each in squares})
    links = _present([str(level) for level in run.levels("link")], {each.link for each in squares})
    columns = min(2, len(rivals))
    rows = -(-len(rivals) // columns)
    figure, axes = new_figure(rows * (1.3 + 0.45 * len(links)), rows, columns)
    for number, axis in enumerate(axes.flat):
        axis.grid(visible=False)
        if number >= len(rivals):
            axis.set_visible(False)
            continue
        for each in squares:
            if each.rival == rivals[number]:
                _square(axis, each, users.index(each.users), links.index(each.link))
        axis.set_xlim(-0.5, len(users) - 0.5)
        axis.set_ylim(-0.5, len(links) - 0.5)
        axis.set_xticks(range(len(users)), users)
        axis.set_yticks(range(len(links)), links)
        axis.set_xlabel("users")
        axis.set_ylabel("link")
        axis.set_title(f"against {rivals[number]}", fontsize=9)
    return figure


def _present(levels: list[str], found: set[str]) -> list[str]:
    """Return the levels that occur, in their order; "any" where a factor is not varied."""
    return [level for level in levels if level in found] + sorted(found - set(levels))


def _square(axis: Any, square: _Square, x: int, y: int) -> None:
    ratio = square.row.effect.estimate or 1.0
    colour = _BLUE_TO_VERMILLION(LogNorm(0.4, 2.5, clip=True)(ratio))
    is_found = square.row.verdict in {"better", "worse"}
    axis.add_patch(
        _rectangle(x, y, colour, INK if is_found else "none")  # the frame tells it without the colour
    )
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 0.55
    axis.text(x, y, f"{ratio:.2f}", ha="center", va="center", fontsize=9, color="#ffffff" if dark else "#111111")


def _rectangle(x: int, y: int, colour: Any, edge: str) -> Any:
    return Rectangle((x - 0.46, y - 0.42), 0.92, 0.84, facecolor=colour, edgecolor=edge, linewidth=1.8)
