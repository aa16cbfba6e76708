"""Energy meters: one protocol, one file a sensor.

Read in this order:

    meter.py      what a sensor must offer, and what it says of itself
    window.py     samples -> joules between two instants
    sampler.py    a thread that reads a meter at a steady rate
    sensors.py    which sensors this machine has, and opening one by name
    rapl.py       Intel and AMD processors, by the kernel's powercap counters
    replay.py     a recorded file in place of a sensor
"""

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
    "OpenedMeter",
    "discover_meters",
    "open_meter",
]
