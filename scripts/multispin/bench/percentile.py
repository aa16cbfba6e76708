"""The 90th percentile by nearest rank: always one of the values, never below their median.

>>> percentile_90([3.0, 1.0, 2.0])
3.0
>>> percentile_90(range(1, 11))
9
"""

from collections.abc import Iterable

__all__ = ["percentile_90"]


def percentile_90(values: Iterable[float]) -> float:
    """Return the smallest value that nine tenths of the values, one at least, do not exceed."""
    ordered = sorted(values)
    return ordered[(9 * len(ordered) + 9) // 10 - 1]
