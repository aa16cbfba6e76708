"""Lab meters that print lines to a serial port.

    serial:/dev/ttyUSB0                         at 115200 baud, covers the wall
    serial:/dev/ttyACM0,baud=9600,covers=module

A line is one measurement: names and values, parted by blanks or commas. `power_w` or `energy_j` is needed, always the
same one; what else stands there is for people. "nan" says that the meter has no value now. Lines that begin with # are
left out.

    power_w=4.213
    energy_j=1201.55 volts=5.08

A meter that speaks otherwise (MQTT, SCPI, Bluetooth) is joined by a few lines of its owner's that print this into a
pseudo-terminal, for example `mosquitto_sub -t tele/bench/power -F 'power_w=%p'` behind `socat`.
"""

import math
import os
import re
import termios
import tty
from pathlib import Path
from typing import Final

from multispin_models.energy.meter import Covers, MeterInfo, Quantity, Rail
from multispin_models.energy.rail_meter import RailMeter
from multispin_models.energy.stream import Stream
from multispin_models.errors import ConfigError, SensorError

__all__ = ["open_port", "parse_line"]

_FIELD = re.compile(r"(power_w|energy_j)\s*=\s*([-+.\w]+)")
_COLUMNS: Final[dict[str, Quantity]] = {"power_w": "power", "energy_j": "energy"}
_MOST_BYTES = 4096  # kept of what waits; a line is far shorter
_TIMEOUT_S = 2.0


class _Port:
    """An open port, and the part of a line that was received so far."""

    def __init__(self, path: Path, baud: int) -> None:
        self._stream = Stream(path, _TIMEOUT_S)
        self._rest = b""
        self._in_a_line = self._stream.live  # what was sent before it was opened is lost
        if os.isatty(self._stream.descriptor):
            _set_up(self._stream.descriptor, baud)

    def newest(self) -> tuple[Quantity, float]:
        """Return the newest whole line's value."""
        lines: list[bytes] = []
        while not lines:
            received = self._rest + self._stream.newest(_MOST_BYTES)
            *lines, self._rest = received[-_MOST_BYTES:].split(b"\n")
            if lines and self._in_a_line:
                self._in_a_line, lines = False, lines[1:]
            lines = [line for line in lines if line.strip() and not line.lstrip().startswith(b"#")]
        return parse_line(lines[-1].decode("ascii", "replace"))

    def close(self) -> None:
        self._stream.close()


def open_port(root: Path, path: str, *, baud: int = 115200, covers: Covers = "wall") -> RailMeter:
    """Return the meter at a serial port, after its first line.

    Args:
        root: of the file system, or of a recorded tree.
        path: of the port, absolute.
        baud: a speed that the system knows.
        covers: what the meter is connected to.

    Raises:
        SensorError: it cannot be opened, is silent, or speaks otherwise.
        ConfigError: no such speed.
    """
    port = _Port(root / path.lstrip("/"), baud)
    try:
        quantity, first = port.newest()
    except SensorError:
        port.close()
        raise
    waiting = [first]

    def ask() -> list[float]:
        if waiting:
            return [waiting.pop()]
        said, value = port.newest()
        if said != quantity:
            raise SensorError(f"{path} goes from {quantity} to {said}; send one of them")
        return [value]

    rails = (Rail("line", in_total=True),)
    info = MeterInfo(f"serial:{path}", quantity, covers, "measured", rails, note="as the meter's own line says")
    return RailMeter(info, ask, port.close)


def parse_line(line: str) -> tuple[Quantity, float]:
    """Return what a line measures.

    >>> parse_line("power_w=4.213, volts=5.08")
    ('power', 4.213)

    Raises:
        SensorError: it does not name exactly one, or has no value.
    """
    fields = _FIELD.findall(line)
    if len(fields) != 1:
        raise SensorError(f"the line {line.strip()[:60]!r} needs one of {' and '.join(_COLUMNS)}, as power_w=4.2")
    column, text = fields[0]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SensorError(f"the meter has no value now: {line.strip()[:60]!r}")
    return _COLUMNS[column], value


def _set_up(descriptor: int, baud: int) -> None:
    speed = getattr(termios, f"B{baud}", None)
    if speed is None:
        raise ConfigError(f"baud is {baud}, which this system does not know; 9600 and 115200 are usual")
    tty.setraw(descriptor)
    attributes = termios.tcgetattr(descriptor)
    attributes[4] = attributes[5] = speed
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
