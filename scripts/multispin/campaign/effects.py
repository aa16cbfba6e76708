"""What every arm changes against its rivals: over all settings, and at each.

The arms that are judged are those that cooperate, and the draft model alone; the rivals are the target alone, the
coordinator's own speculation, and external servers. A pair is a cell of the arm and the rival's cell of the same
device, block and levels; a factor that does not concern one of them is passed over.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from multispin.campaign.measured import CellFigures, Measured
from multispin.campaign.metrics import METRICS, Metric
from multispin.campaign.plan import Centralised, Cooperation, External, LocalDraft, SingleNode
from multispin.campaign.statistics import Effect, Scale, block_differences, holm, mean_effect

__all__ = ["ALL", "EffectRow", "effects", "effects_at", "judged_arms", "rival_arms", "setting_of"]

ALL: Final = "all settings"
_SEED: Final = 20261127
_Values = dict[tuple[str, int], dict[str, float]]
_Pair = tuple[CellFigures, CellFigures]


class EffectRow(NamedTuple):
    """A comparison.

    Attributes:
        setting: levels that vary, in words; `ALL` for the mean over them.
        levels: of that setting; empty for all.
        device: its name; "" over all devices.
        p_adjusted: Holm's, over the comparisons of this metric that are of the same kind: all (arm, rival) pairs over
            all settings, or all settings of one pair.
    """

    metric: Metric
    arm: str
    rival: str
    setting: str
    levels: dict[str, Any]
    device: str
    effect: Effect
    p_adjusted: float | None

    @property
    def verdict(self) -> str:
        """ "better", "worse", "no difference found" (interval and adjusted p both count), or "not known"."""
        found = self.effect
        if found.low is None or found.high is None or found.estimate is None:
            return "not known"
        neutral = 1.0 if found.scale == "ratio" else 0.0
        if found.low <= neutral <= found.high or self.p_adjusted is None or self.p_adjusted > 0.05:
            return "no difference found"
        return "better" if (found.estimate < neutral) == self.metric.lower_is_better else "worse"


def judged_arms(run: Measured) -> list[str]:
    """Return the arms that are compared with rivals."""
    return [name for name, arm in run.arms.items() if isinstance(arm, Cooperation | LocalDraft)]


def rival_arms(run: Measured) -> list[str]:
    """Return the rivals, the target alone first."""
    kinds = (Centralised, SingleNode, External)
    return [name for kind in kinds for name, arm in run.arms.items() if isinstance(arm, kind)]


def setting_of(names: Sequence[str], factors: dict[str, Any]) -> str:
    """Return a setting in words: the levels of some factors.

    >>> setting_of(["users", "link"], {"users": 4, "task": "all"})
    'users 4'
    """
    return ", ".join(f"{name} {factors[name]}" for name in names if name in factors) or ALL


def effects(run: Measured) -> list[EffectRow]:
    """Return every comparison, of every metric: over all settings, at each, and by device where there are several."""
    found: list[EffectRow] = []
    for metric in METRICS:
        overall: list[EffectRow] = []
        for arm in judged_arms(run):
            for rival in rival_arms(run):
                if pairs := _pairs(run, metric, arm, rival):
                    overall.append(_row(metric, arm, rival, ALL, {}, pairs))
                    found += _adjusted(_by_levels(metric, arm, rival, pairs, run.varied))
                    found += _adjusted(_by_device(metric, arm, rival, pairs))
        found += _adjusted(overall)
    return found


def effects_at(run: Measured, metric: Metric, names: Sequence[str]) -> list[EffectRow]:
    """Return every comparison of a metric at the levels of some factors alone, the mean over those of all others."""
    return [
        row
        for arm in judged_arms(run)
        for rival in rival_arms(run)
        for row in _adjusted(_by_levels(metric, arm, rival, _pairs(run, metric, arm, rival), names))
    ]


def _by_levels(metric: Metric, arm: str, rival: str, pairs: Sequence[_Pair], names: Sequence[str]) -> list[EffectRow]:
    grouped: dict[str, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        grouped[setting_of(names, pair[0].cell.factors)].append(pair)
    if len(grouped) < 2:
        return []
    return [
        _row(metric, arm, rival, setting, _levels(names, own[0][0].cell.factors), own)
        for setting, own in grouped.items()
    ]


def _by_device(metric: Metric, arm: str, rival: str, pairs: Sequence[_Pair]) -> list[EffectRow]:
    grouped: dict[str, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        grouped[pair[0].cell.device].append(pair)
    if len(grouped) < 2:
        return []
    return [_row(metric, arm, rival, ALL, {}, own, device) for device, own in grouped.items()]


def _levels(names: Sequence[str], factors: dict[str, Any]) -> dict[str, Any]:
    return {name: factors[name] for name in names if name in factors}


def _pairs(run: Measured, metric: Metric, arm: str, rival: str) -> list[_Pair]:
    """Return the cells of an arm, each with its rival's; without those where either has no figure."""
    rivals: dict[tuple[str, int], list[CellFigures]] = defaultdict(list)
    for each in run.cells:
        if each.cell.arm == rival:
            rivals[each.cell.device, each.cell.block].append(each)
    found = []
    for mine in run.cells:
        if mine.cell.arm != arm:
            continue
        for other in rivals[mine.cell.device, mine.cell.block]:
            shared = mine.cell.factors.keys() & other.cell.factors.keys()
            if all(mine.cell.factors[name] == other.cell.factors[name] for name in shared):
                values = getattr(mine, metric.name), getattr(other, metric.name)
                is_usable = None not in values and (not metric.is_ratio or min(values) > 0.0)
                same_label = metric.name != "energy_j_per_token" or mine.energy_label == other.energy_label
                if is_usable and same_label:
                    found.append((mine, other))
    return found


def _row(
    metric: Metric,
    arm: str,
    rival: str,
    setting: str,
    levels: dict[str, Any],
    pairs: Sequence[_Pair],
    device: str = "",
) -> EffectRow:
    mine: _Values = defaultdict(dict)
    others: _Values = defaultdict(dict)
    for own, other in pairs:
        key = own.cell.device, own.cell.block
        name = str(sorted({**other.cell.factors, **own.cell.factors}.items()))
        mine[key][name], others[key][name] = getattr(own, metric.name), getattr(other, metric.name)
    scale: Scale = "ratio" if metric.is_ratio else "difference"
    effect = mean_effect(block_differences(mine, others, scale), seed=_SEED, scale=scale)
    return EffectRow(metric, arm, rival, setting, levels, device, effect, effect.p)


def _adjusted(rows: Iterable[EffectRow]) -> list[EffectRow]:
    rows = list(rows)
    adjusted = holm([row.effect.p for row in rows])
    return [row._replace(p_adjusted=p) for row, p in zip(rows, adjusted, strict=True)]
