"""Whether this machine runs from its battery.

    /sys/class/power_supply/*/{type,scope,online,status}

A supply that is `online` feeds it, whatever the battery says; without one, it runs from a battery that discharges.
USB-C ports (ucsi-*) count as supplies: they are online where the machine is fed by them, not where it feeds. Batteries
of mice and other peripherals (scope "Device") are no batteries of this machine. A box on a power bank or a UPS without
a driver looks like one on mains: it tells of no battery.

Source: Linux Documentation/ABI/testing/sysfs-class-power.
"""

from pathlib import Path

from multispin_models.energy.sysfs import numbered, read_optional

__all__ = ["runs_from_battery"]

_FOLDER = "sys/class/power_supply"
_STORES = ("Battery", "UPS")


def runs_from_battery(root: Path = Path("/")) -> bool | None:
    """Return whether a battery feeds this machine now; null where no battery of it is told of.

    Args:
        root: of the file system, or of a recorded board.
    """
    own = [each for each in numbered(root / _FOLDER, "*") if read_optional(each / "scope") != "Device"]
    stores = [each for each in own if read_optional(each / "type") in _STORES]
    if not stores:
        return None
    feeds = [each for each in own if each not in stores]
    if any(read_optional(each / "online") in {"1", "2"} for each in feeds):  # 2: at a voltage that was negotiated
        return False
    states = [read_optional(each / "status") for each in stores]
    return "Discharging" in states and "Charging" not in states
