"""The line through points, whatever a few outliers say: of verifications against rows, of transfers against bytes.

The slope is the median of the slopes of all pairs of points, the intercept the median of what is left (Theil-Sen): up
to 29 % of the points may be anywhere. Nothing measured is exactly a line; the residuals say how far it is from one.

>>> fit_line([(1, 3.0), (2, 5.0), (3, 7.0)])
Line(intercept=1.0, slope=2.0, residual_median=0.0, residual_largest=0.0)
"""

from collections.abc import Iterable
from itertools import combinations
from statistics import median
from typing import NamedTuple

__all__ = ["Line", "fit_line"]


class Line(NamedTuple):
    """A robust line.

    Attributes:
        intercept: y at x = 0.
        slope: y per x.
        residual_median: of the absolute distances of the points from the line.
        residual_largest: the largest of them.
    """

    intercept: float
    slope: float
    residual_median: float
    residual_largest: float

    def at(self, x: float) -> float:
        """Return y of the line."""
        return self.intercept + self.slope * x


def fit_line(points: Iterable[tuple[float, float]]) -> Line | None:
    """Return the Theil-Sen line of (x, y) points; null where all have one x, or there are none.

    Source: P. K. Sen, Estimates of the regression coefficient based on Kendall's tau, JASA 63 (1968).
    """
    given = list(points)
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(given, 2) if x1 != x2]
    if not slopes:
        return None
    slope = median(slopes)
    intercept = median(y - slope * x for x, y in given)
    residuals = [abs(y - intercept - slope * x) for x, y in given]
    return Line(intercept, slope, median(residuals), max(residuals))
