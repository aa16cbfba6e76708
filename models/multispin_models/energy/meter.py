"""What a sensor must offer: open, read, close, and an honest description of what it measures.

A meter has rails. All give joules counted ("energy") or watts now ("power"), in SI whatever the sensor counts in. A
counter starts anywhere: only differences mean something. Rails that are part of others are marked, so that nothing is
added twice; a board that has no rail for the whole has no total, and none is invented.

A new sensor is one file with one function, entered in `sensors.py`:

    open_first(root) -> Meter                SensorAbsent if it is not there; SensorError with what to do
    open_named(root, target) -> Meter        instead, if it must be told which one
"""

from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

__all__ = [
    "Asked", "Covers", "Label", "Meter", "MeterInfo", "MeterStatus", "Quantity", "QuickMeter", "Rail", "Reading"
]  # fmt: skip

Covers = Literal["module", "rails", "socket", "gpu", "wall", "battery"]
Label = Literal["measured", "calibrated", "modelled"]
Quantity = Literal["energy", "power"]


class Rail(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a meter.

    Attributes:
        name: as the sensor calls it.
        in_total: added up for the meter's total; false for a part of another rail.
    """

    name: str
    in_total: bool


class MeterInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a meter measures, as it stands in records.

    Attributes:
        name: of the meter, the same at every start: "rapl", "replay:FILE".
        quantity: whether a reading is joules counted ("energy") or watts ("power").
        covers: "module" (board without carrier and supply), "rails" (some consumers only), "socket" (processor
            package), "gpu", "wall", "battery".
        label: "measured", "calibrated" (fitted to an external meter) or "modelled".
        rails: in the order of a reading's values.
        native_hz: how often the sensor has a new value; null where it is not known.
        note: what a reader of the figures must know: what is left out, that it was replayed. May be empty.
    """

    name: str
    quantity: Quantity
    covers: Covers
    label: Label
    rails: tuple[Rail, ...]
    native_hz: float | None = None
    note: str = ""


class MeterStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a search found of one kind of sensor.

    Attributes:
        name: what `open_meter` takes.
        usable: it can meter a run: it was read just now, and has a total.
        reason: if not usable, why and what to do; else empty.
        covers: as in MeterInfo; null if it could not be opened.
        rails: names of its rails; empty if it could not be opened.
        present: the sensor is there, usable or not.
    """

    name: str
    usable: bool
    reason: str
    covers: Covers | None
    rails: tuple[str, ...]
    present: bool = True


class Reading(NamedTuple):
    """All rails at one instant.

    Attributes:
        t_ns: monotonic, the middle of the read.
        values: [rails] joules counted, or watts; null for a rail that did not answer.
        segment: goes up when a counter has lost count: joules of two segments must not be subtracted.
        reasons: [rails] why a rail is null, else ""; empty if none is.
    """

    t_ns: int
    values: tuple[float | None, ...]
    segment: int = 0
    reasons: tuple[str, ...] = ()

    def total(self, rails: tuple[Rail, ...]) -> float | None:
        """Return the sum of the rails that make the total; null without such a rail, or if one did not answer.

        >>> Reading(0, (5.0, 3.0)).total((Rail("package-0", True), Rail("core", False)))
        5.0
        """
        parts = [value for rail, value in zip(rails, self.values, strict=True) if rail.in_total]
        known = [value for value in parts if value is not None]
        return sum(known) if known and len(known) == len(parts) else None


class Meter(Protocol):
    """An open sensor, used by one thread at a time."""

    @property
    def info(self) -> MeterInfo:
        """What it measures."""
        ...

    def read(self) -> Reading:
        """Return all rails now.

        Raises:
            SensorError: it did not answer; it may at the next read.
        """
        ...

    def close(self) -> None:
        """Free the sensor. Closing twice is no error."""
        ...


Asked = tuple[int, Any]
"""When a sensor was asked (monotonic nanoseconds, the middle of the read), and what it answered, as it came."""


@runtime_checkable
class QuickMeter(Meter, Protocol):
    """A meter that can be read in two steps, so that a sampler does little at each beat and the rest for many at once.

    Only the rails that make the total are asked: the others would cost as much again, and a sampler drops them.
    """

    def ask(self) -> Asked:
        """Return what the rails of the total answer now, not understood yet.

        Raises:
            SensorError: one did not answer.
        """
        ...

    def understand(self, asked: Asked) -> Reading:
        """Return the reading that an answer is; null for the rails that were not asked.

        Answers are understood in the order in which they were asked, each once, and before the next `read`.

        Raises:
            SensorError: it is none.
        """
        ...
