"""A window that may be longer than a sampler remembers: added up piece by piece, since E(a, b) + E(b, c) = E(a, c).

Whoever owns one settles it every so often, well within the sampler's memory (an hour at 40 Hz).
"""

from multispin_models.energy.sampler import Sampler
from multispin_models.energy.window import Window

__all__ = ["LongWindow"]


class LongWindow:
    """The energy from a start up to what was settled last.

    Args:
        sampler: running.
        started_ns: monotonic.
    """

    def __init__(self, sampler: Sampler, started_ns: int) -> None:
        self._sampler = sampler
        self._started_ns = self.settled_ns = started_ns
        self._whole = Window(0.0, None, None, None, 1.0, 0)

    def settle(self, until_ns: int) -> None:
        """Add the piece up to an instant that a sample follows."""
        if until_ns <= self.settled_ns:
            return
        piece = self._sampler.joules(self.settled_ns, until_ns, min_samples=0)
        self._whole = _joined(self._whole, self.settled_ns - self._started_ns, piece, until_ns - self.settled_ns)
        self.settled_ns = until_ns

    def window(self) -> Window:
        """Return all of it; null where a piece was, with the first such piece's reason."""
        if self._whole.num_samples == 0 and self._whole.joules is not None:
            return self._whole._replace(joules=None, reason="no sample lies in the window: sample faster")
        return self._whole


def _joined(a: Window, a_ns: int, b: Window, b_ns: int) -> Window:
    """Return the window that two neighbours make, of these lengths."""
    if a_ns == 0:
        return b
    rates = [(each.achieved_hz, length) for each, length in ((a, a_ns), (b, b_ns)) if each.achieved_hz is not None]
    gaps = [each.largest_gap_s for each in (a, b) if each.largest_gap_s is not None]
    known = a.joules is not None and b.joules is not None
    return Window(
        joules=a.joules + b.joules if a.joules is not None and b.joules is not None else None,
        reason=None if known else a.reason or b.reason,
        achieved_hz=sum(hz * length for hz, length in rates) / sum(length for _, length in rates) if rates else None,
        largest_gap_s=max(gaps, default=None),
        coverage=(a.coverage * a_ns + b.coverage * b_ns) / (a_ns + b_ns),
        num_samples=a.num_samples + b.num_samples,
    )
