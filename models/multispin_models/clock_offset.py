"""How far another machine's monotonic clock is ahead of this one's, from four timestamps an exchange. No I/O.

    here    t1 ──────────────────────── t4         t1 sent, t4 received, this clock
    there        t2 ────────────── t3              t2 received, t3 answered, the other clock

Nothing arrives before it is sent, so t3 - t4 <= offset <= t2 - t1, however unequal the two ways are. All exchanges
together leave one interval; its middle is the estimate, half of its width the bound. Both clocks may drift against each
other by `MAX_DRIFT`, so an old exchange counts less and less. An exchange that leaves nothing means that a clock has
stepped, was suspended or is another one: the interval starts anew, and `num_breaks` goes up.

Source: the interval of one exchange is that of NTP (RFC 5905, section 8: error <= delay / 2); intersecting them is
Marzullo's way (Maintaining the Time in a Distributed System, 1984).
"""

from typing import Final, NamedTuple

__all__ = ["MAX_DRIFT", "ClockOffset", "Offset"]

MAX_DRIFT: Final = 1e-3  # each kernel corrects its rate by at most 500 ppm (adjtimex(2)); a daemon that slews faster
# leaves the interval, which is noticed
_DRIFT_DIVISOR: Final = round(1 / MAX_DRIFT)


class Offset(NamedTuple):
    """The other clock minus this one.

    Attributes:
        offset_ns: estimate.
        bound_ns: it is not further off than this.
    """

    offset_ns: int
    bound_ns: int


class ClockOffset:
    """What all exchanges with one other machine say of its clock."""

    def __init__(self) -> None:
        self.num_breaks = 0
        self._low: tuple[int, int] | None = None  # (bound, when it was found)
        self._high: tuple[int, int] | None = None

    def reset(self) -> None:
        """Forget everything: the other end is another one from here on."""
        self._low = self._high = None

    def add(self, t1_ns: int, t2_ns: int, t3_ns: int, t4_ns: int) -> Offset:
        """Take an exchange; return what is known with it, of every instant from t1 to t4.

        Args:
            t1_ns, t4_ns: this clock; if the message was sent more than once, the first time.
            t2_ns, t3_ns: the other clock; if the answer was sent more than once, the first time.

        Raises:
            ValueError: an end is before its start.
        """
        if t4_ns < t1_ns or t3_ns < t2_ns:
            raise ValueError(f"exchange goes backwards: {t1_ns} to {t4_ns} here, {t2_ns} to {t3_ns} there")
        # What is found is to hold from t1 on, for every instant of the exchange, so it counts as drifting since then.
        drift_ns = _drift_ns(t4_ns - t1_ns)
        low, high = t3_ns - t4_ns - drift_ns, t2_ns - t1_ns + drift_ns
        if low > high or not self._agrees(low, high, t4_ns):
            self.num_breaks += 1
            self.reset()
        if low > high:  # more time passed there than here: of this exchange nothing can be used
            middle = (low + high) // 2
            return Offset(middle, low - middle)
        if self._low is None or low >= self._low_at(t4_ns):
            self._low = (low, t4_ns)
        if self._high is None or high <= self._high_at(t4_ns):
            self._high = (high, t4_ns)
        found = self.at(t4_ns)
        assert found is not None
        return found

    def at(self, t_ns: int) -> Offset | None:
        """Return what is known at an instant of this clock, not before the last exchange; null before the first."""
        if self._low is None or self._high is None:
            return None
        low, high = self._low_at(t_ns), self._high_at(t_ns)
        middle = (low + high) // 2
        return Offset(middle, high - middle)

    def _agrees(self, low: int, high: int, t_ns: int) -> bool:
        if self._low is None or self._high is None:
            return True
        return low <= self._high_at(t_ns) and high >= self._low_at(t_ns)

    def _low_at(self, t_ns: int) -> int:
        assert self._low is not None
        value, since_ns = self._low
        return value - _drift_ns(t_ns - since_ns)

    def _high_at(self, t_ns: int) -> int:
        assert self._high is not None
        value, since_ns = self._high
        return value + _drift_ns(t_ns - since_ns)


def _drift_ns(age_ns: int) -> int:
    return -(-max(age_ns, 0) // _DRIFT_DIVISOR)  # rounded up
