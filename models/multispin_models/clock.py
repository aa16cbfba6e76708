"""The clocks: durations from one that never steps, wall time for headers only."""

import time
from datetime import UTC, datetime
from typing import Final

__all__ = ["monotonic_ns", "wall_time"]


monotonic_ns: Final = time.monotonic_ns
"""Nanoseconds of CLOCK_MONOTONIC: comparable within one boot of one box only."""


def wall_time() -> str:
    """Return the UTC wall time in ISO 8601, for run headers; never subtract two of these."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
