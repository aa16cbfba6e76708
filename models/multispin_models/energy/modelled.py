"""Watts guessed from the processor's time, where there is no sensor at all.

    modelled:2.6,1.9        1.9 W when idle, and 2.6 W more for every busy core

    joules = idle_w * time + busy_w * busy core-seconds

This is the only meter that guesses. Its label is "modelled" in every record, it is never taken by "auto", and the rule
of a run's energy (`records/run_energy.py`) adds only figures of one label, so it never adds to a measured number. The
watts come from the board's own calibration: `multispin meter calibrate --sensor modelled:1,0 ...` fits them.

Source: Linux Documentation/filesystems/proc.rst, /proc/stat: core time by state in ticks of 10 ms, all cores summed.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path

from multispin_models.clock import monotonic_ns
from multispin_models.energy.meter import MeterInfo, Rail
from multispin_models.energy.rail_meter import RailMeter
from multispin_models.energy.sysfs import read_text
from multispin_models.errors import ConfigError, SensorError

__all__ = ["busy_core_seconds", "open_model"]

_IDLE_FIELDS = (3, 4)  # idle, iowait
_NUM_FIELDS = 8  # the next ones, guests, are in the first already


def open_model(root: Path, target: str, clock: Callable[[], int] = monotonic_ns) -> RailMeter:
    """Return the model as a meter that counts joules from now on.

    Args:
        root: of the file system, or of a recorded tree with proc/stat.
        target: "BUSY_W,IDLE_W", watts for a busy core and for the idle machine.
        clock: monotonic nanoseconds.

    Raises:
        ConfigError: the watts are not two numbers from 0 up.
        SensorError: /proc/stat cannot be read.
    """
    busy_w, idle_w = _parse_watts(target)
    stat = root / "proc/stat"
    start_ns, start_s = clock(), busy_core_seconds(read_text(stat))

    def ask() -> list[float]:
        elapsed_s = (clock() - start_ns) / 1e9
        return [idle_w * elapsed_s + busy_w * (busy_core_seconds(read_text(stat)) - start_s)]

    info = MeterInfo(
        name=f"modelled:{target}",
        quantity="energy",
        covers="module",
        label="modelled",
        rails=(Rail("processor time", in_total=True),),
        native_hz=10.0,
        note=f"guessed, not measured: {busy_w:g} W for a busy core and {idle_w:g} W always",
    )
    return RailMeter(info, ask, clock=clock)


def busy_core_seconds(stat: str) -> float:
    """Return the core-seconds that the machine has worked since its start.

    Args:
        stat: text of /proc/stat.

    Raises:
        SensorError: its first line is not the sum of all cores.
    """
    name, *fields = stat.partition("\n")[0].split()
    if name != "cpu" or len(fields) < _NUM_FIELDS or not all(field.isdecimal() for field in fields):
        raise SensorError(f"/proc/stat begins with {stat[:40]!r}, expected is 'cpu' and {_NUM_FIELDS} counts")
    ticks = sum(int(field) for index, field in enumerate(fields[:_NUM_FIELDS]) if index not in _IDLE_FIELDS)
    return ticks / os.sysconf("SC_CLK_TCK")


def _parse_watts(target: str) -> tuple[float, float]:
    try:
        busy_w, idle_w = (float(part) for part in target.split(","))
    except ValueError:
        busy_w = idle_w = math.nan
    if not (0.0 <= busy_w < math.inf and 0.0 <= idle_w < math.inf):
        raise ConfigError(
            f"modelled:{target!r}: give watts of a busy core and of the idle machine, as modelled:2.6,1.9"
        )
    return busy_w, idle_w
