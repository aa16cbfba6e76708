"""What passes cost, and what a few rows more add to one: from passes timed at the start, and from every one since.

line    T_v = c0 + c1 * rows, which follows the machine's pace
curve   how far passes of few rows are off that line, as a factor by rows, from the passes timed at the start: what is
        looked up is priced by it; where it bends the line by a tenth or more, plans are made with it as well
splits  llama.cpp computes sequences together only where they have as many rows; what is left over is another pass over
        the weights, so the first row more of one text among several may cost as much as a pass. How much of c0 it
        costs is measured at the start, on every engine
extra   of passes with looked-up rows, what these really took beyond passes without, over what was expected
burden  of passes with drafts, what these really take beyond what the line says: the processor has waited for them, its
        caches hold other things, and agents on the same machine take its memory's time. Learnt from the first passes
        with drafts after some without, when both are known; the line is that of passes without
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from multispin_coordinator.control.allocation import Floats
from multispin_models.estimators import LineEstimate, RecentLine, RecentMedian

__all__ = ["PassCost", "PassTime"]

ASSUMED_ROWS: Final = 16.0  # a pass has so many rows' time in its fixed part, while only one size was seen
LEAST_SPLIT: Final = 0.25  # of c0, below which splits are taken for noise
LEAST_SLOPE: Final = 0.5  # of c1, that a row adds at least: the curve's points are noisy, too
LEAST_BEND: Final = 0.1  # of a pass, below which it is taken for noise
BEND_BOUNDS: Final = (0.2, 5.0)
EXTRA_BOUNDS: Final = (0.5, 4.0)
LEAST_EXTRA: Final = 4  # passes with looked-up rows, before what they took is believed
FORGOTTEN: Final = 256  # passes without, after which it is tried again
BURDEN_BOUNDS: Final = (-0.2, 1.0)  # of c0
COMPARED: Final = 24  # passes with drafts that are compared with those before
LEAST_COMPARED: Final = 8  # of them, before they are believed
UNBURDENED: Final = 4096  # passes without drafts, after which it is tried again
MOST_DISTURBED: Final = 64  # passes that are passed over, beside agents that were asked to draft


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
        self._curve: tuple[list[float], list[float]] = ([1.0], [1.0])  # rows, seconds over the line's
        self._is_bent = False
        self._bare_s = RecentMedian()  # passes without looked-up rows
        self._bare_rows = self._bare_sweeps = self._num_bare = 0
        self._extra = RecentMedian()
        self._burden = RecentMedian()
        self._without: LineEstimate | None = None  # the line when drafts came in
        self._num_with = self._num_without = self._num_disturbed = 0

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
        self._curve = _curve(known, line)
        self._is_bent = max(abs(factor - 1) for factor in self._curve[1]) >= LEAST_BEND
        self._line = RecentLine()
        for each in times:
            self._add_to_line(each.rows, each.seconds, each.num_sweeps)

    def add(
        self,
        rows: int,
        seconds: float,
        *,
        num_sweeps: int = 1,
        num_looked_up: int = 0,
        num_drafted: int = 0,
        is_disturbed: bool = False,
    ) -> None:
        """Take a pass whose rows were all scored.

        Args:
            rows: at least 1.
            seconds: of the pass.
            num_sweeps: as `passes.num_sweeps`.
            num_looked_up: of the rows.
            num_drafted: of the rows, by agents.
            is_disturbed: agents drafted meanwhile, to report.
        """
        self._compare(rows - num_looked_up, seconds, num_sweeps, num_looked_up)
        if num_drafted:
            self._add_burdened(rows, seconds, num_sweeps)
            return
        self._num_with, self._num_without = 0, self._num_without + 1
        if self._num_without == UNBURDENED:
            self._burden = RecentMedian()
        self._num_disturbed = self._num_disturbed + 1 if is_disturbed else 0
        if self._num_disturbed % (MOST_DISTURBED + 1) == 0:
            self._add_to_line(rows, seconds, num_sweeps)

    def _add_burdened(self, rows: int, seconds: float, num_sweeps: int) -> None:
        if not self._num_with:
            self._without = self._line.estimate() if self._num_without >= LEAST_COMPARED else None
        self._num_with, self._num_without = self._num_with + 1, 0
        if self._without is not None and self._num_with <= COMPARED:
            times = self._times(num_sweeps)
            expected_s = self._without.at(rows / times) * times * self._factor(rows / times)
            self._burden.add(seconds - expected_s)
            return
        self._add_to_line(rows, max(seconds - self.burden_s, seconds / 2), num_sweeps)

    @property
    def burden_s(self) -> float:
        """Seconds that a pass with drafts takes beyond one of as many rows without."""
        burden, line = self._burden.estimate(), self._line.estimate()
        if burden is None or line is None or burden.num_samples < LEAST_COMPARED:
            return 0.0
        low, high = BURDEN_BOUNDS
        return min(max(burden.value, low * line.intercept), high * line.intercept)

    def _times(self, num_sweeps: int) -> float:
        return 1.0 + self._split_share * (num_sweeps - 1)  # c0 is in it so many times

    def _add_to_line(self, rows: int, seconds: float, num_sweeps: int) -> None:
        times = self._times(num_sweeps)
        self._line.add(rows / times, seconds / times / self._factor(rows / times))

    def _factor(self, rows: float) -> float:
        return float(np.interp(rows, *self._curve)) if self._is_bent else 1.0

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
        return self._off_line() if self._is_bent else (np.ones(1), np.zeros(1))

    def _off_line(self) -> tuple[Floats, Floats]:
        line, rows = self._line.estimate(), np.array(self._curve[0])
        straight_s = 0.0 * rows if line is None else line.intercept + line.slope * rows
        return rows, (np.array(self._curve[1]) - 1) * straight_s

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
        before_s, after_s = np.interp([rows, rows + more], *self._off_line())
        return max(per_row_s * more + float(after_s - before_s), LEAST_SLOPE * per_row_s * more)


def _curve(known: Sequence[tuple[int, float]], line: LineEstimate) -> tuple[list[float], list[float]]:
    """Return (rows, factors over the line) of passes timed by their rows."""
    sizes = [float(rows) for rows, _ in known]
    highest = 0.0
    seconds = [highest := max(highest, value) for _, value in known]
    expected_s = [line.at(rows) for rows in sizes]
    factors = [value / one_s if one_s > 0 else 1.0 for value, one_s in zip(seconds, expected_s, strict=True)]
    return sizes, np.clip(factors, *BEND_BOUNDS).tolist()
