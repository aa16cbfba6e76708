"""What a plan can show: the power of its tests, and when its stopping rule is met.

The test. In every block the ratio of an arm to its rival is taken at each combination of levels that both have, and the
mean of its logarithms over them is that block's difference d. Over n blocks (and devices), t = mean(d) sqrt(n) / sd(d)
is compared with Student's t of n - 1 degrees of freedom, two-sided.

Power is by simulation of that statistic under its model, d normal with the stated mean ln(1 + effect) and sd: 200,000
draws under the effect, and as many without one for the critical value, so it is known to about 0.2 points.

Stopping when the interval is narrow enough leaves its coverage nominal as the width goes to zero (Chow and Robbins
1965, Annals of Mathematical Statistics 36, 457); it never looks at where the interval lies.
"""

import math
from collections.abc import Sequence
from statistics import stdev
from typing import Any, Final

import numpy as np

__all__ = ["DRAWS", "blocks_needed", "half_width", "power"]

DRAWS: Final = 200_000
MOST_BLOCKS: Final = 1000


def power(num_blocks: int, effect: float, sd: float, alpha: float, seed: int = 0) -> float:
    """Return the probability that the test finds an effect that is there, 0 below two blocks.

    Args:
        num_blocks: independent differences: blocks times devices.
        effect: relative, above -1.
        sd: of ln(arm / rival) from block to block.
        alpha: of the two-sided test.
        seed: of the simulation.
    """
    if num_blocks < 2:
        return 0.0
    centred = _statistics(num_blocks, 0.0, np.random.default_rng(seed))
    shifted = _statistics(num_blocks, math.log1p(effect) / sd, np.random.default_rng(seed + 1))
    critical = np.quantile(np.abs(centred), 1.0 - alpha)
    return float(np.mean(np.abs(shifted) > critical))


def blocks_needed(effect: float, sd: float, alpha: float, wanted: float = 0.8) -> int | None:
    """Return the fewest blocks with that power; null if even `MOST_BLOCKS` have less."""
    low, high = 2, 2
    while power(high, effect, sd, alpha) < wanted:
        low, high = high, 2 * high
        if high > MOST_BLOCKS:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, effect, sd, alpha) >= wanted else (middle + 1, high)
    return high


def half_width(differences: Sequence[float], confidence: float, seed: int = 0) -> float:
    """Return half the width of the interval of the mean of differences; infinite below two."""
    if len(differences) < 2:
        return math.inf
    centred = _statistics(len(differences), 0.0, np.random.default_rng(seed))
    return float(np.quantile(np.abs(centred), confidence)) * stdev(differences) / math.sqrt(len(differences))


def _statistics(count: int, shift: float, draws: np.random.Generator) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Return t of `count` normal differences whose mean is `shift` standard deviations."""
    means = draws.standard_normal(DRAWS) + shift * math.sqrt(count)
    return means / np.sqrt(draws.chisquare(count - 1, DRAWS) / (count - 1))
