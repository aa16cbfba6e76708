"""Whether a campaign may stop: the differences of every hypothesis by block, and how well their mean is known."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from statistics import mean

from multispin.campaign.figures import CellFigures
from multispin.campaign.folder import Cell
from multispin.campaign.plan import Hypothesis, Plan
from multispin.campaign.power import half_width

__all__ = ["differences", "stop_reason"]


def differences(
    hypothesis: Hypothesis, cells: Iterable[Cell], figures: Callable[[Cell], CellFigures]
) -> dict[tuple[str, int], float]:
    """Return ln(arm / rival) by device and block, the mean over the levels that both have.

    Args:
        hypothesis: which arms, which metric.
        cells: completed, and not excluded.
        figures: of a cell.
    """
    by_block: dict[tuple[str, int], dict[str, list[tuple[Cell, float]]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if cell.arm in {hypothesis.arm, hypothesis.rival}:
            value = getattr(figures(cell), hypothesis.metric)
            if value:
                by_block[cell.device, cell.block][cell.arm].append((cell, value))
    found = {}
    for key, arms in by_block.items():
        ratios = [
            math.log(own / other)
            for cell, own in arms[hypothesis.arm]
            for rival, other in arms[hypothesis.rival]
            if all(rival.factors.get(name, level) == level for name, level in cell.factors.items())
        ]
        if ratios:
            found[key] = mean(ratios)
    return found


def stop_reason(
    plan: Plan, num_blocks: int, cells: Collection[Cell], figures: Callable[[Cell], CellFigures]
) -> str | None:
    """Return why the campaign may stop after so many whole blocks; null if it may not.

    Args:
        plan: with its rule.
        num_blocks: that are complete.
        cells: of these blocks, completed and not excluded.
        figures: of a cell.
    """
    rule = plan.stop
    if rule is None or num_blocks < rule.min_blocks or not plan.hypotheses:
        return None
    widths = []
    for hypothesis in plan.hypotheses:
        found = differences(hypothesis, cells, figures)
        for device in plan.devices:
            own = [value for (name, _), value in sorted(found.items()) if name == device.name]
            widths.append(half_width(own, rule.confidence))
    if max(widths) > rule.half_width:
        return None
    return f"every interval is within {max(widths):.4f}, asked was {rule.half_width:g}, after {num_blocks} blocks"
