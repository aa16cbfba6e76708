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
from multispin_models.energy.meter import MeterInfo, Rail, Reading
from multispin_models.energy.sysfs import read_number, read_text
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
    range_uj: int


class RaplMeter:
    """Counts joules of all processor packages, from where their counters stand; to be read at least every minute.

    Args:
        root: of the file system, or of a recorded tree.
        clock: monotonic nanoseconds.

    Raises:
        SensorAbsent: there are no zones.
        SensorError: they cannot be read; says what to do.
    """

    def __init__(self, root: Path = Path("/"), clock: Callable[[], int] = monotonic_ns) -> None:
        self._zones = _find_zones(root)
        self._clock = clock
        self.info = MeterInfo(
            name="rapl",
            quantity="energy",
            covers="socket",
            label="measured",
            rails=tuple(zone.rail for zone in self._zones),
            native_hz=1000.0,
            note="processor packages only: no memory, disk, network, board or supply losses",
        )
        self._segment = 0
        self._last_ns, self._last_uj = self._read_counters()
        self._counted_uj = list(self._last_uj)

    def read(self) -> Reading:
        """Return joules counted; a counter that was set back starts a new segment."""
        t_ns, now_uj = self._read_counters()
        most_uj = (t_ns - self._last_ns) / 1e9 * _MOST_W * 1e6 + 1e6  # and a joule, for a short interval
        steps = [
            now - last if now >= last else now - last + zone.range_uj
            for zone, now, last in zip(self._zones, now_uj, self._last_uj, strict=True)
        ]
        lost = any(
            step > most_uj or most_uj - 1e6 > zone.range_uj for zone, step in zip(self._zones, steps, strict=True)
        )
        if lost:
            self._segment += 1
        else:
            self._counted_uj = [counted + step for counted, step in zip(self._counted_uj, steps, strict=True)]
        self._last_ns, self._last_uj = t_ns, now_uj
        return Reading(t_ns, tuple(counted * 1e-6 for counted in self._counted_uj), self._segment)

    def close(self) -> None:
        """Do nothing: files are opened for each read."""

    def _read_counters(self) -> tuple[int, list[int]]:
        begin_ns = self._clock()
        counters_uj = [_read_count(zone.path / "energy_uj") for zone in self._zones]
        return (begin_ns + self._clock()) // 2, counters_uj


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
    zones = [_Zone(path, _rail(path.name, names), _read_range(path)) for path in paths]
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
    microjoules = read_number(path, _DENIED)
    if microjoules < 0 or not microjoules.is_integer():
        raise SensorError(f"{path} holds {microjoules:g}, expected is a count of microjoules")
    return int(microjoules)
