"""Power monitor chips that the kernel knows (INA2xx and the like), and energy counters of any hwmon chip.

    /sys/class/hwmon/hwmon*/    name, label, power1_input uW (power1_label), shunt_resistor uOhm
                                energy1_input uJ (energy1_label)

Such a chip measures what somebody put behind its shunt, which no file tells. So it covers "rails" and has no total,
until the operator says what it is:

    hwmon:1-0040,covers=module          the chip at address 0x40 of bus 1 feeds the whole board
    hwmon:ina226,covers=module          the only INA226

A driver that was told the wrong shunt is wrong by that factor: the resistance it uses is in the meter's note.

Source: Linux Documentation/hwmon/sysfs-interface.rst, ina2xx.rst, ina238.rst.
"""

import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

from multispin_models.energy.meter import Covers, MeterInfo, Quantity, Rail
from multispin_models.energy.rail_meter import RailMeter, ask_each
from multispin_models.energy.sysfs import numbered, read_number, read_optional
from multispin_models.errors import SensorAbsent, SensorError

__all__ = ["open_chips", "open_first", "open_first_counter"]

_FOLDER = "sys/class/hwmon"
_POWER_CHIP = re.compile(r"ina\d+|sq52206|isl28022|powerz|pac19\d\d")
_ADDRESS = re.compile(r"[0-9]+-[0-9a-f]{4}")  # "1-0040" of an I2C device


class _Chip(NamedTuple):
    """A chip and its values.

    Attributes:
        name: of the driver, as "ina226".
        where: its I2C address, or its hwmon folder.
        values: files of power or of energy.
        shunt: as the driver has it, "" if it does not tell.
    """

    name: str
    where: str
    values: tuple[Path, ...]
    shunt: str


def open_first(root: Path) -> RailMeter:
    """Return a meter of all power monitor chips, each value a rail.

    Raises:
        SensorAbsent: there is none.
    """
    return open_chips(root, "power")


def open_first_counter(root: Path) -> RailMeter:
    """Return a meter of all energy counters; as `open_first`."""
    return open_chips(root, "energy")


def open_chips(root: Path, quantity: Quantity, target: str = "", covers: Covers = "rails") -> RailMeter:
    """Return a meter of chips.

    Args:
        root: of the file system, or of a recorded tree.
        quantity: whether to read their watts or their counted joules.
        target: a chip's driver or address; "" for all.
        covers: what the operator says is behind them; "rails" if that is not known.

    Raises:
        SensorAbsent: there is no such chip.
        SensorError: it has several values, of which none can be the whole.
    """
    chips = [chip for chip in _chips(root, quantity) if target in ("", chip.name, chip.where)]
    if not chips:
        named = f" {target}" if target else ""
        raise SensorAbsent(f"{root / _FOLDER} has no chip{named} with {quantity}*_input; is its driver loaded?")
    values = {_rail_name(chip, file): file for chip in chips for file in chip.values}
    whole = covers != "rails"
    if whole and len(values) > 1:
        raise SensorError(f"covers={covers} is said of {', '.join(values)}: name one chip with one value")
    kind = "hwmon" if quantity == "power" else "hwmon-energy"
    shunts = [f"{chip.name} {chip.where} is set to a shunt of {chip.shunt} uOhm" for chip in chips if chip.shunt]
    info = MeterInfo(
        name=f"{kind}:{target}" if target else kind,
        quantity=quantity,
        covers=covers,
        label="measured",
        rails=tuple(Rail(name, in_total=whole) for name in values),
        note="; ".join([f"covers {covers} as the operator says" if whole else "what is behind is not known", *shunts]),
    )
    return RailMeter(info, lambda: ask_each(partial(_micro, file) for file in values.values()))


def _chips(root: Path, quantity: Quantity) -> list[_Chip]:
    chips = []
    for folder in numbered(root / _FOLDER, "hwmon*"):
        name = read_optional(folder / "name")
        files = tuple(numbered(folder, f"{quantity}*_input"))
        if files and (quantity == "energy" or _POWER_CHIP.fullmatch(name)):
            device = (folder / "device").resolve().name
            where = device if _ADDRESS.fullmatch(device) else folder.name
            chips.append(_Chip(name, where, files, read_optional(folder / "shunt_resistor")))
    return chips


def _rail_name(chip: _Chip, file: Path) -> str:
    """Return "ina226 1-0040 power1", or with the label that the device tree or the driver gives."""
    value = file.name.removesuffix("_input")
    label = read_optional(file.with_name(f"{value}_label")) or read_optional(file.with_name("label"))
    return f"{chip.name} {chip.where} {label or value}"


def _micro(file: Path) -> float:
    return read_number(file) * 1e-6
