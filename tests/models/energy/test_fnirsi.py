"""FNIRSI meters: packets by hand, check bytes, the commands of each model, and a meter that is pulled out."""

import struct
from pathlib import Path

import pytest

from multispin_models.energy import fnirsi
from multispin_models.energy.stream import Stream
from multispin_models.errors import SensorAbsent, SensorError

# Layout, command sequences and their check bytes 8e, 96, 9e: baryluk/fnirsi-usb-power-data-logger and its descendants.


def packet(*samples: tuple[float, float]) -> bytes:
    body = b"\xaa\x04"
    for volts, amperes in samples:
        body += struct.pack("<IIHHBH", round(volts * 1e5), round(amperes * 1e5), 600, 600, 1, 285)
    body += b"\x08"
    return body + bytes([fnirsi.crc8(body[1:])])


PACKET = packet((5.1, 0.8), (5.1, 0.9), (5.0, 1.0), (5.0, 1.1))
WATTS = (4.08 + 4.59 + 5.0 + 5.5) / 4


def plugged(root: Path, identity: str, recorded: bytes) -> Path:
    (root / "sys/class/hidraw/hidraw3/device").mkdir(parents=True)
    (root / "sys/class/hidraw/hidraw3/device/uevent").write_text(
        f"DRIVER=hid-generic\nHID_ID=0003:{identity}\nHID_NAME=FNIRSI USB Tester\n"
    )
    (root / "dev").mkdir()
    (root / "dev/hidraw3").write_bytes(recorded)
    return root


def test_a_packet_is_the_mean_of_its_four_samples() -> None:
    assert len(PACKET) == 64
    assert fnirsi.packet_watts(PACKET) == pytest.approx(WATTS)


def test_a_damaged_packet_is_refused() -> None:
    for damaged in (PACKET[:40], PACKET[:-1] + bytes([PACKET[-1] ^ 1]), PACKET[:9] + b"\xff" + PACKET[10:]):
        with pytest.raises(SensorError, match="is damaged"):
            fnirsi.packet_watts(damaged)


@pytest.mark.parametrize(("number", "check"), [(0x81, 0x8E), (0x82, 0x96), (0x83, 0x9E)])
def test_commands_carry_the_check_bytes_that_the_meter_knows(number: int, check: int) -> None:
    command = fnirsi._command(number)
    assert command == bytes([0, 0xAA, number]) + bytes(61) + bytes([check])


def test_the_first_known_model_is_opened_and_its_newest_packet_read(tmp_path: Path) -> None:
    meter = fnirsi.open_first(plugged(tmp_path, "00002E3C:00005558", packet(*[(5.0, 1.0)] * 4) + PACKET))
    assert meter.info.rails[0].name == "FNB58"
    assert meter.read().values == pytest.approx((WATTS,))
    assert meter.info.covers == "module"
    meter.close()
    meter.close()


@pytest.mark.parametrize(
    ("identity", "expected"),
    [("00002E3C:00005558", [0x81, 0x82, 0x82]), ("00000483:0000003A", [0x81, 0x82, 0x83, 0x83])],
)
def test_each_model_is_told_what_it_wants(
    identity: str, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(Stream, "send", lambda _stream, command: sent.append(command[2]))
    meter = fnirsi.open_first(plugged(tmp_path, identity, PACKET))
    meter.read()
    assert sent == expected  # the older ones send a packet each time they are asked
    meter.close()


def test_a_meter_that_is_pulled_out_fails_the_read(tmp_path: Path) -> None:
    meter = fnirsi.open_first(plugged(tmp_path, "00002E3C:00005558", PACKET))
    meter.read()
    with pytest.raises(SensorError, match="has ended; was the device unplugged"):
        meter.read()
    meter.close()


def test_another_hid_device_is_no_meter(tmp_path: Path) -> None:
    with pytest.raises(SensorAbsent, match="has none of FNB58, FNB48S, FNB48, C1"):
        fnirsi.open_first(plugged(tmp_path, "0000046D:0000C52B", PACKET))
