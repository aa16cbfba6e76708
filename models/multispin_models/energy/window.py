"""Joules between two instants, from samples that never fall exactly on them.

Power is integrated by the trapezoid rule, a counter is subtracted; both are interpolated linearly at the edges, so
windows add up: E(a, b) + E(b, c) = E(a, c). Where the samples do not carry it, the answer is null and a reason.

    >>> s = 1_000_000_000
    >>> energy_between([PowerSample(0, 2.0), PowerSample(s, 4.0), PowerSample(2 * s, 4.0)], s // 2, 2 * s).joules
    5.75
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

__all__ = ["EnergySample", "PowerSample", "Window", "energy_between"]


class PowerSample(NamedTuple):
    """Watts at an instant of the monotonic clock."""

    t_ns: int
    power_w: float


class EnergySample(NamedTuple):
    """Joules counted up to an instant; those of different segments cannot be subtracted."""

    t_ns: int
    energy_j: float
    segment: int = 0


Samples = Sequence[PowerSample | EnergySample]  # all of one kind


class Window(NamedTuple):
    """The energy of a stretch of time, and what it rests on.

    Attributes:
        joules: null if the samples do not carry it.
        reason: why it is null; else null.
        achieved_hz: rate of the samples used, those just outside the edges included; null below two.
        largest_gap_s: longest time without a sample, edges included; null without a sample.
        coverage: share of the window, 0 to 1, that lies between samples that can be joined.
        num_samples: samples in the window, edges included.
    """

    joules: float | None
    reason: str | None
    achieved_hz: float | None
    largest_gap_s: float | None
    coverage: float
    num_samples: int


def energy_between(
    samples: Samples,
    t0_ns: int,
    t1_ns: int,
    *,
    max_gap_s: float = 1.0,
    min_samples: int = 1,
) -> Window:
    """Return the energy from t0 to t1.

    Args:
        samples: of one kind, in order of time, no two at the same instant; longer than the window on both sides.
        t0_ns: start, monotonic.
        t1_ns: end, not before the start.
        max_gap_s: samples further apart are not joined, in seconds. A counter goes on counting meanwhile, so it
            bridges a longer gap, unless an edge of the window falls into it.
        min_samples: fewest samples in the window. 0 lets a window lie between two samples, where the figure is
            interpolation alone: for shares of a batch, of which only sums are published.

    Raises:
        ValueError: the window ends before it starts.
    """
    if t1_ns < t0_ns:
        raise ValueError(f"window ends {(t0_ns - t1_ns) / 1e9:.6f} s before it starts; swap its edges")
    # From the last sample at or before t0 to the first at or after t1.
    first = max(bisect_right(samples, t0_ns, key=_time) - 1, 0)
    last = min(bisect_left(samples, t1_ns, key=_time), len(samples) - 1)
    used = samples[first : last + 1]
    num_inside = sum(t0_ns <= sample.t_ns <= t1_ns for sample in used)
    if not used:
        return Window(None, "no sample was taken", None, None, 0.0, 0)

    span_ns = used[-1].t_ns - used[0].t_ns
    achieved_hz = (len(used) - 1) * 1e9 / span_ns if span_ns > 0 else None
    gaps = [max(used[0].t_ns - t0_ns, 0), *(b.t_ns - a.t_ns for a, b in pairwise(used)), max(t1_ns - used[-1].t_ns, 0)]
    parts, covered_ns = _parts(used, t0_ns, t1_ns, max_gap_s)
    length_ns = t1_ns - t0_ns
    whole = used[0].t_ns <= t0_ns and used[-1].t_ns >= t1_ns and covered_ns == length_ns
    coverage = covered_ns / length_ns if length_ns > 0 else float(whole)
    window = Window(None, None, achieved_hz, max(gaps) / 1e9, coverage, num_inside)
    if not whole:
        return window._replace(reason=_why_not_whole(used, t0_ns, t1_ns, max_gap_s))
    if num_inside < min_samples:
        return window._replace(
            reason=f"{num_inside} samples in a window of {length_ns / 1e9:.3f} s, needed {min_samples}: sample faster"
        )
    return window._replace(joules=math.fsum(parts))


def _time(sample: PowerSample | EnergySample) -> int:
    return sample.t_ns


def _lost_count(a: PowerSample | EnergySample, b: PowerSample | EnergySample) -> bool:
    return isinstance(a, EnergySample) and isinstance(b, EnergySample) and a.segment != b.segment


def _joined(a: PowerSample | EnergySample, b: PowerSample | EnergySample, *, whole: bool, max_gap_s: float) -> bool:
    """Return whether the energy between two neighbours, all of it or a part, is known."""
    if _lost_count(a, b):
        return False
    return (whole and isinstance(a, EnergySample)) or (b.t_ns - a.t_ns) / 1e9 <= max_gap_s


def _parts(used: Samples, t0_ns: int, t1_ns: int, max_gap_s: float) -> tuple[list[float], int]:
    """Return the joules of each interval, cut to the window, and the nanoseconds that they cover."""
    parts: list[float] = []
    covered_ns = 0
    for a, b in pairwise(used):
        begin, end = max(a.t_ns, t0_ns), min(b.t_ns, t1_ns)
        if begin < end and _joined(a, b, whole=end - begin == b.t_ns - a.t_ns, max_gap_s=max_gap_s):
            parts.append(_interval(a, b, begin, end))
            covered_ns += end - begin
    return parts, covered_ns


def _interval(a: PowerSample | EnergySample, b: PowerSample | EnergySample, begin: int, end: int) -> float:
    """Return the joules from begin to end, both between the neighbours a and b."""
    step_ns = b.t_ns - a.t_ns
    if isinstance(a, EnergySample):
        assert isinstance(b, EnergySample)
        return (b.energy_j - a.energy_j) * ((end - begin) / step_ns)
    assert isinstance(b, PowerSample)
    middle = ((begin - a.t_ns) + (end - a.t_ns)) / (2 * step_ns)  # a line's mean is its value half-way
    return (a.power_w + (b.power_w - a.power_w) * middle) * ((end - begin) / 1e9)


def _why_not_whole(used: Samples, t0_ns: int, t1_ns: int, max_gap_s: float) -> str:
    if used[0].t_ns > t0_ns:
        late_s = (used[0].t_ns - t0_ns) / 1e9
        return f"the window starts {late_s:.3f} s before the first sample: start the sampler earlier, or keep more"
    if used[-1].t_ns < t1_ns:
        return f"the window ends {(t1_ns - used[-1].t_ns) / 1e9:.3f} s after the last sample: read once more at its end"
    if any(_lost_count(a, b) for a, b in pairwise(used)):
        return "the counter lost count in the window (reset, or wrapped unseen): sample faster"
    gap_s = max(b.t_ns - a.t_ns for a, b in pairwise(used)) / 1e9
    return (
        f"no sample for {gap_s:.3f} s, allowed are {max_gap_s:.3f} s: the sensor did not answer, or was read too slowly"
    )
