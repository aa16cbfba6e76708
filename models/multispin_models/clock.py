"""The clocks: durations from one that never steps, wall time for headers only."""

import time
from datetime import UTC, datetime

__all__ = ["monotonic_ns", "wall_time"]


def monotonic_ns() -> int:
    """Return nanoseconds of CLOCK_MONOTONIC: comparable within one boot of one box only."""
    return time.monotonic_ns()


def wall_time() -> str:
    """Return the UTC wall time in ISO 8601, for run headers; never subtract two of these."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
