"""What passes cost, and what a few rows more add to one: from passes timed at the start, and from every one since.

line    T_v = c0 + c1 * rows, which follows the machine's pace: what plans are made with
curve   the passes timed at the start, by their rows: between two sizes an engine may jump, or cost nothing
splits  llama.cpp computes sequences together only where they have as many rows; what is left over is another pass over
        the weights, so the first row more of one text among several may cost as much as a pass. How much of c0 it
        costs is measured at the start, on every engine
extra   of passes with looked-up rows, what these really took beyond passes without, over what was expected
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from multispin_models.estimators import LineEstimate, RecentLine, RecentMedian

__all__ = ["PassCost", "PassTime"]

ASSUMED_ROWS: Final = 16.0  # a pass has so many rows' time in its fixed part, while only one size was seen
LEAST_SPLIT: Final = 0.25  # of c0, below which splits are taken for noise
LEAST_SLOPE: Final = 0.5  # of c1, that a row adds at least: the curve's points are noisy, too
PACE_BOUNDS: Final = (0.2, 5.0)
EXTRA_BOUNDS: Final = (0.5, 4.0)
LEAST_EXTRA: Final = 4  # passes with looked-up rows, before what they took is believed
FORGOTTEN: Final = 256  # passes without, after which it is tried again


class PassTime(NamedTuple):
    """A pass that was timed.

    Attributes:
        rows: of it, all scored.
        seconds: that it took.
        num_sweeps: as `passes.num_sweeps`.
    """

    rows: int
    seconds: float
    num_sweeps: int = 1


class PassCost:
    """The cost of passes. All seconds are those of a pass with the pause before the next one left out, but `c0_s`."""

    def __init__(self) -> None:
        self._line = RecentLine()
        self._pause_s = RecentMedian()
        self._split = RecentMedian()  # of c0, that one more sweep costs
        self._curve: tuple[list[float], list[float]] = ([], [])  # rows, seconds
        self._at_start: LineEstimate | None = None
        self._bare_s = RecentMedian()  # passes without looked-up rows
        self._bare_rows = self._bare_sweeps = self._num_bare = 0
        self._extra = RecentMedian()

    def start_with(self, times: Sequence[PassTime]) -> None:
        """Take passes that were timed before agents are served."""
        by_rows: dict[int, RecentMedian] = {}
        for each in sorted(times, key=lambda each: each.num_sweeps):  # what a sweep costs is more than the line
            self.add(each.rows, each.seconds, num_sweeps=each.num_sweeps)
            if each.num_sweeps == 1:
                by_rows.setdefault(each.rows, RecentMedian()).add(each.seconds)
        known = sorted((rows, found.value) for rows, each in by_rows.items() if (found := each.estimate()) is not None)
        highest = 0.0
        seconds = [highest := max(highest, value) for _, value in known]
        self._curve = [float(rows) for rows, _ in known], seconds
        self._at_start = self._line.estimate()

    def add(self, rows: int, seconds: float, *, num_sweeps: int = 1, num_looked_up: int = 0) -> None:
        """Take a pass whose rows were all scored.

        Args:
            rows: at least 1.
            seconds: of the pass.
            num_sweeps: as `passes.num_sweeps`.
            num_looked_up: of the rows.
        """
        self._compare(rows - num_looked_up, seconds, num_sweeps, num_looked_up)
        line = self._line.estimate()
        # At the start alone: where all passes are split, a dearer split and a dearer pass look the same.
        if self._at_start is None and num_sweeps > 1 and line is not None and line.intercept > 0:
            self._split.add((seconds - line.at(rows)) / (num_sweeps - 1) / line.intercept)
        times = 1.0 + self._split_share * (num_sweeps - 1)  # c0 is in it so many times
        self._line.add(rows / times, seconds / times)

    def add_pause(self, seconds: float) -> None:
        """Take the time between two passes that followed each other."""
        self._pause_s.add(max(0.0, seconds))

    def _compare(self, bare_rows: int, seconds: float, num_sweeps: int, num_looked_up: int) -> None:
        if bare_rows != self._bare_rows:
            self._bare_s, self._bare_rows, self._num_bare = RecentMedian(), bare_rows, 0
        if not num_looked_up:
            self._bare_s.add(seconds)
            self._bare_sweeps = num_sweeps
            self._num_bare += 1
            if self._num_bare >= FORGOTTEN:
                self._extra = RecentMedian()
            return
        self._num_bare = 0
        bare = self._bare_s.estimate()
        expected_s = self._curve_s(bare_rows, num_looked_up)
        expected_s += self.split_s * max(0, num_sweeps - self._bare_sweeps)
        if bare is not None and bare.num_samples >= LEAST_EXTRA and expected_s > 0:
            self._extra.add((seconds - bare.value) / expected_s)

    @property
    def _split_share(self) -> float:
        split = self._split.estimate()
        return 0.0 if split is None or split.value < LEAST_SPLIT else split.value

    @property
    def split_s(self) -> float:
        """Seconds of one more sweep."""
        line = self._line.estimate()
        return 0.0 if line is None else self._split_share * line.intercept

    def line(self) -> tuple[float, float]:
        """Return (c0_s, per_row_s) of passes that are not split, the pause between two of them included."""
        line, median, pause = self._line.estimate(), self._line.median(), self._pause_s.estimate()
        pause_s = 1e-6 if pause is None else max(pause.value, 1e-6)
        if line is not None:
            return line.intercept + pause_s, line.slope
        seconds = 1.0 if median is None else median.value
        return seconds * ASSUMED_ROWS / (ASSUMED_ROWS + 1) + pause_s, seconds / (ASSUMED_ROWS + 1)

    def extra_s(self, rows: int, more: int, *, is_shared: bool) -> float:
        """Return the seconds that looked-up rows of one text add to a pass.

        Args:
            rows: of the pass without them.
            more: of one text.
            is_shared: other texts are in the pass, with fewer rows.
        """
        if not more:
            return 0.0
        extra = self._extra.estimate()
        low, high = EXTRA_BOUNDS
        factor = 1.0 if extra is None or extra.num_samples < LEAST_EXTRA else min(max(extra.value, low), high)
        return factor * (self._curve_s(rows, more) + (self.split_s if is_shared else 0.0))

    def _curve_s(self, rows: int, more: int) -> float:
        _, per_row_s = self.line()
        line, known = self._line.estimate(), self._at_start
        if line is None or known is None or not known.at(rows) or rows > self._curve[0][-1]:
            return per_row_s * more
        pace = min(max(line.at(rows) / known.at(rows), PACE_BOUNDS[0]), PACE_BOUNDS[1])
        beyond = max(0.0, rows + more - self._curve[0][-1])
        before_s, after_s = np.interp([rows, rows + more], *self._curve)
        by_curve = pace * float(after_s - before_s)
        return max(by_curve + beyond * per_row_s, LEAST_SLOPE * per_row_s * more)
