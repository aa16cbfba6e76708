"""The battery's gauge: discharge by hand, what is no battery of this machine, and when it gives no value."""

from pathlib import Path

import pytest
from tests.models.energy.recorded_board import unpack

from multispin_models.energy import battery
from multispin_models.errors import SensorAbsent, SensorError


def supply(root: Path, name: str) -> Path:
    return root / "sys/class/power_supply" / name


def test_a_discharge_is_volts_times_amperes_without_its_sign(tmp_path: Path) -> None:
    meter = battery.open_first(unpack("laptop", tmp_path))
    reading = meter.read()
    assert [rail.name for rail in meter.info.rails] == ["BAT0", "BAT1"]  # no ucsi supply, no mouse, no mains
    assert reading.values == pytest.approx((11.4 * 0.75, 0.0))
    assert reading.total(meter.info.rails) == pytest.approx(8.55)
    assert (meter.info.covers, meter.info.label) == ("battery", "measured")


def test_power_now_is_taken_where_the_gauge_has_it(tmp_path: Path) -> None:
    (supply(unpack("laptop", tmp_path), "BAT0") / "power_now").write_text("9120000\n")
    assert battery.open_first(tmp_path).read().values == pytest.approx((9.12, 0.0))


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_on_mains_there_is_no_value(status: str, tmp_path: Path) -> None:
    (supply(unpack("laptop", tmp_path), "BAT0") / "status").write_text(f"{status}\n")
    with pytest.raises(SensorError, match=f"does not run from its battery .BAT0 {status}, BAT1 Not charging.: unplug"):
        battery.open_first(tmp_path).read()


def test_a_gauge_that_vanishes_mid_run_fails_the_read(tmp_path: Path) -> None:
    meter = battery.open_first(unpack("laptop", tmp_path))
    (supply(tmp_path, "BAT0") / "status").unlink()
    with pytest.raises(SensorError, match="BAT0/status cannot be read: No such file"):
        meter.read()


def test_supplies_that_negotiate_and_batteries_of_others_are_no_battery(tmp_path: Path) -> None:
    unpack("laptop", tmp_path)
    for name in ("BAT0", "BAT1"):
        for file in supply(tmp_path, name).iterdir():
            file.unlink()
        supply(tmp_path, name).rmdir()
    with pytest.raises(SensorAbsent, match="has no battery of this machine"):
        battery.open_first(tmp_path)
