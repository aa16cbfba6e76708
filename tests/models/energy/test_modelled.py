"""The model: watts from core time by hand, its label, and that nothing takes it unasked."""

import os
from pathlib import Path

import pytest

from multispin_models.energy import modelled, open_meter
from multispin_models.energy.sensors import AUTO_ORDER, METER_FORMS
from multispin_models.errors import ConfigError, SensorError

S = 1_000_000_000
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def stat(user: int, idle: int) -> str:
    # Linux Documentation/filesystems/proc.rst: user nice system idle iowait irq softirq steal guest guest_nice
    return f"cpu  {user} 20 30 {idle} 50 6 7 8 900 90\ncpu0 {user} 20 30 {idle} 50 6 7 8 900 90\n"


def test_core_time_leaves_out_idle_and_iowait_and_counts_guests_once() -> None:
    assert modelled.busy_core_seconds(stat(1000, 5000)) == pytest.approx((1000 + 20 + 30 + 6 + 7 + 8) * TICK_S)


def test_joules_are_idle_watts_over_time_and_busy_watts_over_core_time(tmp_path: Path) -> None:
    file = tmp_path / "proc/stat"
    file.parent.mkdir()
    file.write_text(stat(1000, 5000))
    now_ns = 7 * S
    meter = modelled.open_model(tmp_path, "2.6,1.9", clock=lambda: now_ns)
    assert meter.read().values == (0.0,)
    file.write_text(stat(1000 + round(3 / TICK_S), 5100))  # three core-seconds in two seconds
    now_ns = 9 * S
    assert meter.read().values == pytest.approx((1.9 * 2 + 2.6 * 3,))
    assert meter.info.label == "modelled"
    assert "guessed, not measured" in meter.info.note


def test_it_is_never_taken_unasked(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(stat(1, 1))
    assert open_meter("auto", tmp_path).meter is None
    assert "modelled" not in AUTO_ORDER
    assert "modelled:BUSY_W,IDLE_W" in METER_FORMS


@pytest.mark.parametrize("target", ["2.6", "a,b", "-1,2", "nan,1", "1,2,3"])
def test_watts_that_are_no_two_numbers_are_refused(target: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give watts of a busy core and of the idle machine"):
        open_meter(f"modelled:{target}", tmp_path)


def test_another_text_in_place_of_core_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SensorError, match="proc/stat cannot be read"):
        open_meter("modelled:2,1", tmp_path)
    with pytest.raises(SensorError, match="expected is 'cpu' and 8 counts"):
        modelled.busy_core_seconds("intr 1 2 3")
