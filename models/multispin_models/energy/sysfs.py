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

__all__ = ["HwmonChip", "KernelFile", "hwmon_chips", "numbered", "read_number", "read_optional", "read_text"]

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
        return _decode(_read(path))
    except OSError as error:
        raise _explained(path, error, denied) from error


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
    return _number(path, read_text(path, denied))


class KernelFile:
    """A value that is asked for many times a second: its file stays open, and is read anew from its beginning.

    Args:
        path: of the file.
        denied: what to do if it may not be read.
    """

    def __init__(self, path: Path, denied: str = "give the user of this process the right to read it") -> None:
        self.path = path
        self._denied = denied
        self._descriptor = -1

    def number(self) -> float:
        """Return the number that the file holds now, in its own unit.

        Raises:
            SensorError: it cannot be read, is gone, or holds none; it is opened again the next time.
        """
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            data = os.pread(self._descriptor, _PAGE, 0)
            if os.fstat(self._descriptor).st_nlink == 0:  # of a recorded tree; the kernel answers with ENODEV
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        except OSError as error:
            self.close()
            raise _explained(self.path, error, self._denied) from error
        try:
            return float(int(data))  # the short way: white space is no hindrance
        except ValueError:
            return _number(self.path, _decode(data))

    def close(self) -> None:
        """Close the file; it is opened again when it is read."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def _explained(path: Path, error: OSError, denied: str) -> SensorError:
    """Return an error of a file with what it means and what to do."""
    if isinstance(error, PermissionError):
        return SensorError(f"{path} may not be read (permission denied): {denied}")
    todo = _TODO.get(error.errno or 0, "see the kernel's log")
    return SensorError(f"{path} cannot be read: {error.strerror}; {todo}")


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip(" \t\r\n\0")


def _number(path: Path, text: str) -> float:
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
