"""Raspberry Pi 5: twelve rails of the power management chip, volts and amperes, by asking the firmware.

    /dev/vcio                    the firmware's mailbox, `ioctl` with a request of its property interface
    vcgencmd pmic_read_adc       the same question by a program, where the device may not be opened
    vcgencmd.txt                 its recorded answer, in a recorded tree

         VDD_CORE_A current(7)=0.81262990A
         VDD_CORE_V volt(15)=0.86065850V

Rails are paired by name: the numbers in brackets are of the converter's channels. EXT5V and BATT have no current and
are no rails. A rail may truly read 0. What draws from 5 V directly (USB, HAT, NVMe) and the losses of the regulators
are not seen: the meter covers "rails", and its sum is not the board. Calibrate it against an external meter for that.

Source: Raspberry Pi documentation, vcgencmd; firmware wiki, mailbox property interface, tag 0x00030080 (gencmd). A read
takes 23 ms on one Pi 5, so 44 a second at most.
"""

import fcntl
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from multispin_models.energy.meter import MeterInfo, Rail
from multispin_models.energy.rail_meter import Answer, QuickRailMeter
from multispin_models.energy.sysfs import KernelFile, decode
from multispin_models.errors import SensorAbsent, SensorError

__all__ = ["Firmware", "firmware", "mailbox_request", "open_first", "parse_adc", "read_mailbox_answer"]

_COMMAND = "pmic_read_adc"
_LINE = re.compile(r"(\S+)_([AV])\s+(?:current|volt)\(\d+\)=(-?\d+(?:\.\d+)?)[AV](?!\S)")
_IOCTL_PROPERTY = 3 << 30 | struct.calcsize("P") << 16 | 100 << 8  # _IOWR(100, 0, char *)
_TAG_GENCMD = 0x00030080
_TEXT_BYTES = 1024
_HEAD = struct.Struct("=6I")  # size, request or answer code, tag, bytes of its value, bytes of its answer, error
_DONE = 0x80000000
_TIMEOUT_S = 2.0
_RECORDED_BYTES = 8192


def open_first(root: Path) -> QuickRailMeter:
    """Return the meter of this Raspberry Pi 5.

    Raises:
        SensorAbsent: this is no Raspberry Pi.
        SensorError: the firmware cannot be asked, or does not know the question (before Pi 5).
    """
    chip = firmware(root, _COMMAND)
    rails = tuple(parse_adc(chip.text()))
    info = MeterInfo(
        name="pmic",
        quantity="power",
        covers="rails",
        label="measured",
        rails=tuple(Rail(name, in_total=True) for name in rails),
        native_hz=44.0,
        note="sum of the PMIC's rails: no USB, HAT, NVMe or other 5 V consumers, no regulator or supply losses",
    )

    def answers_in(answer: Any) -> list[Answer]:
        return _answers(parse_adc(chip.text_in(answer)), rails)

    return QuickRailMeter(info, lambda: answers_in(chip.ask()), chip.ask, answers_in)


def parse_adc(text: str) -> dict[str, float | SensorError]:
    """Return the watts of every rail that has a current, by name, in the order of the currents.

    Raises:
        SensorError: there is none; the firmware's own message is in it.
    """
    lines = _LINE.findall(text)
    amperes = {name: float(value) for name, unit, value in lines if unit == "A"}
    volts = {name: float(value) for name, unit, value in lines if unit == "V"}
    if not amperes:
        raise SensorError(
            f"the firmware answered {_COMMAND!r} with {text.strip()[:80]!r}: only a Raspberry Pi 5 has these rails"
        )
    return {
        name: current * volts[name] if name in volts else SensorError(f"rail {name} has a current and no voltage")
        for name, current in amperes.items()
    }


def mailbox_request(command: str) -> bytearray:
    """Return the mailbox's buffer that asks the firmware for a command's text: header, 1024 bytes of text, end tag."""
    size = _HEAD.size + _TEXT_BYTES + 4
    request = bytearray(size)
    _HEAD.pack_into(request, 0, size, 0, _TAG_GENCMD, _TEXT_BYTES, 0, 0)
    request[_HEAD.size : _HEAD.size + len(command)] = command.encode("ascii")
    return request


def read_mailbox_answer(answer: bytes | bytearray) -> str:
    """Return the text that the firmware left in the buffer.

    Raises:
        SensorError: it did not accept the request.
    """
    code = _HEAD.unpack_from(answer)[1]
    if code != _DONE:
        raise SensorError(
            f"the firmware's mailbox answered with code {code:#x}, expected {_DONE:#x}; update the firmware"
        )
    return bytes(answer[_HEAD.size : _HEAD.size + _TEXT_BYTES]).split(b"\0", 1)[0].decode("ascii", "replace")


class Firmware(NamedTuple):
    """How the firmware is asked one thing here.

    Attributes:
        ask: returns its answer as it came; raises SensorError.
        text_in: returns the text of an answer; raises SensorError.
    """

    ask: Callable[[], Any]
    text_in: Callable[[Any], str]

    def text(self) -> str:
        """Return what it says now.

        Raises:
            SensorError: it cannot be asked, or did not accept the request.
        """
        return self.text_in(self.ask())


def firmware(root: Path, command: str) -> Firmware:
    """Return how the firmware's answer to a command is got here: by its device, its program, or a recording.

    Raises:
        SensorAbsent: this is no Raspberry Pi.
    """
    recorded, device = root / "vcgencmd.txt", root / "dev/vcio"
    if root != Path("/") and recorded.exists():
        return Firmware(KernelFile(recorded, most_bytes=_RECORDED_BYTES).data, decode)
    if not device.exists():
        raise SensorAbsent(f"{device} is not there: this is no Raspberry Pi")
    program = shutil.which("vcgencmd")
    if os.access(device, os.R_OK) or program is None:
        return Firmware(partial(_ask_mailbox, device, command), read_mailbox_answer)
    return Firmware(partial(_ask_program, program, command), str)


def _ask_mailbox(device: Path, command: str) -> bytearray:
    request = mailbox_request(command)
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _IOCTL_PROPERTY, request, True)
        finally:
            os.close(descriptor)
    except PermissionError as error:
        raise SensorError(
            f"{device} may not be opened (permission denied): add the user to group video, or give the service "
            "SupplementaryGroups=video and DeviceAllow=/dev/vcio"
        ) from error
    except OSError as error:
        raise SensorError(f"{device} does not answer: {error.strerror}; update the firmware and the kernel") from error
    return request


def _ask_program(program: str, command: str) -> str:
    try:
        done = subprocess.run([program, command], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SensorError(f"{program} {command} failed: {error}; add the user to group video") from error
    return done.stdout or done.stderr


def _answers(watts: dict[str, float | SensorError], rails: tuple[str, ...]) -> list[Answer]:
    return [
        watts[name] if name in watts else SensorError(f"rail {name} is missing from the firmware's answer")
        for name in rails
    ]
