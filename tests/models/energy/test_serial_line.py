"""Lab meters that print lines, through a pseudo-terminal and from a recording."""

import os
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from multispin_models.energy import open_meter, serial_line
from multispin_models.errors import ConfigError, SensorError


@pytest.fixture
def line() -> Iterator[tuple[int, str]]:
    """The meter's end of a line, and the path of ours."""
    theirs, ours = os.openpty()
    tty.setraw(theirs)
    tty.setraw(ours)
    yield theirs, os.ttyname(ours)
    os.close(theirs)
    os.close(ours)


def test_the_newest_whole_line_is_the_value(line: tuple[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, path = line
    set_up = serial_line._set_up

    def then_send(descriptor: int, baud: int) -> None:
        set_up(descriptor, baud)
        os.write(theirs, b"wer_w=9.9\npower_w=4.25 volts=5.1\n")  # the first line was cut by opening

    os.write(theirs, b"power_w=1.0\npower_w=2.0\n")  # what waited before it was opened is old
    monkeypatch.setattr(serial_line, "_set_up", then_send)
    meter = open_meter(f"serial:{path},covers=module").meter
    assert meter is not None
    assert meter.info.covers == "module"
    assert meter.read().values == (4.25,)
    os.write(theirs, b"power_w=4.5\n# note\npower_w=4.75\npower_w=4.")
    assert meter.read().values == (4.75,)
    os.write(theirs, b"875\r\n")
    assert meter.read().values == (4.875,)
    os.write(theirs, b"power_w=nan\n")
    with pytest.raises(SensorError, match="no value now"):
        meter.read()
    os.write(theirs, b"energy_j=4\n")
    with pytest.raises(SensorError, match="goes from power to energy"):
        meter.read()
    meter.close()


def test_a_recorded_line_is_read_from_a_tree(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/ttyUSB0").write_text("# bench supply 2\nenergy_j=1201.55, volts=5.08\n")
    meter = open_meter("serial:/dev/ttyUSB0", tmp_path).meter
    assert meter is not None
    assert (meter.info.quantity, meter.info.covers) == ("energy", "wall")
    assert meter.read().values == (1201.55,)
    with pytest.raises(SensorError, match="has ended"):
        meter.read()
    meter.close()


def test_a_silent_line_is_an_error(line: tuple[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial_line, "_TIMEOUT_S", 0.05)
    with pytest.raises(SensorError, match=r"was silent for 0.05 s; is it switched on"):
        open_meter(f"serial:{line[1]}")


@pytest.mark.parametrize("text", ["volts=5", "power_w=1 energy_j=2", "", "power=5"])
def test_a_line_that_is_no_measurement_is_refused(text: str) -> None:
    with pytest.raises(SensorError, match="needs one of power_w and energy_j"):
        serial_line.parse_line(text)


def test_settings_that_are_not_known_are_refused(tmp_path: Path, line: tuple[int, str]) -> None:
    with pytest.raises(ConfigError, match="baud is 12345"):
        open_meter(f"serial:{line[1]},baud=12345")
    with pytest.raises(ConfigError, match="has speed, allowed after"):
        open_meter("serial:/dev/ttyUSB0,speed=9600", tmp_path)
    with pytest.raises(ConfigError, match="covers is 'desk', allowed are module"):
        open_meter("serial:/dev/ttyUSB0,covers=desk", tmp_path)
    with pytest.raises(SensorError, match=r"cannot be opened: No such file.*plugged in"):
        open_meter("serial:/dev/ttyUSB0", tmp_path)
