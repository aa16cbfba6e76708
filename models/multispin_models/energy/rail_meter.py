"""A meter of several rails, each of which may fail to answer without the others.

What all sensors share that give watts, or joules counted by themselves: the time of a reading, null and a reason for a
rail that did not answer, and a new segment when a counter was set back. Sensors that a sampler reads often are asked
in two steps.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any

from multispin_models.clock import monotonic_ns
from multispin_models.energy.meter import Asked, MeterInfo, Reading
from multispin_models.energy.sysfs import KernelFiles, KernelProduct
from multispin_models.errors import SensorError

__all__ = ["Answer", "QuickRailMeter", "RailMeter", "ask_each", "file_meter"]

Answer = float | SensorError | None
"""Watts, or joules counted; or why there is none; or null, if it was not asked."""


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
        return self._reading((begin_ns + self._clock()) // 2, answers)

    def close(self) -> None:
        """Free the sensor, once."""
        if self._close is not None:
            self._close()
            self._close = None

    def _reading(self, t_ns: int, answers: Sequence[Answer]) -> Reading:
        faults = [answer for answer in answers if isinstance(answer, SensorError)]
        if not faults and self.info.quantity == "power":
            return Reading(t_ns, tuple(answers))  # type: ignore[arg-type]
        values = tuple(None if isinstance(answer, SensorError) else answer for answer in answers)
        if faults and not any(value is not None for value in values):
            raise faults[0]
        if self.info.quantity == "energy":
            fell = [
                now is not None and last is not None and now < last
                for now, last in zip(values, self._last, strict=True)
            ]
            self._segment += any(fell)
            self._last = tuple(last if now is None else now for now, last in zip(values, self._last, strict=True))
        reasons = tuple(str(answer) if isinstance(answer, SensorError) else "" for answer in answers) if faults else ()
        return Reading(t_ns, values, self._segment, reasons)


class QuickRailMeter(RailMeter):
    """Asks the rails of the total at once, and understands them later; a `QuickMeter`.

    Args:
        info, ask, close, clock: as for RailMeter.
        ask_total: returns what the rails of the total answered, as it came.
        answers_in: turns that into one answer per rail of `info`, null for those that were not asked.
    """

    def __init__(
        self,
        info: MeterInfo,
        ask: Callable[[], Sequence[Answer]],
        ask_total: Callable[[], Any],
        answers_in: Callable[[Any], Sequence[Answer]],
        close: Callable[[], None] | None = None,
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:
        super().__init__(info, ask, close, clock)
        self._ask_total = ask_total
        self._answers_in = answers_in

    def ask(self) -> Asked:
        """Return what the rails of the total answer now, not understood yet.

        Raises:
            SensorError: one did not answer.
        """
        begin_ns = self._clock()
        answer = self._ask_total()
        return (begin_ns + self._clock()) // 2, answer

    def understand(self, asked: Asked) -> Reading:
        """Return the reading that an answer is; null for the rails that were not asked.

        Raises:
            SensorError: it is none.
        """
        t_ns, answer = asked
        return self._reading(t_ns, self._answers_in(answer))


def file_meter(
    info: MeterInfo, products: Sequence[KernelProduct], clock: Callable[[], int] = monotonic_ns
) -> QuickRailMeter:
    """Return a meter whose rails stand in files of the kernel.

    Args:
        info: what it measures.
        products: where each of its rails is read, in the same order.
        clock: monotonic nanoseconds.
    """
    whole = [product if rail.in_total else None for rail, product in zip(info.rails, products, strict=True)]
    asked = [product for product in whole if product is not None]
    files = KernelFiles([file for product in asked for file in product.files])

    def answers_in(answers: Sequence[bytes]) -> list[Answer]:
        rest = iter(answers)
        return [None if product is None else product.value_in([next(rest) for _ in product.files]) for product in whole]

    def close() -> None:
        for product in products:
            product.close()

    return QuickRailMeter(
        info,
        lambda: ask_each(product.value for product in products),
        files.data,
        answers_in,
        close,
        clock,
    )


def ask_each(sources: Iterable[Callable[[], float]]) -> list[Answer]:
    """Return the answer of every source; a SensorError in place of a value."""
    return [_ask(source) for source in sources]


def _ask(source: Callable[[], float]) -> Answer:
    try:
        return source()
    except SensorError as error:
        return error
