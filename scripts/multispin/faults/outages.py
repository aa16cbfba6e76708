"""All links up, then up and down by turns: what the time with a link is worth."""

import asyncio
import time
from collections.abc import Callable

import msgspec

from multispin.faults.site import Site

__all__ = ["OutageFigures", "alternate"]

BASELINE_SHARE = 1 / 6  # of the leg


class OutageFigures(msgspec.Struct, frozen=True):
    """What came in both parts of a leg.

    Attributes:
        phase_s: of an outage, and of the time with a link between two.
        baseline_s, baseline_characters: while all links were up, and what users got then.
        outages_s, outages_characters: by turns, likewise.
        up_s: of `outages_s`, with links.
    """

    phase_s: float
    baseline_s: float
    baseline_characters: int
    outages_s: float
    outages_characters: int
    up_s: float

    @property
    def of_expected(self) -> float | None:
        """Goodput by turns over the baseline's goodput times the share of time with links; null without one."""
        if not self.baseline_characters or not self.up_s:
            return None
        expected = self.baseline_characters / self.baseline_s * self.up_s
        return self.outages_characters / expected


async def alternate(site: Site, phase_s: float, seconds: float, num_characters: Callable[[], int]) -> OutageFigures:
    """Let all links be up for a sixth of the time or more, then be cut and restored by turns; return what users got.

    Args:
        site: whose links.
        phase_s: of each outage.
        seconds: in all; what whole turns do not fill comes before them.
        num_characters: that users have got so far.
    """
    num_turns = max(1, int(seconds * (1 - BASELINE_SHARE) / (2 * phase_s)))
    marks = [(time.monotonic(), num_characters())]
    await asyncio.sleep(max(seconds * BASELINE_SHARE, seconds - 2 * phase_s * num_turns))
    marks.append((time.monotonic(), num_characters()))
    up_s = 0.0
    for _ in range(num_turns):
        for relay in site.relays:
            relay.cut()
        try:
            await asyncio.sleep(phase_s)
        finally:
            for relay in site.relays:
                relay.restore()
        restored_s = time.monotonic()
        await asyncio.sleep(phase_s)
        up_s += time.monotonic() - restored_s
    marks.append((time.monotonic(), num_characters()))
    (a_s, a), (b_s, b), (c_s, c) = marks
    return OutageFigures(phase_s, b_s - a_s, b - a, c_s - b_s, c - b, up_s)
