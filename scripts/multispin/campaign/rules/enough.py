"""Rules 600: there is enough of it, and little was left out."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from multispin.campaign.rules.evidence import RunEvidence
from multispin.campaign.rules.rule import RunRule

__all__ = ["RULES"]

_SHOWN = 5


def check_blocks(run: RunEvidence) -> Iterator[str]:
    """Every arm, at every setting, has {min_blocks} blocks or more on every device: fewer give no interval.

    (MLPerf Tiny repeats its energy run five times.)
    """
    blocks: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for cell in run.cells:
        blocks[cell.device, cell.arm, _setting(cell.factors)] |= set()
    for cell in run.counted:
        blocks[cell.device, cell.arm, _setting(cell.factors)].add(cell.block)
    few = [(key, len(own)) for key, own in blocks.items() if len(own) < run.thresholds.min_blocks]
    for (device, arm, setting), count in few[:_SHOWN]:
        yield f"{arm} ({setting}) on {device}: {count} blocks, {run.thresholds.min_blocks} are needed"
    if len(few) > _SHOWN:
        yield f"and {len(few) - _SHOWN} more of {len(blocks)}"


def check_excluded(run: RunEvidence) -> Iterator[str]:
    """Of every arm, at most {max_excluded:.0%} of the cells were excluded.

    Leaving out what disappoints is no measurement.
    """
    scheduled = Counter(cell.arm for cell in run.cells)
    excluded = Counter(cell.arm for cell in run.cells if cell.cell_id in run.excluded)
    for arm, count in excluded.items():
        if count > run.thresholds.max_excluded * scheduled[arm]:
            yield f"{arm}: {count} of {scheduled[arm]} cells are excluded"


def check_hypotheses(run: RunEvidence) -> Iterator[str]:
    """Both arms of every hypothesis of the plan were measured in the same blocks."""
    blocks: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for cell in run.counted:
        blocks[cell.arm].add((cell.device, cell.block))
    for each in run.plan.plan.hypotheses:
        shared = len(blocks[each.arm] & blocks[each.rival])
        if shared < run.thresholds.min_blocks:
            yield f"{each.name!r}: {each.arm} and {each.rival} share {shared} device-blocks"


def _setting(factors: dict[str, int | float | str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(factors.items()))


RULES = (RunRule(601, check_blocks), RunRule(602, check_excluded), RunRule(603, check_hypotheses))
