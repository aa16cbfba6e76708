"""Which sensors this machine has, and opening one by name. A new sensor is one more line in `_KINDS`."""

from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from multispin_models.energy import rapl
from multispin_models.energy.meter import Meter, MeterStatus
from multispin_models.energy.replay import ReplayMeter
from multispin_models.errors import ConfigError, SensorError

__all__ = ["OpenedMeter", "discover_meters", "open_meter"]

# In the order in which "auto" takes them: what covers most, first.
_KINDS: dict[str, ModuleType] = {"rapl": rapl}


class OpenedMeter(NamedTuple):
    """A meter, or the reason why there is none.

    Attributes:
        meter: null if there is no sensor, or none was asked for.
        reason: why it is null; else empty.
    """

    meter: Meter | None
    reason: str


def discover_meters(root: Path = Path("/")) -> list[MeterStatus]:
    """Return what was found of every kind of sensor, usable or not; a kind that is not there says so.

    Args:
        root: of the file system, or of a recorded tree.
    """
    return [status for kind in _KINDS.values() for status in kind.discover(root)]


def open_meter(spec: str, root: Path = Path("/")) -> OpenedMeter:
    """Return the meter that a setting names.

    Args:
        spec: "auto" takes the first that can be read; "none" meters nothing; "shared" too, as another process
            meters this machine; "rapl"; "replay:FILE" or
            "replay:FILE,loop".
        root: as in `discover_meters`.

    Raises:
        SensorError: the named sensor cannot be read. Only "auto" goes on without one, and gives the reason.
        ConfigError: no such meter.
    """
    if spec == "none":
        return OpenedMeter(None, "energy metering is switched off by the setting 'none'")
    if spec == "shared":
        return OpenedMeter(None, "one meter covers both ends: its joules are those of the run as a whole")
    if spec == "auto":
        return _open_auto(root)
    kind, colon, file = spec.partition(":")
    if kind == "replay" and colon and file:
        loop = file.endswith(",loop")
        return OpenedMeter(ReplayMeter(Path(file.removesuffix(",loop")), loop=loop), "")
    if spec not in _KINDS:
        names = ", ".join(["auto", "none", "shared", *_KINDS, "replay:FILE", "replay:FILE,loop"])
        raise ConfigError(f"energy meter is {spec!r}, allowed are {names}")
    return OpenedMeter(_KINDS[spec].open_first(root), "")


def _open_auto(root: Path) -> OpenedMeter:
    reasons = []
    for name, kind in _KINDS.items():
        try:
            return OpenedMeter(kind.open_first(root), "")
        except SensorError as error:
            reasons.append(f"{name}: {error}")
    return OpenedMeter(None, "no energy sensor can be read: " + "; ".join(reasons))
