"""The idle baseline: what an end draws when nothing is asked of it. Reported beside, never subtracted."""

import time

from multispin_models.clock import monotonic_ns
from multispin_models.energy import Sampler
from multispin_models.records.schema import IdleBaseline

__all__ = ["measure_idle"]


def measure_idle(sampler: Sampler, length_s: float) -> IdleBaseline:
    """Return the mean power over so many seconds from now; blocks for as long.

    Args:
        sampler: running.
        length_s: 0 measures nothing, and says so.
    """
    if length_s == 0.0:
        return IdleBaseline(power_w=None, length_s=0.0, reason="not asked for (idle_s is 0)")
    sampler.read_now()
    begun_ns = monotonic_ns()
    time.sleep(length_s)
    ended_ns = monotonic_ns()
    sampler.read_now()
    window = sampler.joules(begun_ns, ended_ns)
    elapsed_s = (ended_ns - begun_ns) / 1e9
    power_w = None if window.joules is None else window.joules / elapsed_s
    return IdleBaseline(power_w=power_w, length_s=elapsed_s, reason=window.reason)
