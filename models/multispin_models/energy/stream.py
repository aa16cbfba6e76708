"""Devices that send measurements by themselves: hidraw and serial devices, and recordings of them.

Waiting packets are drained and the newest is taken; where none waits, the next is waited for. So a value is as old as
one interval of the sender at most.
"""

import os
import select
import stat
from pathlib import Path

from multispin_models.errors import SensorError

__all__ = ["Stream"]


class Stream:
    """An open device, or a recorded file of what it sent.

    Args:
        path: of the device.
        timeout_s: how long it may be silent.

    Raises:
        SensorError: it cannot be opened.
    """

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.path = path
        self._timeout_s = timeout_s
        try:
            self.live = stat.S_ISCHR(path.stat().st_mode)  # a recording is read only
            mode = os.O_RDWR if self.live else os.O_RDONLY
            self.descriptor = os.open(path, mode | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except PermissionError as error:
            raise SensorError(
                f"{path} may not be opened (permission denied): add the user to the device's group (`ls -l {path}`), "
                "or write a udev rule"
            ) from error
        except OSError as error:
            raise SensorError(f"{path} cannot be opened: {error.strerror}; is the device plugged in?") from error

    def newest(self, most_bytes: int) -> bytes:
        """Return what was received last, as far as it waits now, or else what comes next.

        Args:
            most_bytes: a read of a packet device gives one packet, so this many bytes at once; older ones are dropped.

        Raises:
            SensorError: the device was silent for too long, or is gone.
        """
        received = self._read(most_bytes)
        if not received:
            if self.live and not select.select([self.descriptor], [], [], self._timeout_s)[0]:
                raise SensorError(f"{self.path} was silent for {self._timeout_s:g} s; is it switched on?")
            received = self._read(most_bytes)
        if not received:
            raise SensorError(f"{self.path} has ended; was the device unplugged?")
        while more := self._read(most_bytes):
            received = (received + more)[-most_bytes:]
        return received

    def send(self, packet: bytes) -> None:
        """Write to the device; a recording is not asked.

        Raises:
            SensorError: it is gone.
        """
        if self.live:
            try:
                os.write(self.descriptor, packet)
            except OSError as error:
                raise SensorError(f"{self.path} cannot be written: {error.strerror}; was it unplugged?") from error

    def close(self) -> None:
        """Close the device."""
        os.close(self.descriptor)

    def _read(self, most_bytes: int) -> bytes:
        """Return bytes that wait, none if there are none."""
        try:
            return os.read(self.descriptor, most_bytes)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise SensorError(f"{self.path} cannot be read: {error.strerror}; was it unplugged?") from error
