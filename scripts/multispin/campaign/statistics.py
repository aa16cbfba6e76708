"""What an arm changes against a rival: paired differences within device-blocks, and intervals over them.

A device-block is one pass through all arms on one box. What drifts from block to block (weather, neighbours on the
channel, dust) is in both figures of a pair and leaves the difference. The device-block is also what is resampled:
tokens and requests of one cell share everything and are not independent.

The interval is the bootstrap-t (equal tails): every resample of device-blocks gives a mean and its own standard error,
and the quantiles of (mean* - mean) / se* take the place of Student's. From eight blocks on, an end that lies within
Student's (with Satterthwaite's degrees of freedom) is moved out to it. Why: with few blocks the percentile bootstrap
covers far too seldom; Student's interval does where noise is lopsided; the bootstrap-t does where noise has
heavy tails and blocks are many, while with few its own quantiles lie farther out. The figures are in
`docs/statistics.md`.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 12.5 (bootstrap-t) and 6 (the unit to
resample); Hall, Annals of Statistics 16 (1988), 927 (studentised intervals are second-order correct); Satterthwaite,
Biometrics Bulletin 2 (1946), 110; Holm, Scandinavian Journal of Statistics 6 (1979), 65.

    >>> effect = mean_effect([BlockDifference("a", block, 1.0 + 0.1 * (block % 3)) for block in range(9)], seed=1)
    >>> round(effect.estimate, 6), effect.num_blocks, effect.low is not None
    (1.1, 9, True)
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy import special

__all__ = [
    "LEVEL",
    "MIN_BLOCKS",
    "BlockDifference",
    "Effect",
    "Scale",
    "block_differences",
    "holm",
    "mean_effect",
    "mean_interval",
    "student_quantile",
]

LEVEL = 0.95
MIN_BLOCKS = 5
"""Below it no interval is stated: the studentised quantiles of fewer blocks are not finite enough to mean anything."""
_MIN_STRATUM = 4  # blocks of every device, from which devices are resampled apart
_STUDENT_FROM = 8  # blocks of a stratum
_RESAMPLES = 9999

Array = NDArray[np.float64]
Scale = Literal["ratio", "difference"]


class BlockDifference(NamedTuple):
    """An arm's figure against its rival's in one device-block: a difference, or the logarithm of a ratio."""

    device: str
    block: int
    value: float


class Effect(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an arm changes, with the interval that covers it 95 times in 100.

    Attributes:
        scale: "ratio" (arm / rival, geometric mean over device-blocks) or "difference" (arm - rival, mean).
        estimate: on that scale; null without a pair.
        low, high: ends of the interval; null where `reason` says why.
        p: two-sided, of "no effect"; null without an interval. Not adjusted for other comparisons.
        num_blocks: device-blocks in it.
        num_devices: boxes in it.
        reason: why there is no interval; null if there is.
    """

    scale: Scale
    estimate: float | None
    low: float | None
    high: float | None
    p: float | None
    num_blocks: int
    num_devices: int
    reason: str | None = None


def block_differences(
    arm: Mapping[tuple[str, int], Mapping[str, float]],
    rival: Mapping[tuple[str, int], Mapping[str, float]],
    scale: Scale,
) -> list[BlockDifference]:
    """Return the pairs' differences, one a device-block: the mean over the settings that both arms share everywhere.

    Args:
        arm, rival: {(device, block): {setting: figure}}; a setting is a combination of the other factors' levels. For
            the scale "ratio" all figures are above 0.
        scale: "ratio" gives log(arm) - log(rival), "difference" gives arm - rival.

    A block that lacks a setting which other blocks have is left out, so that blocks stay comparable.
    """
    shared = {key: arm[key].keys() & rival[key].keys() for key in arm.keys() & rival.keys()}
    wanted = set().union(*shared.values())
    found = []
    for device, block in sorted(key for key, settings in shared.items() if settings == wanted and settings):
        pairs = [(arm[device, block][setting], rival[device, block][setting]) for setting in sorted(wanted)]
        parts = [math.log(a) - math.log(b) if scale == "ratio" else a - b for a, b in pairs]
        found.append(BlockDifference(device, block, math.fsum(parts) / len(parts)))
    return found


def mean_effect(
    differences: Sequence[BlockDifference],
    *,
    seed: int,
    scale: Scale = "difference",
    across_devices: bool = False,
    resamples: int = _RESAMPLES,
) -> Effect:
    """Return the mean effect with its interval.

    Args:
        differences: one a device-block; logarithms for the scale "ratio".
        seed: of the resampling.
        scale: of the result.
        across_devices: the interval is for boxes like these (devices are resampled), not for these boxes (blocks are).
        resamples: of the bootstrap.

    Where every device has four blocks or more, each device is a stratum: its blocks are resampled apart, and devices
    count alike. Otherwise all device-blocks are one stratum: devices that differ then widen the interval.
    """
    by_device: dict[str, list[float]] = defaultdict(list)
    for each in differences:
        by_device[each.device].append(each.value)
    groups = [np.asarray(values) for values in by_device.values()]
    if across_devices:
        groups = [np.asarray([group.mean() for group in groups])] if groups else []
    elif len(groups) > 1 and min(map(len, groups)) < _MIN_STRATUM:
        groups = [np.concatenate(groups)]
    estimate = float(np.mean([group.mean() for group in groups])) if groups else None
    low, high, p, reason = mean_interval(groups, seed=seed, resamples=resamples)
    if across_devices and len(by_device) < MIN_BLOCKS:
        reason = f"{len(by_device)} devices, {MIN_BLOCKS} are needed"
    if scale == "ratio":
        estimate, low, high = (None if value is None else float(np.exp(value)) for value in (estimate, low, high))
    return Effect(
        scale=scale,
        estimate=estimate,
        low=low,
        high=high,
        p=p,
        num_blocks=len(differences),
        num_devices=len(by_device),
        reason=reason,
    )


def mean_interval(
    groups: Sequence[Array], *, seed: int, resamples: int = _RESAMPLES, student_from: float = _STUDENT_FROM
) -> tuple[float | None, float | None, float | None, str | None]:
    """Return low, high and p of the mean of the groups' means, and why there is none.

    Args:
        groups: [devices][blocks] values; one group of at least five, or several of at least four each.
        seed: of the resampling.
        resamples: of the bootstrap.
        student_from: blocks in the smallest group from which Student's ends are a floor.
    """
    units = sum(map(len, groups))
    if units < MIN_BLOCKS:
        return None, None, None, f"{units} device-blocks, {MIN_BLOCKS} are needed"
    rng = np.random.default_rng(seed)
    share = 1.0 / len(groups)
    mean, variance, freedom = 0.0, 0.0, 0.0
    means, variances = np.zeros(resamples), np.zeros(resamples)
    for group in groups:
        n = len(group)
        centre = float(group.mean())
        moved = group - centre  # the second moment of what is far from 0 loses its digits
        mean += share * centre
        own = share**2 * float(moved.var(ddof=1)) / n
        variance += own
        freedom += own**2 / (n - 1)
        weights = rng.multinomial(n, np.full(n, 1.0 / n), size=resamples) / n  # [resamples, n]
        first, second = weights @ moved, weights @ moved**2
        means += share * first
        variances += share**2 * np.maximum(second - first**2, 0.0) / (n - 1)
    error = math.sqrt(variance)
    if error <= 1e-12 * max(1.0, abs(mean)):
        return mean, mean, float(mean == 0.0), None  # all blocks are alike, as byte counts can be
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num(means / np.sqrt(variances), nan=0.0, posinf=np.inf, neginf=-np.inf)
    tail = (1.0 - LEVEL) / 2.0
    below, above = np.quantile(t, [tail, 1.0 - tail], method="inverted_cdf")
    if not (np.isfinite(below) and np.isfinite(above)):
        return None, None, None, f"the {units} device-blocks take too few different values for an interval"
    seen = mean / error
    beyond = min(int((t >= seen).sum()), int((t <= seen).sum()))
    p = 2.0 * (beyond + 1) / (resamples + 1)
    if min(map(len, groups)) >= student_from:
        degrees = variance**2 / freedom
        reach = student_quantile(degrees)
        below, above = np.minimum(below, -reach), np.maximum(above, reach)
        p = max(p, 2.0 * float(special.stdtr(degrees, -abs(seen))))
    return mean - float(above) * error, mean - float(below) * error, min(1.0, p), None


def student_quantile(degrees: float) -> float:
    """Return the two-sided quantile of Student's t.

    >>> round(student_quantile(4.0), 3)
    2.776
    """
    return float(special.stdtrit(degrees, 0.5 + LEVEL / 2.0))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values adjusted for how many they are: an effect is claimed where one is at most 0.05.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        adjusted[place] = highest
    return adjusted
