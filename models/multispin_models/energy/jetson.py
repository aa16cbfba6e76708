"""NVIDIA Jetson: the power monitors on the module (INA3221), and on Thor's carrier board (INA238).

    JetPack 5 and later   sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon*/    in1_label, in1_input mV, curr1_input mA
    JetPack 4             sys/bus/i2c/drivers/ina3221x/6-0040/iio:device*/    rail_name_0, in_power0_input mW
                          (older: iio_device)                                 or in_voltage0_input mV, in_current0_input
    Thor, besides         sys/bus/i2c/drivers/ina238/*/hwmon/hwmon*/          label, power1_input uW

Which rail is the whole is known by the labels alone, from the table below. Where no rail is the whole (AGX Orin, AGX
Xavier) there is no total: the rails leave consumers out, or feed one another. A set of labels that is not in the table
has none either. Combined rails keep their combined names. Unconnected channels ("NC") and the driver's "sum of shunt
voltages" are no rails. The watts in the names of power modes (nvpmodel) are limits, and are not read.

Source: Linux Documentation/hwmon/ina3221.rst and ina238.rst; labels and shunts of tegra186-p3310, tegra186-p3509+p3636,
tegra194-p3668, tegra210-p2180, tegra210-p2597 and tegra234-p3767 in the kernel's device trees and in patches to them;
NVIDIA Jetson Linux Developer Guide, power monitors.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from multispin_models.energy.meter import MeterInfo, Rail
from multispin_models.energy.rail_meter import QuickRailMeter, file_meter
from multispin_models.energy.sysfs import (
    HwmonChip,
    KernelFile,
    KernelProduct,
    hwmon_chips,
    numbered,
    read_optional,
    read_text,
)
from multispin_models.errors import SensorAbsent

__all__ = ["MODULES", "Module", "is_unconnected", "jetson_chips", "open_first", "product"]

_OLD_DRIVER = "sys/bus/i2c/drivers/ina3221x"
_UNCONNECTED = re.compile(r"(?<![A-Z])NC(?![A-Z])|sum of shunt voltages")
_SHUNT_STEP_UV = 40.0  # of the INA3221


class Module(NamedTuple):
    """What the labels of a module's channels are.

    Attributes:
        name: of the module.
        total: the rail through which all of its power goes; null if there is none.
        parts: the other rails, those of its usual carrier board included.
    """

    name: str
    total: str | None
    parts: frozenset[str]


_CARRIER = frozenset({"VDD_MUX", "VDD_3V3_SYS", "VDD_1V8_IO", "VDD_M2_IN"})
_THOR = Module("AGX Thor", "VIN", frozenset({"VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"}))
MODULES = (
    Module("Orin NX, Orin Nano or Xavier NX", "VDD_IN", frozenset({"VDD_CPU_GPU_CV", "VDD_SOC"})),
    Module("AGX Orin", None, frozenset({"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"})),
    _THOR,
    Module("Nano", "POM_5V_IN", frozenset({"POM_5V_GPU", "POM_5V_CPU"})),
    Module("TX2 NX", "VDD_IN", frozenset({"VDD_CPU_GPU", "VDD_SOC"})),
    Module(
        "TX2",
        "VDD_IN",
        frozenset({"VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_SYS_CPU", "VDD_3V8_WIFI", "VDD_4V0_WIFI"})
        | frozenset({"VDD_5V0_DDR", "VDD_SYS_DDR", "VDD_5V0_IO_SYS", "VDD_3V3_IO_SLP", "VDD_3V3_SYS_M2"})
        | _CARRIER,
    ),
    Module("TX1", "VDD_IN", frozenset({"VDD_GPU", "VDD_CPU", "VDD_5V_IO_SYS", "VDD_3V3_IO"}) | _CARRIER),
    Module("AGX Xavier", None, frozenset({"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"})),
)
_LABELS = frozenset(label for module in MODULES for label in (*module.parts, module.total))


class _Channel(NamedTuple):
    label: str
    watts: KernelProduct
    folder: Path
    shunt: Path | None = None


def open_first(root: Path) -> QuickRailMeter:
    """Return the meter of this Jetson.

    Raises:
        SensorAbsent: there are no such monitors.
        SensorError: a label cannot be read.
    """
    channels = [*_new(root), *_old(root)]
    if not channels:
        raise SensorAbsent(
            f"{root / 'sys/bus/i2c/drivers'} has no INA3221 or INA238 with a Jetson's labels: this is no Jetson, or "
            "its driver is not loaded"
        )
    labels = [channel.label for channel in channels]
    module = next((module for module in MODULES if module.parts | {module.total} >= set(labels)), None)
    total = module.total if module and module.total in labels else None
    interval_ms = read_optional(channels[0].folder / "update_interval")
    info = MeterInfo(
        name="jetson",
        quantity="power",
        covers="module" if total else "rails",
        label="measured",
        rails=tuple(Rail(label, in_total=label == total) for label in labels),
        native_hz=1000.0 / float(interval_ms) if interval_ms.isdecimal() and int(interval_ms) > 0 else None,
        note="; ".join([_module_note(module, total), *_chip_notes(channels[0])]),
    )
    return file_meter(info, [channel.watts for channel in channels])


def jetson_chips(root: Path) -> frozenset[str]:
    """Return the hwmon folders that this meter reads, by name, so that no other meter reads them a second time."""
    return frozenset(channel.folder.name for channel in _new(root))


def is_unconnected(label: str) -> bool:
    """Return whether a channel's label says that nothing is measured there."""
    return _UNCONNECTED.search(label) is not None


def product(millivolts: Path, milliamperes: Path, enable: Path | None = None) -> KernelProduct:
    """Return where the watts of a channel are read that has volts and amperes."""
    return KernelProduct([KernelFile(millivolts), KernelFile(milliamperes)], 1e-6, enable)


def _new(root: Path) -> list[_Channel]:
    """Return the channels of hwmon chips; chips with no label of a Jetson are somebody's own, and are left to hwmon."""
    chips = hwmon_chips(root)
    by_chip = [list(_ina3221(chip)) for chip in chips if chip.name == "ina3221"]
    channels = [channel for chip in by_chip if any(c.label in _LABELS for c in chip) for channel in chip]
    thor = any(channel.label == "VDD_CPU_SOC_MSS" for channel in channels)
    return channels + [_vin(chip) for chip in chips if chip.name == "ina238" and _is_vin(chip, thor=thor)]


def _ina3221(chip: HwmonChip) -> Iterator[_Channel]:
    for label_file in numbered(chip.folder, "in[123]_label"):  # above 3: shunt voltages and their sum
        label, n = read_text(label_file), label_file.name[2]
        if not is_unconnected(label):
            watts = product(chip.folder / f"in{n}_input", chip.folder / f"curr{n}_input", chip.folder / f"in{n}_enable")
            yield _Channel(label, watts, chip.folder, chip.folder / f"shunt{n}_resistor")


def _is_vin(chip: HwmonChip, *, thor: bool) -> bool:
    label = read_optional(chip.folder / "label") or read_optional(chip.folder / "in1_label")
    return label == _THOR.total or (not label and thor)


def _vin(chip: HwmonChip) -> _Channel:
    watts = KernelProduct([KernelFile(chip.folder / "power1_input")], 1e-6)
    return _Channel("VIN", watts, chip.folder, chip.folder / "shunt_resistor")


def _old(root: Path) -> Iterator[_Channel]:
    folders = {folder.parent: folder for folder in numbered(root / _OLD_DRIVER, "*-*/iio[:_]device*")}  # one a chip
    for folder in folders.values():
        for label_file in numbered(folder, "rail_name_[012]"):
            label, n = read_text(label_file), label_file.name[-1]
            if not is_unconnected(label):
                power = folder / f"in_power{n}_input"
                watts = (
                    KernelProduct([KernelFile(power)], 1e-3)
                    if power.exists()
                    else product(folder / f"in_voltage{n}_input", folder / f"in_current{n}_input")
                )
                yield _Channel(label, watts, folder)


def _module_note(module: Module | None, total: str | None) -> str:
    if module is None:
        return "this set of rails is of no known module: no total"
    if total is None:
        return f"{module.name}: no rail is the whole: no total"
    if module is _THOR:
        return f"{module.name}: {total} is the input of the carrier board; supply losses are left out"
    return f"{module.name}: {total} is the module; carrier board and supply are left out"


def _chip_notes(channel: _Channel) -> Sequence[str]:
    """Return what the accuracy of a channel rests on, where its driver tells."""
    shunt = read_optional(channel.shunt) if channel.shunt else ""
    samples = read_optional(channel.folder / "samples")
    notes = []
    if shunt.isdecimal() and int(shunt) > 0:
        notes.append(f"shunt {int(shunt) / 1000:g} mOhm, steps of {_SHUNT_STEP_UV * 1000 / int(shunt):g} mA")
    if samples:
        notes.append(f"mean of {samples} samples")
    return notes
