"""What both ends believe, from what rounds and passes measured: robust, forgetting, each with its confidence.

recent median   of a quantity that may step: draft time per token, prefill time per token
recent line     y = intercept + slope * x: a pass against its rows, a transfer against its bytes
survival        of 1, 2, ... drafted tokens, position by position: acceptance is not geometric

How soon a step in the truth is followed: the median after 8 of its 15 samples, up to 7 of which may be anything; the
line's intercept likewise, its slope once the samples of most sizes are new; survival to 94 % after 100 rounds.
"""

from collections import deque
from statistics import median
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from multispin_models.line import fit_line

__all__ = ["Estimate", "LineEstimate", "RecentLine", "RecentMedian", "Survival"]

RECENT: Final = 15  # samples of a median
KEPT_PER_SIZE: Final = 9  # samples of a line that are kept for each power of two of x
SURVIVAL_ROUNDS: Final = 32  # over which acceptance is averaged, the latest most
PRIOR_ROUNDS: Final = 2.0  # what is believed beforehand weighs as much as so many rounds
POOLED_ROUNDS: Final = 12.0  # and what all positions together say, at each of them


class Estimate(NamedTuple):
    """A number that was measured.

    Attributes:
        value: in the unit of the samples.
        error: standard error of it; 0 for samples that agree.
        num_samples: samples behind it.
    """

    value: float
    error: float
    num_samples: int


class LineEstimate(NamedTuple):
    """A line that was measured; neither part is negative.

    Attributes:
        intercept: y at x = 0.
        slope: y per x.
        error: standard error of the line at the latest x.
        num_samples: samples behind the slope.
    """

    intercept: float
    slope: float
    error: float
    num_samples: int

    def at(self, x: float) -> float:
        """Return y of the line."""
        return self.intercept + self.slope * x


def _estimate(samples: list[float]) -> Estimate:
    """Return the median and its standard error, from the median distance, as for normal noise (1.4826 * 1.2533)."""
    middle = median(samples)
    distance = median(abs(sample - middle) for sample in samples)
    return Estimate(middle, 1.858 * distance / len(samples) ** 0.5, len(samples))


class RecentMedian:
    """The median of the last 15 samples."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=RECENT)
        self._known: Estimate | None = None  # of the samples so far, until the next one comes

    def add(self, sample: float) -> None:
        """Take a sample."""
        self._samples.append(sample)
        self._known = None

    def estimate(self) -> Estimate | None:
        """Return the median; None before the first sample."""
        if self._known is None and self._samples:
            self._known = _estimate(list(self._samples))
        return self._known


class RecentLine:
    """A line through samples of several sizes, which come in any order and may stay away for long.

    The slope is Theil and Sen's, over the last samples of each power of two of x, so that it outlives long times of one
    size; it needs sizes that differ by a factor of two, lest noise be taken for a slope. The intercept follows the
    last samples, whatever their size.
    """

    def __init__(self) -> None:
        self._by_size: dict[int, deque[tuple[float, float]]] = {}
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._fitted: LineEstimate | None = None  # of the samples so far, until the next one comes

    def add(self, x: float, y: float) -> None:
        """Take a sample at x > 0."""
        size = int(x).bit_length()
        self._by_size.setdefault(size, deque(maxlen=KEPT_PER_SIZE)).append((x, y))
        self._recent.append((x, y))
        self._fitted = None

    def median(self) -> Estimate | None:
        """Return the median of the last samples' y, whatever their x; None before the first."""
        return _estimate([y for _, y in self._recent]) if self._recent else None

    def estimate(self) -> LineEstimate | None:
        """Return the line; None while no two sizes differ by a factor of two."""
        if self._fitted is None:
            self._fitted = self._fit()
        return self._fitted

    def _fit(self) -> LineEstimate | None:
        points = [point for kept in self._by_size.values() for point in kept]
        sizes = [x for x, _ in points]
        if not sizes or max(sizes) < 2 * min(sizes):
            return None
        line = fit_line(points)
        assert line is not None
        slope = max(0.0, line.slope)
        rest = _estimate([y - slope * x for x, y in self._recent])
        if rest.value < 0:  # bent upwards: through the origin then
            slope = median(y / x for x, y in self._recent)
            rest = _estimate([y - slope * x for x, y in self._recent])
        return LineEstimate(max(0.0, rest.value), slope, rest.error, len(points))


class Survival:
    """The probability that the first 1, 2, ... drafted tokens are all accepted.

    For each position, how often a token was accepted when all before it were, over the last rounds that got so far;
    the product of these is the survival. Where few rounds got, the acceptance over all positions is believed.

    Args:
        l_max: longest draft.
        prior_rate: acceptance that is believed before the first round.
    """

    def __init__(self, l_max: int, prior_rate: float) -> None:
        self._trials = np.zeros(l_max)
        self._hits = np.zeros(l_max)
        self._prior_rate = prior_rate
        self.num_rounds = 0

    def add(self, num_drafted: int, num_accepted: int) -> None:
        """Take a round with 0 <= num_accepted <= num_drafted <= l_max."""
        reached = min(num_accepted + 1, num_drafted)
        kept = 1 - 1 / SURVIVAL_ROUNDS
        self._trials[:reached] = kept * self._trials[:reached] + 1
        self._hits[:reached] *= kept
        self._hits[:num_accepted] += 1
        self.num_rounds += num_drafted > 0

    @property
    def rate(self) -> float:
        """Acceptance over all positions."""
        prior = PRIOR_ROUNDS * self._prior_rate
        return float((self._hits.sum() + prior) / (self._trials.sum() + PRIOR_ROUNDS))

    def survival(self) -> npt.NDArray[np.float64]:
        """Return [l_max], never rising."""
        return np.asarray(np.cumprod(self.conditional()))

    def errors(self) -> npt.NDArray[np.float64]:
        """Return [l_max], the standard error of each survival."""
        rate = np.clip(self.conditional(), 1e-6, 1.0)
        relative = np.cumsum((1 - rate) / (rate * (self._trials + POOLED_ROUNDS)))
        return np.asarray(np.cumprod(rate) * np.sqrt(relative), np.float64)

    def conditional(self) -> npt.NDArray[np.float64]:
        """Return [l_max], the acceptance of each position when all before it were accepted."""
        return np.asarray((self._hits + POOLED_ROUNDS * self.rate) / (self._trials + POOLED_ROUNDS))
