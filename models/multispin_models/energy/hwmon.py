"""Power monitor chips that the kernel knows (INA2xx and the like), and energy counters of any hwmon chip.

    /sys/class/hwmon/hwmon*/    name, label, power1_input uW (power1_label), shunt_resistor uOhm
                                in1_input mV, curr1_input mA: their product, where the chip gives no power (INA3221)
                                energy1_input uJ (energy1_label)

Such a chip measures what somebody put behind its shunt, which no file tells. So it covers "rails" and has no total,
until the operator says what it is:

    hwmon:1-0040,covers=module          the chip at address 0x40 of bus 1 feeds the whole board
    hwmon:ina226,covers=module          the only INA226

A driver that was told the wrong shunt is wrong by that factor: the resistance it uses is in the meter's note. A
Jetson's own monitors are left to the meter "jetson", unless one is named.

Source: Linux Documentation/hwmon/sysfs-interface.rst, ina2xx.rst, ina238.rst, ina3221.rst.
"""

import re
from pathlib import Path

from multispin_models.energy.jetson import is_unconnected, jetson_chips, product
from multispin_models.energy.meter import Covers, MeterInfo, Quantity, Rail
from multispin_models.energy.rail_meter import QuickRailMeter, file_meter
from multispin_models.energy.sysfs import HwmonChip, KernelFile, KernelProduct, hwmon_chips, numbered, read_optional
from multispin_models.errors import SensorAbsent, SensorError

__all__ = ["open_chips", "open_first", "open_first_counter"]

_POWER_CHIP = re.compile(r"ina\d+|sq52206|isl28022|powerz|pac19\d\d")


def open_first(root: Path) -> QuickRailMeter:
    """Return a meter of all power monitor chips, each value a rail.

    Raises:
        SensorAbsent: there is none.
    """
    return open_chips(root, "power")


def open_first_counter(root: Path) -> QuickRailMeter:
    """Return a meter of all energy counters; as `open_first`."""
    return open_chips(root, "energy")


def open_chips(root: Path, quantity: Quantity, target: str = "", covers: Covers = "rails") -> QuickRailMeter:
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
    others = frozenset() if target else jetson_chips(root)
    chips = [
        chip
        for chip in hwmon_chips(root)
        if target in ("", chip.name, chip.where) and chip.folder.name not in others and _values(chip, quantity)
    ]
    if not chips:
        named = f" {target}" if target else ""
        raise SensorAbsent(
            f"{root / 'sys/class/hwmon'} has no chip{named} that gives {quantity}; is its driver loaded?"
        )
    values = {
        f"{chip.name} {chip.where} {name}": ask for chip in chips for name, ask in _values(chip, quantity).items()
    }
    whole = covers != "rails"
    if whole and len(values) > 1:
        raise SensorError(f"covers={covers} is said of {', '.join(values)}: name one chip with one value")
    kind = "hwmon" if quantity == "power" else "hwmon-energy"
    shunts = [
        f"{chip.name} {chip.where} is set to a shunt of {shunt} uOhm"
        for chip in chips
        if (shunt := read_optional(chip.folder / "shunt_resistor"))
    ]
    info = MeterInfo(
        name=f"{kind}:{target}" if target else kind,
        quantity=quantity,
        covers=covers,
        label="measured",
        rails=tuple(Rail(name, in_total=whole) for name in values),
        note="; ".join([f"covers {covers} as the operator says" if whole else "what is behind is not known", *shunts]),
    )
    return file_meter(info, list(values.values()))


def _values(chip: HwmonChip, quantity: Quantity) -> dict[str, KernelProduct]:
    """Return where each value of a chip is read, by the label that the device tree or the driver gives, or "power1"."""
    if quantity == "power" and not _POWER_CHIP.fullmatch(chip.name):
        return {}
    files = numbered(chip.folder, f"{quantity}*_input")
    if files:
        return {_label(file, quantity): KernelProduct([KernelFile(file)], 1e-6) for file in files}
    return _products(chip) if quantity == "power" else {}


def _products(chip: HwmonChip) -> dict[str, KernelProduct]:
    """Return the channels that have volts and amperes; in1 is the bus of chips with one channel, too."""
    values: dict[str, KernelProduct] = {}
    for n in "123":
        volts, amperes = chip.folder / f"in{n}_input", chip.folder / f"curr{n}_input"
        label = read_optional(chip.folder / f"in{n}_label")
        if volts.exists() and amperes.exists() and not is_unconnected(label):
            values[label or f"channel{n}"] = product(volts, amperes)
    return values


def _label(file: Path, quantity: Quantity) -> str:
    """Return the name of a value; the chip's own label names it where it is the only one of its kind."""
    value = file.name.removesuffix("_input")
    own = read_optional(file.with_name("label")) if value == f"{quantity}1" else ""
    return read_optional(file.with_name(f"{value}_label")) or own or value
