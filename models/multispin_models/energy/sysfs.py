"""A value in a file of /sys or /proc, and what the errors of such a file mean.

The kernel asks the chip when the file is read, so a file that is there can still answer with an error: a channel that
is switched off, a bus that is busy, a device that was pulled out.

Source: Linux Documentation/filesystems/sysfs.rst, Documentation/hwmon/sysfs-interface.rst (units).
"""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from multispin_models.errors import SensorError

__all__ = ["HwmonChip", "hwmon_chips", "numbered", "read_number", "read_optional", "read_text"]

_TODO = {
    errno.ENOENT: "is the driver still loaded, the device still plugged in?",
    errno.ENODEV: "is the device still plugged in?",
    errno.EIO: "the channel is switched off or not connected, or its bus is disturbed",
    errno.EREMOTEIO: "the chip does not answer on its bus",
    errno.ENODATA: "the channel is switched off; write 1 to its in*_enable",
}
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_PAGE = 4096
_ADDRESS = re.compile(r"\d+-[0-9a-f]{4}")  # "1-0040" of an I2C device


class HwmonChip(NamedTuple):
    """A chip of the kernel's hwmon class.

    Attributes:
        name: of the chip, as "ina3221".
        where: its I2C address, as "1-0040", or its folder's name where it has none.
        folder: with its values; the number in its name changes from boot to boot.
    """

    name: str
    where: str
    folder: Path


def read_text(path: Path, denied: str = "give the user of this process the right to read it") -> str:
    """Return what a file holds, without white space and zero bytes around it.

    Args:
        path: of the file.
        denied: what to do if it may not be read.

    Raises:
        SensorError: it cannot be read; says why and what to do.
    """
    try:
        return _read(path).decode("utf-8", "replace").strip(" \t\r\n\0")
    except PermissionError as error:
        raise SensorError(f"{path} may not be read (permission denied): {denied}") from error
    except OSError as error:
        todo = _TODO.get(error.errno or 0, "see the kernel's log")
        raise SensorError(f"{path} cannot be read: {error.strerror}; {todo}") from error


def _read(path: Path) -> bytes:
    """Return the bytes of a file, without Python's layers of text and buffers: a sampler reads it 40 times a second."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(descriptor, _PAGE)]
        while len(parts[-1]) == _PAGE:  # a value of the kernel fits in one
            parts.append(os.read(descriptor, _PAGE))
    finally:
        os.close(descriptor)
    return b"".join(parts)


def read_number(path: Path, denied: str = "give the user of this process the right to read it") -> float:
    """Return the number that a file holds, in the file's own unit.

    Raises:
        SensorError: it cannot be read, or holds none.
    """
    text = read_text(path, denied)
    if not _NUMBER.fullmatch(text):
        raise SensorError(f"{path} holds {text[:40]!r}, expected is a number")
    return float(text)


def read_optional(path: Path) -> str:
    """Return what a file holds that not every driver has; "" if it cannot be read."""
    try:
        return read_text(path)
    except SensorError:
        return ""


def numbered(folder: Path, pattern: str) -> list[Path]:
    """Return the entries of a folder that match a glob pattern, hwmon2 before hwmon10; none if there is no folder."""
    return sorted(folder.glob(pattern), key=lambda path: [part.zfill(8) for part in re.split(r"(\d+)", str(path))])


def hwmon_chips(root: Path) -> list[HwmonChip]:
    """Return all chips, each once: the class folder and the folders of I2C drivers show the same ones.

    Args:
        root: of the file system, or of a recorded tree, which may hold one of the two.
    """
    chips = {chip.folder.name: chip for chip in (*_class_chips(root), *_driver_chips(root))}
    return sorted(chips.values(), key=lambda chip: [part.zfill(8) for part in re.split(r"(\d+)", chip.where)])


def _class_chips(root: Path) -> Iterator[HwmonChip]:
    for folder in numbered(root / "sys/class/hwmon", "hwmon*"):
        device = (folder / "device").resolve().name
        yield HwmonChip(read_optional(folder / "name"), device if _ADDRESS.fullmatch(device) else folder.name, folder)


def _driver_chips(root: Path) -> Iterator[HwmonChip]:
    for folder in numbered(root / "sys/bus/i2c/drivers", "*/*-*/hwmon/hwmon*"):
        device, driver = folder.parents[1].name, folder.parents[2].name
        yield HwmonChip(read_optional(folder / "name") or driver, device, folder)
