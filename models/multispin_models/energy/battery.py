"""The machine's battery: watts that its gauge reports while it discharges.

    /sys/class/power_supply/BAT0/{type,scope,status,power_now,voltage_now,current_now}     uW, uV, uA

Only while the machine runs from its batteries are their watts the machine's: when charging, or on mains, they are null
and say so. Batteries of mice and other peripherals (scope "Device") and USB-C supplies (ucsi-*: what was negotiated,
not what flows) are no batteries of this machine. Gauges have a new value every second to every half minute.

Source: Linux Documentation/ABI/testing/sysfs-class-power.
"""

from functools import partial
from pathlib import Path

from multispin_models.energy.meter import MeterInfo, Rail
from multispin_models.energy.rail_meter import Answer, RailMeter, ask_each
from multispin_models.energy.sysfs import numbered, read_number, read_optional, read_text
from multispin_models.errors import SensorAbsent, SensorError

__all__ = ["open_first"]

_FOLDER = "sys/class/power_supply"


def open_first(root: Path) -> RailMeter:
    """Return the meter of all batteries of this machine.

    Raises:
        SensorAbsent: it has none.
    """
    batteries = [supply for supply in numbered(root / _FOLDER, "*") if _is_battery(supply)]
    if not batteries:
        raise SensorAbsent(f"{root / _FOLDER} has no battery of this machine")
    info = MeterInfo(
        name="battery",
        quantity="power",
        covers="battery",
        label="measured",
        rails=tuple(Rail(battery.name, in_total=True) for battery in batteries),
        native_hz=1.0,
        note="the gauge's own mean over 1 to 30 s; only while the machine runs from its battery",
    )
    return RailMeter(info, lambda: _answers(batteries))


def _is_battery(supply: Path) -> bool:
    return (
        not supply.name.startswith("ucsi")
        and read_optional(supply / "type") == "Battery"
        and read_optional(supply / "scope") != "Device"
    )


def _answers(batteries: list[Path]) -> list[Answer]:
    """Return watts if the machine runs from its batteries: one discharges, and none is charged."""
    states = {battery.name: read_text(battery / "status") for battery in batteries}
    if "Charging" in states.values() or "Discharging" not in states.values():
        said = ", ".join(f"{name} {state}" for name, state in states.items())
        raise SensorError(f"the machine does not run from its battery ({said}): unplug its supply")
    return ask_each(partial(_watts, battery) for battery in batteries)


def _watts(battery: Path) -> float:
    """Return a battery's power; some drivers give the current of a discharge a minus sign."""
    if (battery / "power_now").exists():
        return abs(read_number(battery / "power_now")) * 1e-6
    return abs(read_number(battery / "voltage_now") * read_number(battery / "current_now")) * 1e-12
