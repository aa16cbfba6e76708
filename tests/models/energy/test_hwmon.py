"""Power monitor chips and energy counters of the kernel: by hand, and no total until the operator names one."""

from pathlib import Path

import pytest
from tests.models.energy.recorded_board import unpack

from multispin_models.energy import hwmon, open_meter
from multispin_models.energy.sensors import open_sensor
from multispin_models.errors import SensorAbsent, SensorError


def test_every_chip_is_read_as_computed_by_hand_and_none_is_a_total(tmp_path: Path) -> None:
    meter = hwmon.open_first(unpack("raspberry-pi-4", tmp_path))
    reading = meter.read()
    values = dict(zip([rail.name for rail in meter.info.rails], reading.values, strict=True))
    assert values == {
        "ina3221 1-0040 channel1": pytest.approx(5.096 * 0.080),  # no power of its own: volts times amperes
        "ina3221 1-0040 channel2": 0.0,
        "ina3221 1-0040 channel3": None,
        "ina226 1-0041 power1": pytest.approx(3.7),
    }
    assert "in3_input cannot be read: Input/output error" in reading.reasons[2]
    assert reading.total(meter.info.rails) is None
    assert meter.info.covers == "rails"
    assert "set to a shunt of 10000 uOhm" in meter.info.note  # the wrong one would make it wrong by that factor


@pytest.mark.parametrize("target", ["ina226", "1-0041"])
def test_a_chip_that_the_operator_names_is_a_total(target: str, tmp_path: Path) -> None:
    meter = open_meter(f"hwmon:{target},covers=module", unpack("raspberry-pi-4", tmp_path)).meter
    assert meter is not None
    assert meter.read().total(meter.info.rails) == pytest.approx(3.7)
    assert (meter.info.covers, meter.info.name) == ("module", f"hwmon:{target}")


def test_several_values_cannot_be_one_whole(tmp_path: Path) -> None:
    with pytest.raises(SensorError, match="name one chip with one value"):
        open_sensor("hwmon:ina3221,covers=wall", unpack("raspberry-pi-4", tmp_path))


def test_a_chip_without_power_is_read_by_its_volts_and_amperes(tmp_path: Path) -> None:
    folder = unpack("raspberry-pi-4", tmp_path) / "sys/bus/i2c/drivers/ina2xx/1-0041/hwmon/hwmon2"
    (folder / "power1_input").unlink()
    meter = hwmon.open_chips(tmp_path, "power", "ina226")
    assert meter.read().values == pytest.approx((5.118 * 0.724,))


def test_labels_name_the_rails(tmp_path: Path) -> None:
    folder = unpack("raspberry-pi-4", tmp_path) / "sys/bus/i2c/drivers/ina2xx/1-0041/hwmon/hwmon2"
    (folder / "label").write_text("board\n")
    assert hwmon.open_chips(tmp_path, "power", "ina226").info.rails[0].name == "ina226 1-0041 board"
    (folder / "power1_label").write_text("input\n")
    assert hwmon.open_chips(tmp_path, "power", "ina226").info.rails[0].name == "ina226 1-0041 input"


def test_a_chip_in_the_class_and_in_its_driver_is_read_once(tmp_path: Path) -> None:
    unpack("raspberry-pi-4", tmp_path)
    twin = tmp_path / "sys/class/hwmon/hwmon2"
    twin.symlink_to(tmp_path / "sys/bus/i2c/drivers/ina2xx/1-0041/hwmon/hwmon2")
    assert len(hwmon.open_chips(tmp_path, "power", "ina226").info.rails) == 1


def test_energy_counters_are_joules_and_fall_only_into_a_new_segment(tmp_path: Path) -> None:
    meter = hwmon.open_first_counter(unpack("server", tmp_path))
    assert [rail.name for rail in meter.info.rails] == ["amd_energy hwmon7 Ecore000", "amd_energy hwmon7 Esocket0"]
    first = meter.read()
    assert first.values == pytest.approx((12.5, 987.654321))
    assert meter.info.quantity == "energy"
    (tmp_path / "sys/class/hwmon/hwmon7/energy2_input").write_text("1000000\n")
    assert meter.read().segment == first.segment + 1


def test_a_jetsons_own_monitors_are_not_read_a_second_time(tmp_path: Path) -> None:
    with pytest.raises(SensorAbsent, match="no chip that gives power"):
        hwmon.open_first(unpack("thor", tmp_path))
    named = open_sensor("hwmon:2-0044", tmp_path)
    assert named.read().values == pytest.approx((23.28,))


def test_a_chip_that_vanishes_mid_run_fails_the_read(tmp_path: Path) -> None:
    meter = hwmon.open_chips(unpack("raspberry-pi-4", tmp_path), "power", "ina226")
    (tmp_path / "sys/bus/i2c/drivers/ina2xx/1-0041/hwmon/hwmon2/power1_input").unlink()
    with pytest.raises(SensorError, match=r"power1_input cannot be read: No such file.*still plugged in"):
        meter.read()


def test_text_in_place_of_a_number_is_refused(tmp_path: Path) -> None:
    meter = hwmon.open_chips(unpack("raspberry-pi-4", tmp_path), "power", "ina226")
    (tmp_path / "sys/bus/i2c/drivers/ina2xx/1-0041/hwmon/hwmon2/power1_input").write_text("<error>\n")
    with pytest.raises(SensorError, match="holds '<error>', expected is a number"):
        meter.read()
