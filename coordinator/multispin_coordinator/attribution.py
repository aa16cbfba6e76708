"""The joules of a forward pass, shared out to its parts by rows.

The rule: a pass costs what the meter counted between its begin and its end; each part bears its rows' fraction, in
whole nanojoules, and what the division leaves over goes to the part with the most rows. So the shares sum exactly to
the pass. What the machine drew between passes belongs to nobody here; a run reports it beside.
"""

import logging
from collections.abc import Sequence

from multispin_models.energy import Meter, Reading
from multispin_models.energy.meter import Label
from multispin_models.errors import SensorError

__all__ = ["PassMeter", "split_by_rows"]

log = logging.getLogger(__name__)


def split_by_rows(nanojoules: int, rows: Sequence[int]) -> list[int]:
    """Return the share of every part; they sum to `nanojoules`.

    >>> split_by_rows(10, [1, 2])
    [3, 7]
    """
    total = sum(rows)
    shares = [nanojoules * count // total for count in rows]
    shares[max(range(len(rows)), key=rows.__getitem__)] += nanojoules - sum(shares)
    return shares


class PassMeter:
    """Reads the meter around every pass.

    Args:
        meter: null when there is none.
    """

    def __init__(self, meter: Meter | None) -> None:
        self._meter = meter
        self._failing = False

    @property
    def label(self) -> Label | None:
        """Of its joules; null without a meter."""
        return None if self._meter is None else self._meter.info.label

    def read(self) -> Reading | None:
        """Return the meter's reading now, or None when there is no meter or it does not answer."""
        if self._meter is None:
            return None
        try:
            reading = self._meter.read()
        except SensorError as error:
            if not self._failing:
                log.warning("energy of passes is not measured from here on: %s", error)
            self._failing = True
            return None
        self._failing = False
        return reading

    def shares_nj(self, before: Reading | None, rows: Sequence[int]) -> list[int | None]:
        """Return the share of every part in the joules since `before`; null where they are not known."""
        joules = self._joules(before, self.read()) if rows else None
        if joules is None:
            return [None] * len(rows)
        return list(split_by_rows(round(joules * 1e9), rows))

    def _joules(self, before: Reading | None, after: Reading | None) -> float | None:
        if self._meter is None or before is None or after is None:
            return None
        info = self._meter.info
        first, last = before.total(info.rails), after.total(info.rails)
        if first is None or last is None or before.segment != after.segment:
            return None
        if info.quantity == "energy":
            return max(0.0, last - first)
        return (first + last) / 2.0 * (after.t_ns - before.t_ns) / 1e9

    def close(self) -> None:
        """Free the meter."""
        if self._meter is not None:
            self._meter.close()
