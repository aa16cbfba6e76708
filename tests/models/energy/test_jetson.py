"""Jetson's monitors on recorded boards: every rail by hand, which one is the whole, and what is no rail."""

from pathlib import Path

import pytest
from tests.models.energy.recorded_board import unpack

from multispin_models.clock import monotonic_ns
from multispin_models.energy import Sampler, jetson, open_meter
from multispin_models.energy.sensors import discover_meters
from multispin_models.errors import SensorAbsent, SensorError

BOARDS = {  # rails in watts, by hand from the recorded values; the whole; covers
    "orin-nx": ({"VDD_IN": 5.072 * 1.184, "VDD_CPU_GPU_CV": 5.072 * 0.288, "VDD_SOC": 5.064 * 0.376}, "VDD_IN"),
    "xavier-nx": ({"VDD_IN": 3.684, "VDD_CPU_GPU_CV": 0.594, "VDD_SOC": 1.030}, "VDD_IN"),
    "nano": ({"POM_5V_IN": 2.204, "POM_5V_GPU": 0.0, "POM_5V_CPU": 0.530}, "POM_5V_IN"),
    "tx2": (
        {
            "VDD_SYS_GPU": 19.184 * 0.008,
            "VDD_SYS_SOC": 19.184 * 0.028,
            "VDD_3V8_WIFI": 0.0,
            "VDD_IN": 19.152 * 0.136,
            "VDD_SYS_CPU": 19.16 * 0.016,
            "VDD_5V0_DDR": 4.784 * 0.092,
            "VDD_MUX": 19.136 * 0.224,
            "VDD_5V0_IO_SYS": 4.776 * 0.3,
            "VDD_3V3_SYS": 3.328 * 0.012,
        },
        "VDD_IN",
    ),
    "thor": (
        {"VDD_GPU": 19.6 * -0.02, "VDD_CPU_SOC_MSS": 19.6 * 0.34, "VIN_SYS_5V0": 5.0 * 1.3, "VIN": 23.28},
        "VIN",
    ),
    "agx-xavier": ({"GPU": 0.304, "CPU": 0.456, "SOC": 1.065, "CV": 0.0, "VDDRQ": 0.152, "SYS5V": 1.76}, None),
}


@pytest.mark.parametrize("board", BOARDS)
def test_every_rail_is_as_computed_by_hand_and_only_the_whole_is_the_total(board: str, tmp_path: Path) -> None:
    rails, whole = BOARDS[board]
    meter = jetson.open_first(unpack(board, tmp_path))
    reading = meter.read()
    names = [rail.name for rail in meter.info.rails]
    assert dict(zip(names, reading.values, strict=True)) == pytest.approx(rails)
    assert [rail.name for rail in meter.info.rails if rail.in_total] == ([whole] if whole else [])
    assert reading.total(meter.info.rails) == (pytest.approx(rails[whole]) if whole else None)
    assert meter.info.covers == ("module" if whole else "rails")
    assert (meter.info.label, meter.info.quantity) == ("measured", "power")


def test_agx_orin_has_no_total_no_unconnected_channels_and_an_error_for_the_channel_that_is_off(tmp_path: Path) -> None:
    meter = jetson.open_first(unpack("agx-orin", tmp_path))
    reading = meter.read()
    names = [rail.name for rail in meter.info.rails]
    assert names == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"]
    assert reading.values[:3] == pytest.approx((19.6 * 0.18, 19.6 * 0.04, 4.984 * 0.76))
    assert reading.values[3] is None
    assert "Input/output error; the channel is switched off or not connected" in reading.reasons[3]
    assert "in2_enable is 0" in reading.reasons[3]
    assert reading.total(meter.info.rails) is None
    assert "AGX Orin: no rail is the whole: no total" in meter.info.note
    with pytest.raises(SensorError, match="no rail for the whole"):
        Sampler(meter)
    with pytest.raises(SensorError, match=r"no rail for the whole \(VDD_GPU_SOC, .*calibrate it"):
        open_meter("jetson", tmp_path)
    opened = open_meter("auto", tmp_path)
    assert opened.meter is None
    assert "none is invented" in opened.reason


def test_what_the_accuracy_rests_on_is_in_the_note(tmp_path: Path) -> None:
    info = jetson.open_first(unpack("orin-nx", tmp_path)).info
    assert "shunt 5 mOhm, steps of 8 mA" in info.note
    assert "mean of 64 samples" in info.note
    assert info.native_hz == 50.0


def test_a_rail_that_vanishes_mid_run_is_null_with_a_reason_and_comes_back(tmp_path: Path) -> None:
    meter = jetson.open_first(unpack("orin-nx", tmp_path))
    amperes = tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr1_input"
    text = amperes.read_text()
    amperes.unlink()
    reading = meter.read()
    assert reading.values[0] is None
    assert "curr1_input cannot be read: No such file" in reading.reasons[0]
    assert reading.values[1] == pytest.approx(5.072 * 0.288)
    assert reading.total(meter.info.rails) is None
    amperes.write_text(text)
    assert meter.read().total(meter.info.rails) == pytest.approx(5.072 * 1.184)


def test_the_oldest_form_and_a_driver_without_watts_are_read_too(tmp_path: Path) -> None:
    folder = unpack("nano", tmp_path) / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    for n in range(3):
        (folder / f"in_power{n}_input").unlink()
    folder.rename(folder.with_name("iio_device"))
    meter = jetson.open_first(tmp_path)
    assert meter.read().values == pytest.approx((5.104 * 0.432, 0.0, 5.104 * 0.104))


def test_a_sensor_that_vanishes_under_a_sampler_makes_its_windows_null(tmp_path: Path) -> None:
    sampler = Sampler(jetson.open_first(unpack("orin-nx", tmp_path)))
    first_ns = monotonic_ns()
    assert sampler.read_now()
    (tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in1_input").unlink()
    assert not sampler.read_now()
    window = sampler.joules(first_ns, monotonic_ns())
    assert window.joules is None
    assert "1 failed reads, the last: " in (window.reason or "")
    assert "in1_input cannot be read: No such file" in (window.reason or "")
    sampler.stop()


def test_the_whole_chip_vanishing_fails_the_read(tmp_path: Path) -> None:
    meter = jetson.open_first(unpack("nano", tmp_path))
    for file in (tmp_path / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0").iterdir():
        file.unlink()
    with pytest.raises(SensorError, match="in_power0_input cannot be read"):
        meter.read()


def test_a_set_of_labels_that_is_not_in_the_table_has_no_total(tmp_path: Path) -> None:
    folder = unpack("orin-nx", tmp_path) / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    (folder / "in3_label").write_text("VDD_NEW\n")
    meter = jetson.open_first(tmp_path)
    assert meter.read().total(meter.info.rails) is None
    assert "no known module" in meter.info.note


def test_a_monitor_that_somebody_added_to_the_header_changes_nothing(tmp_path: Path) -> None:
    own = unpack("orin-nx", tmp_path) / "sys/bus/i2c/drivers/ina3221/7-0042/hwmon/hwmon9"
    own.mkdir(parents=True)
    for name, text in {"name": "ina3221", "in1_label": "motor", "in1_input": "12000", "curr1_input": "900"}.items():
        (own / name).write_text(text + "\n")
    meter = jetson.open_first(tmp_path)
    assert [rail.name for rail in meter.info.rails] == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]
    assert meter.read().total(meter.info.rails) == pytest.approx(5.072 * 1.184)
    found = {status.name: status for status in discover_meters(tmp_path)}
    assert found["hwmon"].rails == ("ina3221 7-0042 motor",)


def test_the_class_folder_alone_is_enough(tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/hwmon/hwmon3"
    folder.parent.mkdir(parents=True)
    (unpack("orin-nx", tmp_path / "board") / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3").rename(folder)
    meter = jetson.open_first(tmp_path)
    assert meter.read().total(meter.info.rails) == pytest.approx(5.072 * 1.184)


@pytest.mark.parametrize(("label", "is_no_rail"), [("NC", True), ("VDD_NC2", True), ("VDD_SYNC", False)])
def test_an_unconnected_channel_is_told_by_its_label(label: str, is_no_rail: bool) -> None:
    assert jetson.is_unconnected(label) == is_no_rail


def test_where_there_is_no_such_chip_it_is_absent(tmp_path: Path) -> None:
    with pytest.raises(SensorAbsent, match="no Jetson"):
        jetson.open_first(tmp_path)
    with pytest.raises(SensorAbsent, match="no Jetson"):  # an INA3221 without a Jetson's labels
        jetson.open_first(unpack("raspberry-pi-4", tmp_path))
