"""Intel and AMD processors: joules counted by the kernel's powercap zones (RAPL).

    /sys/class/powercap/intel-rapl:0/        package-0     counted
    /sys/class/powercap/intel-rapl:0:0/      core          a part of package-0
    /sys/class/powercap/intel-rapl:0:1/      dram          reported as a rail, not added: see below
    /sys/class/powercap/intel-rapl:1/        psys or package-1

Only top-level package zones are added up. Sub-zones are parts of their package, and "psys" contains the packages, so
both are read as rails and never added. The "dram" zone hangs under its package but is another power plane; the total
is named "socket" and leaves memory out. AMD processors appear under the same names since Linux 5.11.

Source: Linux Documentation/power/powercap/powercap.rst; Documentation/ABI/testing/sysfs-class-powercap.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from multispin_models.clock import monotonic_ns
from multispin_models.energy.meter import Asked, MeterInfo, Rail, Reading
from multispin_models.energy.sysfs import KernelFile, read_number, read_text
from multispin_models.errors import SensorAbsent, SensorError

__all__ = ["RaplMeter", "open_first"]

_ZONES = "sys/class/powercap"
_ZONE_NAME = re.compile(r"intel-rapl:\d+(:\d+)?")  # not "intel-rapl-mmio:0", the same package by another way
_DENIED = (
    "kernels since CVE-2020-8694 show it to root only; give the service AmbientCapabilities=CAP_DAC_READ_SEARCH, or as "
    "root `chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj`"
)
# More than any socket can draw. It bounds how long a counter may go unread before a wrap could be missed (262 s for
# the usual range of 262,144 J), and tells a wrap from a counter that was set back.
_MOST_W = 1000.0


class _Zone(NamedTuple):
    path: Path
    rail: Rail


class RaplMeter:
    """Counts joules of all processor packages, from where their counters stand; to be read at least every minute.

    Args:
        root: of the file system, or of a recorded tree.
        clock: monotonic nanoseconds.

    Raises:
        SensorAbsent: there are no zones.
        SensorError: a zone has no name.
    """

    def __init__(self, root: Path = Path("/"), clock: Callable[[], int] = monotonic_ns) -> None:
        zones = _find_zones(root)
        self._counters = [_Counter(zone.path) for zone in zones]
        self._whole = [counter for counter, zone in zip(self._counters, zones, strict=True) if zone.rail.in_total]
        self._clock = clock
        self._segment = 0
        self.info = MeterInfo(
            name="rapl",
            quantity="energy",
            covers="socket",
            label="measured",
            rails=tuple(zone.rail for zone in zones),
            native_hz=1000.0,
            note="processor packages only: no memory, disk, network, board or supply losses",
        )

        self._count()  # from here on, not from the first reading

    def read(self) -> Reading:
        """Return joules counted, null for a zone that cannot be read; a counter set back starts a new segment.

        Raises:
            SensorError: no zone can be read; says what to do.
        """
        t_ns, answers = self._count()
        faults = [answer for answer in answers if isinstance(answer, SensorError)]
        if len(faults) == len(answers):
            raise faults[0]
        values = tuple(
            counter.counted_uj * 1e-6 if isinstance(answer, int) else None
            for counter, answer in zip(self._counters, answers, strict=True)
        )
        reasons = tuple(str(answer) if isinstance(answer, SensorError) else "" for answer in answers) if faults else ()
        return Reading(t_ns, values, self._segment, reasons)

    def ask(self) -> Asked:
        """Return what the packages' counters hold now, not understood yet.

        Raises:
            SensorError: one cannot be read.
        """
        begin_ns = self._clock()
        answer = [counter.file.data() for counter in self._whole]
        return (begin_ns + self._clock()) // 2, answer

    def understand(self, asked: Asked) -> Reading:
        """Return the packages' joules counted; null for what was not asked.

        Raises:
            SensorError: a counter holds no number, or its range is not known.
        """
        t_ns, answers = asked
        counts = [counter.count_in(data) for counter, data in zip(self._whole, answers, strict=True)]
        lost = [counter.advance(t_ns, count) for counter, count in zip(self._whole, counts, strict=True)]
        self._segment += any(lost)
        values = tuple(counter.counted_uj * 1e-6 if counter in self._whole else None for counter in self._counters)
        return Reading(t_ns, values, self._segment)

    def _count(self) -> tuple[int, list[int | SensorError]]:
        """Let every counter that can be read count on; return when, and what each answered."""
        begin_ns = self._clock()
        answers = [counter.ask() for counter in self._counters]
        t_ns = (begin_ns + self._clock()) // 2
        lost = [
            counter.advance(t_ns, answer)
            for counter, answer in zip(self._counters, answers, strict=True)
            if isinstance(answer, int)
        ]
        self._segment += any(lost)
        return t_ns, answers

    def close(self) -> None:
        """Close the counters' files."""
        for counter in self._counters:
            counter.file.close()


class _Counter:
    """The counter of a zone, made to go on where it wraps."""

    def __init__(self, zone: Path) -> None:
        self._zone = zone
        self.file = KernelFile(zone / "energy_uj", _DENIED)
        self._range_uj = 0  # not read yet
        self._last: tuple[int, int] | None = None  # nanoseconds, microjoules
        self.counted_uj = 0

    def ask(self) -> int | SensorError:
        """Return the counter as it stands, or why it cannot be used: without its range, wraps could not be told."""
        try:
            return self.count_in(self.file.data())
        except SensorError as error:
            return error

    def count_in(self, data: bytes) -> int:
        """Return the count that the file held when this was read.

        Raises:
            SensorError: it holds none, or the range cannot be read.
        """
        self._range_uj = self._range_uj or _read_range(self._zone)
        return _count_of(self.file.path, self.file.number_in(data))

    def advance(self, t_ns: int, now_uj: int) -> bool:
        """Count on to what the counter shows now; return whether it lost count since it was read last."""
        if self._last is None:
            self.counted_uj = now_uj
            step_uj, lost = 0, False
        else:
            last_ns, last_uj = self._last
            most_uj = (t_ns - last_ns) / 1e9 * _MOST_W * 1e6
            step_uj = now_uj - last_uj if now_uj >= last_uj else now_uj - last_uj + self._range_uj
            lost = step_uj > most_uj + 1e6 or most_uj > self._range_uj  # and a joule, for a short interval
        self._last = t_ns, now_uj
        self.counted_uj += 0 if lost else step_uj
        return lost


def open_first(root: Path) -> RaplMeter:
    """Return the meter of this machine's processor packages.

    Raises:
        SensorAbsent, SensorError: as `RaplMeter`.
    """
    return RaplMeter(root)


def _find_zones(root: Path) -> list[_Zone]:
    folder = root / _ZONES
    if not folder.is_dir():
        raise SensorAbsent(
            f"{folder} is not there: this is no x86 machine, or a virtual one without counters, or the driver is not "
            "loaded; on bare metal try `modprobe intel_rapl_msr`"
        )
    paths = sorted(path for path in folder.iterdir() if _ZONE_NAME.fullmatch(path.name))
    names = {path.name: read_text(path / "name") for path in paths}
    zones = [_Zone(path, _rail(path.name, names)) for path in paths]
    if not any(zone.rail.in_total for zone in zones):
        found = ", ".join(names.values()) or "none"
        raise SensorAbsent(
            f"{folder} has no package zone (found: {found}); load the driver with `modprobe intel_rapl_msr`"
        )
    return zones


def _rail(zone: str, names: dict[str, str]) -> Rail:
    """Return the rail of a zone like "intel-rapl:0:1", named with its package: "package-0/dram"."""
    parent = zone.rpartition(":")[0]
    if parent in names:
        return Rail(f"{names[parent]}/{names[zone]}", in_total=False)
    return Rail(names[zone], in_total=names[zone].startswith("package"))


def _read_range(zone: Path) -> int:
    range_uj = _read_count(zone / "max_energy_range_uj")
    if range_uj == 0:
        raise SensorError(f"{zone}/max_energy_range_uj is 0, allowed is above 0: wraps could not be counted")
    return range_uj


def _read_count(path: Path) -> int:
    return _count_of(path, read_number(path, _DENIED))


def _count_of(path: Path, microjoules: float) -> int:
    if microjoules < 0 or not microjoules.is_integer():
        raise SensorError(f"{path} holds {microjoules:g}, expected is a count of microjoules")
    return int(microjoules)
