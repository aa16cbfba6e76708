"""Whether this machine slept or had its wall clock set, and what chrony says of it.

The monotonic clock neither steps nor runs while a machine is suspended, so a duration over a suspend is too short and
says nothing. The kernel's other clocks tell: CLOCK_BOOTTIME runs on in a suspend, CLOCK_REALTIME steps when it is set.
"""

import subprocess
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from msgspec import Struct

__all__ = ["ClockSync", "ClockWatch", "Clocks", "parse_tracking", "read_clock_sync", "read_clocks"]

THRESHOLD_NS: Final = 10_000_000  # a shorter sleep or step is not told from the reading of three clocks
_SLEW: Final = 1e-3
_READ_NS: Final = 1_000_000  # the three must be read within so long, else the thread was held up between them
_TRACKING_FIELDS: Final = 14


class Clocks(NamedTuple):
    """The kernel's clocks at one instant, nanoseconds."""

    monotonic_ns: int
    boottime_ns: int
    realtime_ns: int


def read_clocks() -> Clocks | None:
    """Return the three clocks, read within a millisecond; None if that does not come about on a busy machine."""
    for _ in range(5):
        begun_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        clocks = Clocks(
            begun_ns, time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.clock_gettime_ns(time.CLOCK_REALTIME)
        )
        if time.clock_gettime_ns(time.CLOCK_MONOTONIC) - begun_ns < _READ_NS:
            return clocks
    return None


class ClockWatch:
    """Notices a suspend or a step of the wall clock, when asked.

    Args:
        read: gives the clocks; tests have their own.
    """

    def __init__(self, read: Callable[[], Clocks | None] = read_clocks) -> None:
        self.num_suspends = 0
        self.num_steps = 0
        self._read = read
        self._last = read()

    def check(self) -> None:
        """Compare the clocks with the last time, and count what happened since."""
        now = self._read()
        last, self._last = self._last, now or self._last
        if now is None or last is None:
            return
        slept_ns = (now.boottime_ns - now.monotonic_ns) - (last.boottime_ns - last.monotonic_ns)
        stepped_ns = (now.realtime_ns - now.boottime_ns) - (last.realtime_ns - last.boottime_ns)
        allowed_ns = THRESHOLD_NS + int((now.boottime_ns - last.boottime_ns) * _SLEW)
        self.num_suspends += slept_ns > allowed_ns
        self.num_steps += abs(stepped_ns) > allowed_ns


class ClockSync(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How well chrony keeps this machine's wall clock, by `chronyc -c tracking`.

    Attributes:
        reason: why nothing is known; then all others are null.
        reference: name or address of the source that it follows.
        stratum: of this machine; 0 if it is not synchronised.
        system_offset_s: "System time", the correction that is still to be made, with chronyc's sign.
        rms_offset_s: of the last measurements.
        frequency_ppm: by which the machine's own clock is wrong.
        skew_ppm: error bound of that.
        root_delay_s, root_dispersion_s: on the way to the stratum-1 source.
        update_interval_s: between the last two measurements.
        leap_status: "Normal", "Insert second", "Delete second" or "Not synchronised".
        bound_s: |system_offset| + root_dispersion + root_delay / 2: the wall clock is not further off.
    """

    reason: str | None = None
    reference: str | None = None
    stratum: int | None = None
    system_offset_s: float | None = None
    rms_offset_s: float | None = None
    frequency_ppm: float | None = None
    skew_ppm: float | None = None
    root_delay_s: float | None = None
    root_dispersion_s: float | None = None
    update_interval_s: float | None = None
    leap_status: str | None = None
    bound_s: float | None = None


def read_clock_sync(command: tuple[str, ...] = ("chronyc", "-c", "tracking")) -> ClockSync:
    """Return what chrony says now; without an answer within two seconds, why."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=2.0, check=False)  # noqa: S603
    except FileNotFoundError:
        return ClockSync(reason="chronyc is not installed: how well the wall clock is kept is not known")
    except (OSError, subprocess.TimeoutExpired) as error:
        return ClockSync(reason=f"chronyc did not answer: {error}")
    if done.returncode != 0:
        return ClockSync(reason=f"chronyc ended with {done.returncode}: {(done.stderr or done.stdout).strip()[:200]}")
    return parse_tracking(done.stdout)


def parse_tracking(text: str) -> ClockSync:
    """Return the fields of `chronyc -c tracking`.

    Source: chronyc(1), "tracking"; with -c the 14 fields come in its order, separated by commas.
    """
    fields = text.strip().split(",")
    said = f"chronyc said {text.strip()[:200]!r}"
    if len(fields) != _TRACKING_FIELDS:
        return ClockSync(reason=f"{said}, expected are {_TRACKING_FIELDS} fields and not {len(fields)}")
    try:
        _, name, stratum, _, system, _, rms, frequency, _, skew, delay, dispersion, interval, leap = fields
        return ClockSync(
            reference=name,
            stratum=int(stratum),
            system_offset_s=float(system),
            rms_offset_s=float(rms),
            frequency_ppm=float(frequency),
            skew_ppm=float(skew),
            root_delay_s=float(delay),
            root_dispersion_s=float(dispersion),
            update_interval_s=float(interval),
            leap_status=leap,
            bound_s=abs(float(system)) + float(dispersion) + float(delay) / 2.0,
        )
    except ValueError as error:
        return ClockSync(reason=f"{said}: {error}")
