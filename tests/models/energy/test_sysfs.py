"""Files of the kernel: a file that stays open shows new values, goes and comes back; chips are found once."""

import os
import socket
from pathlib import Path

import pytest
from tests.models.energy.recorded_board import unpack

from multispin_models.energy.sysfs import (
    KernelFile,
    KernelFiles,
    KernelProduct,
    hwmon_chips,
    read_number,
    read_optional,
    read_text,
)
from multispin_models.errors import SensorError

COUNTER = Path("/sys/class/net/lo/statistics/rx_bytes")


@pytest.mark.skipif(not COUNTER.exists(), reason=f"{COUNTER} is not there")
def test_the_kernel_gives_a_new_value_through_a_file_that_stays_open() -> None:
    file = KernelFile(COUNTER)
    before = file.number()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to,
    ):
        there.bind(("127.0.0.1", 0))
        to.sendto(bytes(1000), there.getsockname())
        assert len(there.recv(2000)) == 1000
    assert file.number() >= before + 1000
    file.close()


def test_a_file_that_is_written_anew_or_comes_back_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "in1_input"
    path.write_text("5072\n")
    file = KernelFile(path)
    assert file.number() == 5072.0
    path.write_text("4984\n")
    assert file.number() == 4984.0
    path.write_text("-12.5\n")
    assert file.number() == -12.5
    path.unlink()
    with pytest.raises(SensorError, match=r"in1_input cannot be read: No such file.*still plugged in"):
        file.number()
    path.write_text("8\n")
    assert file.number() == 8.0
    path.write_text("<error>\n")
    with pytest.raises(SensorError, match="holds '<error>', expected is a number"):
        file.number()


def test_a_meter_s_files_are_closed_with_it(tmp_path: Path) -> None:
    path = tmp_path / "value"
    path.write_text("1\n")
    file = KernelFile(path)
    file.number()
    descriptor = file.descriptor
    file.close()
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_text_loses_white_space_and_zero_bytes_and_long_files_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"Raspberry Pi 5\0")
    assert read_text(tmp_path / "model") == "Raspberry Pi 5"
    (tmp_path / "long").write_text("x" * 10_000)
    assert len(read_text(tmp_path / "long")) == 10_000
    assert read_optional(tmp_path / "none") == ""


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    root = unpack("agx-orin", tmp_path)
    channel = root / "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon2/in3_input"
    with pytest.raises(SensorError, match="Input/output error; the channel is switched off or not connected"):
        read_number(channel)
    with pytest.raises(SensorError, match="is the driver still loaded"):
        read_number(tmp_path / "none")


def test_permission_denied_says_which_file_and_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def denied(path: object, *_args: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", denied)  # root, who may run this test, is denied nothing
    file = KernelFile(tmp_path / "in1_input", denied="add the user to group i2c")
    for ask in (file.number, KernelFiles([file]).data, KernelProduct([file], 1e-3).value):
        with pytest.raises(SensorError, match=r"in1_input may not be read \(permission denied\): add the user"):
            ask()


def test_files_that_are_read_together_come_back_when_one_was_gone(tmp_path: Path) -> None:
    paths = [tmp_path / "in1_input", tmp_path / "curr1_input"]
    for path in paths:
        path.write_text("7\n")
    files = [KernelFile(path) for path in paths]
    together = KernelFiles(files)
    assert together.data() == [b"7\n", b"7\n"]
    files[0].close()  # as after a fault; its number is another file's now
    with (tmp_path / "other").open("w+") as other:
        other.write("9\n")
        other.flush()
        paths[0].write_text("8\n")
        assert together.data() == [b"8\n", b"7\n"]


def test_chips_of_the_class_and_of_drivers_are_found_once_with_their_addresses(tmp_path: Path) -> None:
    found = [(chip.name, chip.where, chip.folder.name) for chip in hwmon_chips(unpack("orin-nx", tmp_path))]
    assert found == [("ina3221", "1-0040", "hwmon3"), ("pwmfan", "hwmon2", "hwmon2")]
