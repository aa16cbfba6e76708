"""The statistics checked by simulation: how often intervals cover an effect that is known.

    python -m multispin.campaign.coverage [--campaigns 2500] [--noise stalls] [--seed 1]

A synthetic campaign has boxes, blocks and two arms. The logarithm of a cell's figure is

    level of the box + drift of the block (a random walk, in both arms) + effect of the arm + noise of the cell

so the true effect is known. Each row is a design and a kind of noise; its columns say how often the 95 % interval of
`statistics.mean_effect` covered the truth, how often "no effect" was rejected where there is none, and how often any of
eight comparisons without an effect was claimed after Holm's adjustment. The last columns are what others would have
covered: the bootstrap-t alone, Student's interval alone, and the percentile bootstrap.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multispin.campaign.statistics import (
    BlockDifference,
    block_differences,
    holm,
    mean_effect,
    mean_interval,
    student_quantile,
)

__all__ = ["DESIGNS", "Coverage", "Design", "coverage", "synthetic_cells"]

Noise = Literal["normal", "heavy tails", "stalls", "unequal boxes", "boxes differ"]
Cells = dict[tuple[str, int], dict[str, float]]
_FAMILY = 8


class Design(NamedTuple):
    """A campaign: boxes, blocks of each, kind of noise, and whether the interval is for boxes like these."""

    devices: int
    blocks: int
    noise: Noise
    across_devices: bool = False


DESIGNS: Final = (
    *(Design(1, blocks, noise) for noise in ("normal", "heavy tails", "stalls") for blocks in (5, 8, 12, 30)),
    *(Design(3, 4, noise) for noise in ("normal", "heavy tails", "stalls", "unequal boxes", "boxes differ")),
    *(Design(4, 10, noise) for noise in ("normal", "stalls", "unequal boxes", "boxes differ")),
    *(Design(5, 2, noise) for noise in ("normal", "stalls")),
    Design(6, 5, "boxes differ", across_devices=True),
    Design(12, 3, "boxes differ", across_devices=True),
)


class Coverage(NamedTuple):
    """Shares of synthetic campaigns, 0 to 1; the last three are of methods that are not used."""

    covered: float
    false_effects: float
    false_families: float
    bootstrap_t: float
    student: float
    percentile: float


def synthetic_cells(design: Design, log_effect: float, rng: np.random.Generator) -> tuple[Cells, Cells, float]:
    """Return the cells of an arm and its rival, and the log ratio that an interval has to cover.

    Of boxes that differ it is the mean over these boxes, or, across devices, over all boxes there could be.
    """
    shape = (design.devices, design.blocks)
    level = rng.normal(0.0, 0.5, size=(design.devices, 1)) + np.cumsum(rng.normal(0.0, 0.2, size=shape), axis=1)
    own = np.zeros((design.devices, 1))
    if design.noise == "boxes differ":
        own = rng.normal(0.0, 0.1, size=own.shape)
    arm = level + log_effect + own + _noise(design, rng, stalls=True)
    rival = level + _noise(design, rng, stalls=False)
    truth = log_effect if design.across_devices else log_effect + float(own.mean())
    keys = [(f"box-{device}", block) for device in range(design.devices) for block in range(design.blocks)]
    return (
        {key: {"": float(np.exp(arm[place]))} for key, place in zip(keys, np.ndindex(*shape), strict=True)},
        {key: {"": float(np.exp(rival[place]))} for key, place in zip(keys, np.ndindex(*shape), strict=True)},
        truth,
    )


def coverage(design: Design, campaigns: int, seed: int, resamples: int = 999) -> Coverage:
    """Return how the statistics did in that many synthetic campaigns, half of them with an effect of 10 %."""
    rng = np.random.default_rng(seed)
    covered = found = null = families = 0
    others = np.zeros(3)
    p_values: list[float | None] = []
    for number in range(campaigns):
        log_effect = math.log(1.1) if number % 2 else 0.0
        arm, rival, truth = synthetic_cells(design, log_effect, rng)
        pairs = block_differences(arm, rival, "ratio")
        effect = mean_effect(
            pairs, seed=number, scale="ratio", across_devices=design.across_devices, resamples=resamples
        )
        if effect.low is None or effect.high is None:
            raise AssertionError(f"no interval in a campaign of {design}: {effect.reason}")
        covered += effect.low <= math.exp(truth) <= effect.high
        others += [low <= truth <= high for low, high in _others(pairs, design, rng, resamples)]
        if truth == 0.0 or (design.across_devices and not log_effect):
            null += 1
            found += not effect.low <= 1.0 <= effect.high
            p_values.append(effect.p)
    for start in range(0, len(p_values) - _FAMILY + 1, _FAMILY):
        families += any(p is not None and p <= 0.05 for p in holm(p_values[start : start + _FAMILY]))
    num_families = len(p_values) // _FAMILY
    return Coverage(
        covered / campaigns,
        found / null if null else math.nan,
        families / num_families if num_families else math.nan,
        *(float(share) for share in others / campaigns),
    )


def _noise(design: Design, rng: np.random.Generator, *, stalls: bool) -> NDArray[np.float64]:
    """Return the cells' own noise, of mean 0 in the logarithm."""
    shape = (design.devices, design.blocks)
    if design.noise == "heavy tails":
        return 0.05 * rng.standard_t(3.0, size=shape)
    if design.noise == "stalls":  # a lossy link delays some cells of the cooperating arm, never hastens one
        return rng.normal(0.0, 0.02, size=shape) + stalls * 0.1 * (rng.exponential(size=shape) - 1.0)
    if design.noise == "unequal boxes":
        return rng.normal(0.0, 0.05, size=shape) * np.geomspace(0.5, 2.0, design.devices)[:, None]
    return rng.normal(0.0, 0.05, size=shape)


def _others(
    pairs: Sequence[BlockDifference], design: Design, rng: np.random.Generator, resamples: int
) -> list[tuple[float, float]]:
    """Return the intervals of the bootstrap-t alone, of Student and of the percentile bootstrap, in the same strata."""
    values = np.asarray([pair.value for pair in pairs]).reshape(design.devices, design.blocks)
    if design.across_devices:
        values = values.mean(axis=1)[None, :]
    elif design.blocks < 4:
        values = values.reshape(1, -1)
    low, high, _, _ = mean_interval(list(values), seed=1, resamples=resamples, student_from=math.inf)
    assert low is not None
    assert high is not None
    strata, n = values.shape
    variances = values.var(axis=1, ddof=1) / n / strata**2
    degrees = float(variances.sum() ** 2 / (variances**2 / (n - 1)).sum())
    reach = student_quantile(degrees) * math.sqrt(variances.sum())
    mean = float(values.mean())
    shares = np.full(n, 1.0 / n)
    means = np.mean([rng.multinomial(n, shares, size=resamples) @ own / n for own in values], axis=0)
    least, most = np.quantile(means, [0.025, 0.975])
    return [(low, high), (mean - reach, mean + reach), (float(least), float(most))]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of all designs, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=2500, help="a row; default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default %(default)s")
    parser.add_argument("--noise", metavar="KIND", help="only rows of this kind")
    args = parser.parse_args(argv)
    columns = ("boxes", "blocks", "noise", "interval for", "covered %", "false effects %", "false of 8 %")
    print(f"| {' | '.join((*columns, 'bootstrap-t alone', 'Student', 'percentile'))} |")
    print("|---" * 10 + "|")
    for number, design in enumerate(DESIGNS):
        if args.noise not in {None, design.noise}:
            continue
        got = coverage(design, args.campaigns, args.seed + number)
        cells = " | ".join("-" if math.isnan(share) else f"{100 * share:.1f}" for share in got)
        scope = "boxes like these" if design.across_devices else "these boxes"
        print(f"| {design.devices} | {design.blocks} | {design.noise} | {scope} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
