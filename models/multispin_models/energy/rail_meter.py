"""A meter of several rails, each of which may fail to answer without the others.

What all sensors share that give watts, or joules counted by themselves: the time of a reading, null and a reason for a
rail that did not answer, and a new segment when a counter was set back.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat

from multispin_models.clock import monotonic_ns
from multispin_models.energy.meter import MeterInfo, Reading
from multispin_models.errors import SensorError

__all__ = ["Answer", "RailMeter", "ask_each"]

Answer = float | SensorError
"""Watts, or joules counted; or why there is none."""


class RailMeter:
    """Reads all rails at once.

    Args:
        info: what it measures.
        ask: returns one answer per rail of `info`; raises SensorError if the whole sensor does not answer.
        close: frees the sensor.
        clock: monotonic nanoseconds.
    """

    def __init__(
        self,
        info: MeterInfo,
        ask: Callable[[], Sequence[Answer]],
        close: Callable[[], None] | None = None,
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:
        self.info = info
        self._ask = ask
        self._close = close
        self._clock = clock
        self._segment = 0
        self._last: tuple[float | None, ...] = tuple(repeat(None, len(info.rails)))

    def read(self) -> Reading:
        """Return all rails now; null for one that did not answer.

        Raises:
            SensorError: none answered.
        """
        begin_ns = self._clock()
        answers = self._ask()
        t_ns = (begin_ns + self._clock()) // 2
        faults = [answer for answer in answers if isinstance(answer, SensorError)]
        if not faults and self.info.quantity == "power":
            return Reading(t_ns, tuple(answers))  # type: ignore[arg-type]
        if len(faults) == len(answers):
            raise faults[0]
        values = tuple(None if isinstance(answer, SensorError) else answer for answer in answers)
        if self.info.quantity == "energy":
            fell = [
                now is not None and last is not None and now < last
                for now, last in zip(values, self._last, strict=True)
            ]
            self._segment += any(fell)
            self._last = tuple(last if now is None else now for now, last in zip(values, self._last, strict=True))
        reasons = tuple(str(answer) if isinstance(answer, SensorError) else "" for answer in answers) if faults else ()
        return Reading(t_ns, values, self._segment, reasons)

    def close(self) -> None:
        """Free the sensor, once."""
        if self._close is not None:
            self._close()
            self._close = None


def ask_each(sources: Iterable[Callable[[], float]]) -> list[Answer]:
    """Return the answer of every source; a SensorError in place of a value."""
    return [_ask(source) for source in sources]


def _ask(source: Callable[[], float]) -> Answer:
    try:
        return source()
    except SensorError as error:
        return error
