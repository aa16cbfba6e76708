"""FNIRSI USB power meters (FNB58, FNB48S, FNB48, C1) between supply and board, by their HID interface.

    /sys/class/hidraw/hidraw*/device/uevent     HID_ID=0003:00002E3C:00005558
    /dev/hidraw*                                packets of 64 bytes

    packet   aa 04 [4 samples of 15 bytes] .. crc       samples of the last 40 ms, nominally
    sample   u32 volts/100,000; u32 amperes/100,000; D+, D-; 1; temperature     little-endian
    crc      of bytes 1 to 62: CRC-8, polynomial 0x39, start 0x42

A value is the mean of a packet. The meter is at the board's direct-current input: the supply's losses are left out. It
need not be this machine's board that it feeds, so it is read only when it is named.

Source: the protocol as public loggers decode it (baryluk/fnirsi-usb-power-data-logger and its descendants); the three
commands' own check bytes confirm the CRC.
"""

import math
import re
import struct
from pathlib import Path
from typing import NamedTuple

from multispin_models.clock import monotonic_ns
from multispin_models.energy.meter import MeterInfo, Rail
from multispin_models.energy.rail_meter import RailMeter
from multispin_models.energy.stream import Stream
from multispin_models.energy.sysfs import numbered, read_optional
from multispin_models.errors import SensorAbsent, SensorError

__all__ = ["crc8", "open_first", "packet_watts"]


class _Model(NamedTuple):
    """How a model is spoken to: commands that begin, and how often "go on" is due.

    Attributes:
        name: of the model.
        begin: commands.
        go_on_ns: 0 asks for every packet.
    """

    name: str
    begin: tuple[int, ...]
    go_on_ns: int


_MODELS = {
    (0x2E3C, 0x5558): _Model("FNB58", (0x81, 0x82, 0x82), 1_000_000_000),
    (0x2E3C, 0x0049): _Model("FNB48S", (0x81, 0x82, 0x82), 1_000_000_000),
    (0x0483, 0x003A): _Model("FNB48", (0x81, 0x82, 0x83), 0),
    (0x0483, 0x003B): _Model("C1", (0x81, 0x82, 0x83), 0),
}
_GO_ON = 0x83
_HID_ID = re.compile(r"^HID_ID=[0-9A-F]{4}:([0-9A-F]{8}):([0-9A-F]{8})$", re.MULTILINE | re.IGNORECASE)
_PACKET_BYTES = 64
_DATA = 0x04
_SAMPLE = struct.Struct("<II7x")
_TIMEOUT_S = 1.0


class _Port:
    """An open meter, told to go on sending as often as its model wants."""

    def __init__(self, path: Path, model: _Model) -> None:
        self._stream = Stream(path, _TIMEOUT_S)
        self._go_on_ns = model.go_on_ns
        self._told_ns = monotonic_ns()
        try:
            for command in model.begin:
                self._stream.send(_command(command))
        except SensorError:
            self._stream.close()
            raise

    def watts(self) -> float:
        if monotonic_ns() - self._told_ns >= self._go_on_ns:
            self._stream.send(_command(_GO_ON))
            self._told_ns = monotonic_ns()
        packet = self._stream.newest(_PACKET_BYTES)
        while packet[:2] != bytes([0xAA, _DATA]):  # the answer to a command
            packet = self._stream.newest(_PACKET_BYTES)
        return packet_watts(packet)

    def close(self) -> None:
        self._stream.close()


def open_first(root: Path) -> RailMeter:
    """Return the first USB meter.

    Raises:
        SensorAbsent: none is plugged in.
        SensorError: it may not be opened.
    """
    for folder in numbered(root / "sys/class/hidraw", "hidraw*"):
        match = _HID_ID.search(read_optional(folder / "device/uevent"))
        model = match and _MODELS.get((int(match[1], 16), int(match[2], 16)))
        if model:
            return _open(root / "dev" / folder.name, model)
    names = ", ".join(model.name for model in _MODELS.values())
    raise SensorAbsent(f"{root / 'sys/class/hidraw'} has none of {names}; plug its data port into this machine")


def _open(path: Path, model: _Model) -> RailMeter:
    port = _Port(path, model)
    info = MeterInfo(
        name="fnirsi",
        quantity="power",
        covers="module",
        label="measured",
        rails=(Rail(model.name, in_total=True),),
        native_hz=25.0,
        note="direct-current input of the board behind the meter; supply losses are left out",
    )
    return RailMeter(info, lambda: [port.watts()], port.close)


def packet_watts(packet: bytes) -> float:
    """Return the mean power of a data packet's four samples.

    Raises:
        SensorError: it is cut short, or its check byte is wrong.
    """
    if len(packet) != _PACKET_BYTES or crc8(packet[1:63]) != packet[63]:
        raise SensorError(f"a packet of {len(packet)} bytes, {packet[:4].hex()}.., is damaged; try another cable")
    samples: list[tuple[int, int]] = [_SAMPLE.unpack_from(packet, 2 + 15 * index) for index in range(4)]
    return math.fsum(volts * amperes for volts, amperes in samples) * 1e-10 / 4


def crc8(data: bytes) -> int:
    """Return the check byte of a packet.

    >>> hex(crc8(bytes([0x81]) + bytes(61)))
    '0x8e'
    """
    value = 0x42
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ 0x39) & 0xFF if value & 0x80 else value << 1
    return value


def _command(number: int) -> bytes:
    """Return a command, after a report number of 0: the device numbers no reports."""
    body = bytes([number]) + bytes(61)
    return bytes([0, 0xAA]) + body + bytes([crc8(body)])
