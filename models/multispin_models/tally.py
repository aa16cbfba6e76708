"""Counts since a daemon's start, for whoever watches it: drafts by position, and histograms. No I/O."""

from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["DraftTally", "Histogram"]


class Histogram:
    """Observations by size.

    Args:
        bounds: upper bounds of the classes, rising; what is larger than all of them has a class of its own.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count an observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (bound, observations up to it) as Prometheus has them, the last for "+Inf".

        >>> histogram = Histogram([1, 2])
        >>> histogram.add(2), histogram.add(5)
        (None, None)
        >>> histogram.cumulative()
        [('1.0', 0), ('2.0', 1), ('+Inf', 2)]
        """
        names = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return [(name, sum(self.counts[: index + 1])) for index, name in enumerate(names)]


class DraftTally:
    """What became of drafts; a round without a draft is none."""

    def __init__(self) -> None:
        self.num_drafts = 0
        self.num_draft_tokens = 0
        self.accepted_at: list[int] = []  # [p] drafts of which token p was accepted

    def add(self, num_drafted: int, num_accepted: int) -> None:
        """Count a draft that was verified, 0 <= num_accepted <= num_drafted."""
        if num_drafted == 0:
            return
        self.num_drafts += 1
        self.num_draft_tokens += num_drafted
        self.accepted_at += [0] * (num_drafted - len(self.accepted_at))
        for position in range(num_accepted):
            self.accepted_at[position] += 1
