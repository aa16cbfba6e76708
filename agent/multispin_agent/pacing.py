"""When a frame may be sent, so that an agent keeps to its share of a link: a token bucket over payload bytes. No I/O.

tokens come in at the rate, up to the burst; a frame leaves when the bucket holds all of it, and takes it out.
A frame longer than the burst is saved up for, alone. In any time t at most burst + rate * t bytes leave, and one
such frame.
"""

from typing import Final

__all__ = ["BURST_BYTES", "Pacer"]

BURST_BYTES: Final = 1400  # a packet: drafts of the coupled rule are not held back one by one


class Pacer:
    """One bucket.

    Args:
        bytes_per_s: null lets everything pass at once.
        burst_bytes: most that is saved up.
    """

    def __init__(self, bytes_per_s: float | None, burst_bytes: float = BURST_BYTES) -> None:
        self.bytes_per_s = bytes_per_s
        self._burst = burst_bytes
        self._level = burst_bytes
        self._at_ns: int | None = None

    def set_rate(self, bytes_per_s: float | None, now_ns: int) -> None:
        """Go on with another rate from now on; what was promised a time keeps it."""
        self._refill(now_ns)
        self.bytes_per_s = bytes_per_s

    def due_ns(self, num_bytes: int, now_ns: int) -> int:
        """Return when a frame may be sent, not before the frames that were asked for earlier; it counts as sent then.

        >>> pacer = Pacer(1000.0, burst_bytes=100)
        >>> pacer.due_ns(100, 0), pacer.due_ns(50, 0), pacer.due_ns(200, 0)
        (0, 50000000, 250000000)
        """
        self._refill(now_ns)
        if self.bytes_per_s is None:
            return now_ns
        missing = max(0.0, num_bytes - self._level)
        self._level -= num_bytes
        return now_ns + round(missing / self.bytes_per_s * 1e9)

    def _refill(self, now_ns: int) -> None:
        if self._at_ns is not None and self.bytes_per_s is not None:
            self._level = min(self._burst, self._level + (now_ns - self._at_ns) * 1e-9 * self.bytes_per_s)
        self._at_ns = now_ns
