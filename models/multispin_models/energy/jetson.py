"""NVIDIA Jetson: the power monitors on the module (INA3221), and on Thor's carrier board (INA238).

    JetPack 5 and later   sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon*/    in1_label, in1_input mV, curr1_input mA
    JetPack 4             sys/bus/i2c/drivers/ina3221x/6-0040/iio:device*/    rail_name_0, in_power0_input mW
    Thor, besides         sys/bus/i2c/drivers/ina238/*/hwmon/hwmon*/          label, power1_input uW

Which rail is the whole is known by the set of labels alone, from the table below. Where no rail is the whole (AGX Orin,
AGX Xavier, TX2) there is no total: the rails leave consumers out, or feed one another. A set of labels that is not in
the table has none either. Combined rails keep their combined names. Unconnected channels ("NC") and the driver's "sum
of shunt voltages" are no rails. The watts in the names of power modes (nvpmodel) are limits, and are not read.

Source: Linux Documentation/hwmon/ina3221.rst and ina238.rst; NVIDIA Jetson Linux Developer Guide, power monitors.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from multispin_models.energy.meter import MeterInfo, Rail
from multispin_models.energy.rail_meter import RailMeter, ask_each
from multispin_models.energy.sysfs import numbered, read_number, read_optional, read_text
from multispin_models.errors import SensorAbsent

__all__ = ["MODULES", "Module", "open_first"]

_DRIVERS = "sys/bus/i2c/drivers"
_UNCONNECTED = re.compile(r"(?<![A-Z])NC(?![A-Z])|sum of shunt voltages")
_BUS_STEP_UV = 40.0  # of the shunt's voltage, INA3221


class Module(NamedTuple):
    """What the labels of a module's channels are.

    Attributes:
        name: of the module.
        total: the rail through which all of its power goes; null if there is none.
        parts: the other rails.
    """

    name: str
    total: str | None
    parts: frozenset[str]


_THOR = Module("AGX Thor", "VIN", frozenset({"VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"}))
MODULES = (
    Module("Orin NX, Orin Nano or Xavier NX", "VDD_IN", frozenset({"VDD_CPU_GPU_CV", "VDD_SOC"})),
    Module("AGX Orin", None, frozenset({"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"})),
    _THOR,
    Module("Nano", "POM_5V_IN", frozenset({"POM_5V_GPU", "POM_5V_CPU"})),
    Module(  # whether VDD_IN contains the CPU and GPU rails is disputed
        "TX2",
        None,
        frozenset(
            {"VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI", "VDD_IN", "VDD_SYS_CPU", "VDD_SYS_DDR"}
            | {"VDD_MUX", "VDD_5V0_IO_SYS", "VDD_3V3_SYS", "VDD_3V3_IO_SLP", "VDD_1V8_IO", "VDD_3V3_SYS_M2"}
        ),
    ),
    Module("AGX Xavier", None, frozenset({"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"})),
)


class _Channel(NamedTuple):
    label: str
    watts: Callable[[], float]
    chip: Path
    shunt: Path | None


def open_first(root: Path) -> RailMeter:
    """Return the meter of this Jetson.

    Raises:
        SensorAbsent: there are no such monitors.
        SensorError: a label cannot be read.
    """
    channels = [*_ina3221(root), *_ina3221x(root)]
    channels += _ina238(root, {channel.label for channel in channels})
    if not channels:
        raise SensorAbsent(
            f"{root / _DRIVERS} has no INA3221 or INA238: this is no Jetson, or its driver is not loaded"
        )
    labels = [channel.label for channel in channels]
    module = next((module for module in MODULES if module.parts | {module.total} >= set(labels)), None)
    total = module.total if module and module.total in labels else None
    interval_ms = read_optional(channels[0].chip / "update_interval")
    info = MeterInfo(
        name="jetson",
        quantity="power",
        covers="module" if total else "rails",
        label="measured",
        rails=tuple(Rail(label, in_total=label == total) for label in labels),
        native_hz=1000.0 / float(interval_ms) if interval_ms.isdecimal() and int(interval_ms) > 0 else None,
        note="; ".join([_module_note(module, total), *_chip_notes(channels[0])]),
    )
    return RailMeter(info, lambda: ask_each(channel.watts for channel in channels))


def _ina3221(root: Path) -> Iterator[_Channel]:
    for chip in numbered(root / _DRIVERS / "ina3221", "*-*/hwmon/hwmon*"):
        for label_file in numbered(chip, "in[123]_label"):  # above 3: shunt voltages and their sum
            label, n = read_text(label_file), label_file.name[2]
            if not _UNCONNECTED.search(label):
                watts = partial(_volts_times_amperes, chip / f"in{n}_input", chip / f"curr{n}_input")
                yield _Channel(label, watts, chip, chip / f"shunt{n}_resistor")


def _ina3221x(root: Path) -> Iterator[_Channel]:
    for chip in numbered(root / _DRIVERS / "ina3221x", "*-*/iio:device*"):
        for label_file in numbered(chip, "rail_name_[012]"):
            label, n = read_text(label_file), label_file.name[-1]
            if not _UNCONNECTED.search(label):
                yield _Channel(label, partial(_milliwatts, chip / f"in_power{n}_input"), chip, None)


def _ina238(root: Path, labels: set[str]) -> Iterator[_Channel]:
    """Yield Thor's input; another INA238 is somebody's own sensor, and is left to hwmon."""
    for chip in numbered(root / _DRIVERS / "ina238", "*-*/hwmon/hwmon*"):
        label = read_optional(chip / "label") or read_optional(chip / "in1_label")
        if label == _THOR.total or (not label and "VDD_CPU_SOC_MSS" in labels):
            yield _Channel("VIN", partial(_microwatts, chip / "power1_input"), chip, chip / "shunt_resistor")


def _volts_times_amperes(millivolts: Path, milliamperes: Path) -> float:
    return read_number(millivolts) * read_number(milliamperes) * 1e-6


def _milliwatts(path: Path) -> float:
    return read_number(path) * 1e-3


def _microwatts(path: Path) -> float:
    return read_number(path) * 1e-6


def _module_note(module: Module | None, total: str | None) -> str:
    if module is None:
        return "this set of rails is of no known module: no total"
    if total is None:
        return f"{module.name}: no rail is the whole: no total"
    if module is _THOR:
        return f"{module.name}: {total} is the input of the carrier board; supply losses are left out"
    return f"{module.name}: {total} is the module; carrier board and supply are left out"


def _chip_notes(channel: _Channel) -> Iterator[str]:
    """Yield what the accuracy of a channel rests on, where its driver tells."""
    shunt = read_optional(channel.shunt) if channel.shunt else ""
    samples = read_optional(channel.chip / "samples")
    if shunt.isdecimal() and int(shunt) > 0:
        yield f"shunt {int(shunt) / 1000:g} mOhm, steps of {_BUS_STEP_UV * 1000 / int(shunt):g} mA"
    if samples:
        yield f"mean of {samples} samples"
