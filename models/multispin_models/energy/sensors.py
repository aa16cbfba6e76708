"""Which sensors this machine has, and opening one by name.

A new sensor is one more line: in `_LOCAL` if it can be found, in `_NAMED` if it must be told where it is.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, get_args

from multispin_models.energy import (
    battery,
    calibrated,
    fnirsi,
    hwmon,
    jetson,
    modelled,
    nvml,
    plug,
    pmic,
    rapl,
    serial_line,
)  # fmt: skip
from multispin_models.energy.calibration import find_calibration
from multispin_models.energy.meter import Covers, Meter, MeterStatus, Quantity
from multispin_models.energy.replay import ReplayMeter
from multispin_models.errors import ConfigError, SensorAbsent, SensorError

__all__ = [
    "AUTO_ORDER", "LOCAL_COVERS", "METER_FORMS", "OpenedMeter", "discover_meters", "open_meter", "open_present",
    "open_sensor", "why_no_total",
]  # fmt: skip

AUTO_ORDER: Final = ("jetson", "pmic", "rapl")
"""What "auto" takes, in this order: what covers most, first. The others are not taken unasked: a gauge is slow, a card
is not where models compute here, and nobody but the operator knows what is behind somebody's shunt or USB meter."""
_LOCAL: Final[dict[str, Callable[[Path], Meter]]] = {
    "jetson": jetson.open_first,
    "pmic": pmic.open_first,
    "rapl": rapl.open_first,
    "nvml": nvml.open_first,
    "battery": battery.open_first,
    "hwmon": hwmon.open_first,
    "hwmon-energy": hwmon.open_first_counter,
    "fnirsi": fnirsi.open_first,
}
LOCAL_COVERS: Final[dict[str, Covers]] = {
    "jetson": "module",
    "pmic": "rails",
    "rapl": "socket",
    "nvml": "gpu",
    "battery": "battery",
    "hwmon": "rails",
    "hwmon-energy": "rails",
    "fnirsi": "module",
}
"""What each kind of sensor would cover, for one that is there and cannot tell its rails."""
METER_FORMS: Final = (
    *("auto", "none", "shared", *_LOCAL),
    *("hwmon:CHIP,covers=WHAT", "hwmon-energy:CHIP,covers=WHAT", "shelly:HOST[,counter]", "tasmota:HOST[,counter]"),
    *(
        "serial:PORT[,baud=N][,covers=WHAT]",
        "modelled:BUSY_W,IDLE_W",
        "calibrated:NAME",
        "replay:FILE",
        "replay:FILE,loop",
    ),
)
"""All that `open_meter` takes."""


class OpenedMeter(NamedTuple):
    """A meter, or the reason why there is none.

    Attributes:
        meter: null if there is no sensor, or none was asked for.
        reason: why it is null; else empty.
    """

    meter: Meter | None
    reason: str


def open_present(root: Path = Path("/")) -> Iterator[tuple[str, Meter | SensorError]]:
    """Yield every sensor that can be found, open, or why it cannot be opened or is not there; the caller closes it."""
    for name, open_first in _LOCAL.items():
        try:
            yield name, open_first(root)
        except SensorError as error:
            yield name, error


def discover_meters(root: Path = Path("/")) -> list[MeterStatus]:
    """Return what was found of every kind of sensor, usable or not; a kind that is not there says so.

    Args:
        root: of the file system, or of a recorded tree.
    """
    statuses = []
    for name, found in open_present(root):
        if isinstance(found, SensorError):
            present = not isinstance(found, SensorAbsent)
            statuses.append(MeterStatus(name, False, str(found), None, (), present))
            continue
        reason = why_no_total(found)
        found.close()
        rails = tuple(rail.name for rail in found.info.rails)
        statuses.append(MeterStatus(name, not reason, reason, found.info.covers, rails))
    return statuses


def open_meter(spec: str, root: Path = Path("/")) -> OpenedMeter:
    """Return the meter that a setting names.

    Args:
        spec: one of METER_FORMS. "auto" takes the first board sensor that has a total; "none" meters nothing; "shared"
            too, as another process meters this machine.
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
    meter = open_sensor(spec, root)
    if spec in _LOCAL and (reason := why_no_total(meter)):
        meter.close()
        raise SensorError(f"energy meter {spec}: {reason}")
    return OpenedMeter(meter, "")


def open_sensor(spec: str, root: Path = Path("/")) -> Meter:
    """Return a sensor whether it has a total or not: to show its rails, or to calibrate it.

    Raises:
        SensorError, ConfigError: as `open_meter`, and for what is no sensor ("auto", "none", "shared").
    """
    if spec in _LOCAL:
        return _LOCAL[spec](root)
    kind, _, target = spec.partition(":")
    if not target or kind not in _NAMED:
        raise ConfigError(f"energy meter is {spec!r}, allowed are {', '.join(METER_FORMS)}")
    return _NAMED[kind](root, target)


def _open_auto(root: Path) -> OpenedMeter:
    reasons = []
    for name in AUTO_ORDER:
        try:
            meter = _LOCAL[name](root)
        except SensorError as error:
            reasons.append(f"{name}: {error}")
            continue
        reason = why_no_total(meter)
        if not reason:
            return OpenedMeter(meter, "")
        meter.close()
        reasons.append(f"{name}: {reason}")
    return OpenedMeter(None, "no energy sensor can be read: " + "; ".join(reasons))


def why_no_total(meter: Meter) -> str:
    """Return why a meter cannot meter a run, "" if it can."""
    rails = meter.info.rails
    if not any(rail.in_total for rail in rails):
        names = ", ".join(rail.name for rail in rails)
        return f"it has no rail for the whole ({names}), and none is invented; calibrate it against an external meter"
    try:
        reading = meter.read()
    except SensorError as error:
        return str(error)
    return "" if reading.total(rails) is not None else "; ".join(reason for reason in reading.reasons if reason)


def _open_replay(_root: Path, target: str) -> Meter:
    return ReplayMeter(Path(target.removesuffix(",loop")), loop=target.endswith(",loop"))


def _open_calibrated(root: Path, target: str) -> Meter:
    calibration = find_calibration(target)
    calibrated.check_board(calibration, root)
    return calibrated.apply(open_sensor(calibration.sensor, root), target, calibration)


def _open_shelly(_root: Path, target: str) -> Meter:
    return plug.open_shelly(*_host(target))


def _open_tasmota(_root: Path, target: str) -> Meter:
    return plug.open_tasmota(*_host(target))


def _open_hwmon(root: Path, target: str) -> Meter:
    chip, options = _split(target, {"covers"})
    return hwmon.open_chips(root, "power", chip, _covers(options.get("covers", "rails")))


def _open_hwmon_energy(root: Path, target: str) -> Meter:
    chip, options = _split(target, {"covers"})
    return hwmon.open_chips(root, "energy", chip, _covers(options.get("covers", "rails")))


def _open_serial(root: Path, target: str) -> Meter:
    path, options = _split(target, {"baud", "covers"})
    baud = options.get("baud", "115200")
    if not baud.isdecimal():
        raise ConfigError(f"baud is {baud!r}, allowed is a number, as baud=115200")
    return serial_line.open_port(root, path, baud=int(baud), covers=_covers(options.get("covers", "wall")))


_NAMED: Final[dict[str, Callable[[Path, str], Meter]]] = {
    "hwmon": _open_hwmon,
    "hwmon-energy": _open_hwmon_energy,
    "shelly": _open_shelly,
    "tasmota": _open_tasmota,
    "serial": _open_serial,
    "modelled": modelled.open_model,
    "calibrated": _open_calibrated,
    "replay": _open_replay,
}


def _split(target: str, allowed: set[str]) -> tuple[str, dict[str, str]]:
    """Return what "NAME,key=value,..." names, and its options.

    >>> _split("ina226,covers=module", {"covers"})
    ('ina226', {'covers': 'module'})
    """
    name, *parts = target.split(",")
    options = dict(part.partition("=")[::2] for part in parts)
    if unknown := set(options) - allowed:
        raise ConfigError(f"energy meter has {', '.join(sorted(unknown))}, allowed after {name} are {sorted(allowed)}")
    return name, options


def _host(target: str) -> tuple[str, Quantity]:
    host, options = _split(target, {"counter"})
    return host, "energy" if "counter" in options else "power"


def _covers(text: str) -> Covers:
    allowed: tuple[Covers, ...] = get_args(Covers)
    for known in allowed:
        if text == known:
            return known
    raise ConfigError(f"covers is {text!r}, allowed are {', '.join(get_args(Covers))}")
