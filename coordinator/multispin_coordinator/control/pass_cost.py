"""What passes cost, and what a few rows more add to one: from passes timed at the start, and from every one since.

line    T_v = c0 + c1 * rows, which follows the machine's pace
bend    how far passes of few rows are off that line, as a factor by rows, from the passes timed at the start: a lone
        row may cost a fourth less than the line through all says, which decides whether one user should cooperate
splits  llama.cpp computes sequences together only where they have as many rows; what is left over is another pass over
        the weights, so the first row more of one text among several may cost as much as a pass. How much of c0 it
        costs is measured at the start, on every engine
extra   of passes with looked-up rows, what these really took beyond passes without, over what was expected
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from multispin_coordinator.control.allocation import Floats
from multispin_models.estimators import LineEstimate, RecentLine, RecentMedian

__all__ = ["PassCost", "PassTime"]

ASSUMED_ROWS: Final = 16.0  # a pass has so many rows' time in its fixed part, while only one size was seen
LEAST_SPLIT: Final = 0.25  # of c0, below which splits are taken for noise
LEAST_SLOPE: Final = 0.5  # of c1, that a row adds at least: the bend's points are noisy, too
LEAST_BEND: Final = 0.1  # of a pass, below which it is taken for noise
BEND_BOUNDS: Final = (0.2, 5.0)
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
        self._bend: tuple[list[float], list[float]] = ([], [])  # rows, seconds over the line's
        self._bare_s = RecentMedian()  # passes without looked-up rows
        self._bare_rows = self._bare_sweeps = self._num_bare = 0
        self._extra = RecentMedian()

    def start_with(self, times: Sequence[PassTime]) -> None:
        """Take passes that were timed before agents are served."""
        by_rows: dict[int, RecentMedian] = {}
        for each in times:
            if each.num_sweeps == 1:
                self._line.add(each.rows, each.seconds)
                by_rows.setdefault(each.rows, RecentMedian()).add(each.seconds)
        line = self._line.estimate()
        if line is None:
            return
        for each in times:  # where all passes are split, a dearer split and a dearer pass look the same: now alone
            if each.num_sweeps > 1 and line.intercept > 0:
                self._split.add((each.seconds - line.at(each.rows)) / (each.num_sweeps - 1) / line.intercept)
        known = sorted((rows, found.value) for rows, each in by_rows.items() if (found := each.estimate()) is not None)
        self._bend = _bend(known, line)
        self._line = RecentLine()
        for each in times:
            self._add_to_line(each.rows, each.seconds, each.num_sweeps)

    def add(self, rows: int, seconds: float, *, num_sweeps: int = 1, num_looked_up: int = 0) -> None:
        """Take a pass whose rows were all scored.

        Args:
            rows: at least 1.
            seconds: of the pass.
            num_sweeps: as `passes.num_sweeps`.
            num_looked_up: of the rows.
        """
        self._compare(rows - num_looked_up, seconds, num_sweeps, num_looked_up)
        self._add_to_line(rows, seconds, num_sweeps)

    def _add_to_line(self, rows: int, seconds: float, num_sweeps: int) -> None:
        times = 1.0 + self._split_share * (num_sweeps - 1)  # c0 is in it so many times
        self._line.add(rows / times, seconds / times / self._factor(rows / times))

    def _factor(self, rows: float) -> float:
        return float(np.interp(rows, *self._bend)) if self._bend[0] else 1.0

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
        expected_s = self._more_s(bare_rows, num_looked_up)
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

    def bend(self) -> tuple[Floats, Floats]:
        """Return (rows, seconds): what passes of so many rows take beyond the line; in between, it is interpolated."""
        line = self._line.estimate()
        if line is None or not self._bend[0]:
            return np.ones(1), np.zeros(1)
        rows = np.array(self._bend[0])
        return rows, (np.array(self._bend[1]) - 1) * (line.intercept + line.slope * rows)

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
        return factor * (self._more_s(rows, more) + (self.split_s if is_shared else 0.0))

    def _more_s(self, rows: int, more: int) -> float:
        _, per_row_s = self.line()
        before_s, after_s = np.interp([rows, rows + more], *self.bend())
        return max(per_row_s * more + float(after_s - before_s), LEAST_SLOPE * per_row_s * more)


def _bend(known: Sequence[tuple[int, float]], line: LineEstimate) -> tuple[list[float], list[float]]:
    """Return (rows, factors over the line) of passes timed by their rows; nothing where the line fits them all."""
    sizes = [float(rows) for rows, _ in known]
    highest = 0.0
    seconds = [highest := max(highest, value) for _, value in known]
    expected_s = [line.at(rows) for rows in sizes]
    factors = [value / one_s if one_s > 0 else 1.0 for value, one_s in zip(seconds, expected_s, strict=True)]
    if all(abs(factor - 1) < LEAST_BEND for factor in factors):
        return [], []
    return sizes, np.clip(factors, *BEND_BOUNDS).tolist()
