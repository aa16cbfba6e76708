"""The Raspberry Pi 5's rails: the recorded answer by hand, the mailbox's bytes, refusals."""

import fcntl
import os
import struct
from pathlib import Path

import pytest
from tests.models.energy.recorded_board import unpack

from multispin_models.energy import pmic
from multispin_models.errors import SensorAbsent, SensorError

RAILS = {  # volts times amperes, by hand from recorded/raspberry-pi-5.txt
    "3V7_WL_SW": 0.296,
    "3V3_SYS": 0.165,
    "1V8_SYS": 0.288,
    "DDR_VDD2": 0.0,
    "DDR_VDDQ": 0.0,
    "1V1_SYS": 0.187,
    "0V8_SW": 0.28,
    "VDD_CORE": 0.6,
    "3V3_DAC": 0.000198,
    "3V3_ADC": 0.00099,
    "0V8_AON": 0.002,
    "HDMI": 0.1224,
}


def test_every_rail_is_as_computed_by_hand_and_rails_of_exactly_0_stay(tmp_path: Path) -> None:
    meter = pmic.open_first(unpack("raspberry-pi-5", tmp_path))
    reading = meter.read()
    assert [rail.name for rail in meter.info.rails] == list(RAILS)
    assert reading.values == pytest.approx(tuple(RAILS.values()), abs=1e-12)
    assert dict(zip(RAILS, reading.values, strict=True))["DDR_VDD2"] == 0.0  # not null, not left out
    assert reading.total(meter.info.rails) == pytest.approx(1.941588)
    assert meter.info.covers == "rails"  # the sum of the rails is not the board
    assert "no USB" in meter.info.note


def test_supplies_that_have_volts_only_are_no_rails(tmp_path: Path) -> None:
    names = [rail.name for rail in pmic.open_first(unpack("raspberry-pi-5", tmp_path)).info.rails]
    assert not {"EXT5V", "BATT"} & set(names)


def test_a_rail_without_its_voltage_is_null_with_a_reason(tmp_path: Path) -> None:
    recorded = unpack("raspberry-pi-5", tmp_path) / "vcgencmd.txt"
    meter = pmic.open_first(tmp_path)
    recorded.write_text(recorded.read_text().replace("HDMI_V volt(23)=5.10000000V", ""))
    reading = meter.read()
    assert reading.values[-1] is None
    assert reading.reasons[-1] == "rail HDMI has a current and no voltage"
    assert reading.total(meter.info.rails) is None
    recorded.write_text(recorded.read_text().replace("VDD_CORE_A", "VDD_NEW_A"))
    assert "rail VDD_CORE is missing" in meter.read().reasons[7]


def test_an_older_board_refuses_the_question_and_its_message_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(SensorError, match=r"Command not registered.*only a Raspberry Pi 5"):
        pmic.open_first(unpack("raspberry-pi-4", tmp_path))


def test_no_mailbox_is_no_raspberry_pi(tmp_path: Path) -> None:
    with pytest.raises(SensorAbsent, match="no Raspberry Pi"):
        pmic.open_first(tmp_path)


def test_the_mailbox_request_is_laid_out_as_the_firmware_wants_it() -> None:
    request = pmic.mailbox_request("pmic_read_adc")
    words = struct.unpack_from("=6I", request)
    # whole size, 0 for a request, tag GET_GENCMD_RESULT, bytes of text, 0, error word: the layout of vcgencmd itself
    assert words == (len(request), 0, 0x00030080, 1024, 0, 0)
    assert request[24:38] == b"pmic_read_adc\0"
    assert request[-4:] == bytes(4)  # end tag
    assert len(request) == 6 * 4 + 1024 + 4


def answer(text: bytes, code: int = 0x80000000) -> bytearray:
    reply = bytearray(pmic.mailbox_request("pmic_read_adc"))
    struct.pack_into("=I", reply, 4, code)
    reply[24 : 24 + len(text)] = text
    return reply


def test_the_mailbox_answer_is_text_up_to_its_zero() -> None:
    assert pmic.read_mailbox_answer(answer(b"throttled=0x0\0junk")) == "throttled=0x0"
    with pytest.raises(SensorError, match="code 0x80000001, expected 0x80000000"):
        pmic.read_mailbox_answer(answer(b"", 0x80000001))


def test_the_device_is_asked_by_its_ioctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (unpack("raspberry-pi-5", tmp_path) / "vcgencmd.txt").read_bytes()
    (tmp_path / "vcgencmd.txt").unlink()
    monkeypatch.setattr("shutil.which", lambda _name: None)

    def ioctl(descriptor: int, request: int, buffer: bytearray, mutate: bool) -> int:
        assert os.readlink(f"/proc/self/fd/{descriptor}") == str(tmp_path / "dev/vcio")
        assert request == 0xC0086400  # _IOWR(100, 0, char *) on a machine of 64 bits
        buffer[:] = answer(text + b"\0")
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    meter = pmic.open_first(tmp_path)
    assert meter.read().values == pytest.approx(tuple(RAILS.values()), abs=1e-12)


def test_the_program_is_asked_where_the_device_may_not_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = unpack("raspberry-pi-5", tmp_path) / "vcgencmd.txt"
    program = tmp_path / "vcgencmd"
    program.write_text(f'#!/bin/sh\n[ "$1" = pmic_read_adc ] && cat {tmp_path}/recorded\n')
    program.chmod(0o755)
    text.rename(tmp_path / "recorded")
    monkeypatch.setattr("shutil.which", lambda _name: str(program))
    monkeypatch.setattr(os, "access", lambda *_args: False)  # root, who may run this test, is denied nothing
    assert pmic.open_first(tmp_path).read().values == pytest.approx(tuple(RAILS.values()), abs=1e-12)


def test_permission_denied_names_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (unpack("raspberry-pi-5", tmp_path) / "vcgencmd.txt").unlink()
    monkeypatch.setattr("shutil.which", lambda _name: None)

    def denied(*_args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(SensorError, match="group video"):
        pmic.open_first(tmp_path)
