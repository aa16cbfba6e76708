"""Energy meters: one protocol, one file a sensor.

Read in this order:

    meter.py        what a sensor must offer, and what it says of itself
    window.py       samples -> joules between two instants
    sampler.py      a thread that reads a meter at a steady rate
    long_window.py  windows longer than a sampler remembers
    sensors.py      which sensors this machine has, and opening one by name
    jetson.py       NVIDIA Jetson: the monitors of the module, and which rail is the whole
    pmic.py         Raspberry Pi 5: the rails of its power management chip
    rapl.py         Intel and AMD processors, by the kernel's powercap counters
    nvml.py         NVIDIA graphics cards
    battery.py      the battery's gauge
    supply.py       no meter: whether the machine runs from its battery
    hwmon.py        any power monitor chip or energy counter that the kernel knows
    fnirsi.py       USB power meters
    plug.py         Shelly and Tasmota power plugs
    serial_line.py  lab meters that print lines
    modelled.py     a guess from the processor's time, never mixed with the others
    replay.py       a recorded file in place of a sensor
    conditions.py   clocks, heat, throttling, power mode, links and load, before, during and after
    calibration.py  a sensor fitted to an external meter; calibrated.py, the meter behind the fit

    sysfs.py, rail_meter.py, stream.py      what sensors share: files of the kernel, rails, devices that send
"""

from multispin_models.energy.long_window import LongWindow
from multispin_models.energy.meter import Meter, MeterInfo, MeterStatus, Rail, Reading
from multispin_models.energy.sampler import Sampler
from multispin_models.energy.sensors import OpenedMeter, discover_meters, open_meter
from multispin_models.energy.window import EnergySample, PowerSample, Window, energy_between

__all__ = [
    "Meter",
    "MeterInfo",
    "MeterStatus",
    "Rail",
    "Reading",
    "PowerSample",
    "EnergySample",
    "Window",
    "energy_between",
    "Sampler",
    "LongWindow",
    "OpenedMeter",
    "discover_meters",
    "open_meter",
]
