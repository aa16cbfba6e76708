"""A value in a file of /sys or /proc, and what the errors of such a file mean.

The kernel asks the chip when the file is read, so a file that is there can still answer with an error: a channel that
is switched off, a bus that is busy, a device that was pulled out.

Source: Linux Documentation/filesystems/sysfs.rst, Documentation/hwmon/sysfs-interface.rst (units).
"""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from multispin_models.errors import SensorError

__all__ = [
    "HwmonChip", "KernelFile", "KernelFiles", "KernelProduct", "decode", "hwmon_chips", "numbered", "read_number",
    "read_optional", "read_text",
]  # fmt: skip

_TODO = {
    errno.ENOENT: "is the driver still loaded, the device still plugged in?",
    errno.ENODEV: "is the device still plugged in?",
    errno.EIO: "the channel is switched off or not connected, or its bus is disturbed",
    errno.EREMOTEIO: "the chip does not answer on its bus",
    errno.ENODATA: "the channel is switched off; write 1 to its in*_enable",
}
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_PAGE = 4096
_VALUE_BYTES = 64  # of a number and a line end
_pread = os.pread
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
        return decode(_read(path))
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
        most_bytes: of it that are read.

    Attributes:
        descriptor: of the open file, or -1.
    """

    def __init__(
        self,
        path: Path,
        denied: str = "give the user of this process the right to read it",
        most_bytes: int = _VALUE_BYTES,
    ) -> None:
        self.path = path
        self._denied = denied
        self._most_bytes = most_bytes
        self.descriptor = -1

    def data(self) -> bytes:
        """Return what the file holds now.

        Raises:
            SensorError: it cannot be read; it is opened again the next time.
        """
        try:
            if self.descriptor < 0:
                self.descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(self.descriptor, self._most_bytes, 0)
        except OSError as error:
            self.close()
            raise _explained(self.path, error, self._denied) from error

    def number(self) -> float:
        """Return the number that the file holds now, in its own unit.

        Raises:
            SensorError: it cannot be read, is gone, or holds none.
        """
        return self.number_in(self.data())

    def number_in(self, data: bytes) -> float:
        """Return the number that the file held when this was read.

        Raises:
            SensorError: there is none, or the file is gone since: the kernel says so to who reads it, a recorded tree
                does not.
        """
        if self.descriptor >= 0 and os.fstat(self.descriptor).st_nlink == 0:
            self.close()
            raise _explained(self.path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), self._denied)
        try:
            return float(int(data))  # the short way: white space is no hindrance
        except ValueError:
            return _number(self.path, decode(data))

    def close(self) -> None:
        """Close the file; it is opened again when it is read."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        self.close()


class KernelFiles:
    """Files that are read together, forty times a second: with as little Python between two reads as can be.

    Args:
        files: their order is that of the answers.
    """

    def __init__(self, files: Sequence[KernelFile]) -> None:
        self._files = tuple(files)

    def data(self) -> list[bytes]:
        """Return what each file holds now.

        Raises:
            SensorError: one cannot be read; it is opened again the next time.
        """
        try:
            return [_pread(file.descriptor, _VALUE_BYTES, 0) for file in self._files]
        except OSError:  # not open yet, too
            return [file.data() for file in self._files]


class KernelProduct:
    """A value that stands in one file, or is the product of several: millivolts and milliamperes.

    Args:
        files: one or more.
        unit: that turns the product into SI.
        enable: a file that holds 0 where the channel was switched off; for the error.
    """

    def __init__(self, files: Sequence[KernelFile], unit: float, enable: Path | None = None) -> None:
        self.files = tuple(files)
        self._unit = unit
        self._enable = enable

    def ask(self) -> list[bytes]:
        """Return what the files hold now.

        Raises:
            SensorError: one cannot be read.
        """
        try:
            return [file.data() for file in self.files]
        except SensorError as error:
            if self._enable is not None and read_optional(self._enable) == "0":
                raise SensorError(f"{error} ({self._enable.name} is 0)") from error
            raise

    def value_in(self, answers: Sequence[bytes]) -> float:
        """Return the value that the files held when these were read.

        Raises:
            SensorError: one holds no number.
        """
        value = self._unit
        for file, data in zip(self.files, answers, strict=True):
            value *= file.number_in(data)
        return value

    def value(self) -> float:
        """Return the value now.

        Raises:
            SensorError: a file cannot be read, or holds no number.
        """
        return self.value_in(self.ask())

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.close()


def _explained(path: Path, error: OSError, denied: str) -> SensorError:
    """Return an error of a file with what it means and what to do."""
    if isinstance(error, PermissionError):
        return SensorError(f"{path} may not be read (permission denied): {denied}")
    todo = _TODO.get(error.errno or 0, "see the kernel's log")
    return SensorError(f"{path} cannot be read: {error.strerror}; {todo}")


def decode(data: bytes) -> str:
    """Return text without white space and zero bytes around it."""
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
