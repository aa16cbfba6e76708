"""Calibration: a line worked by hand, intervals that hold the truth as often as they say, the meter behind a fit."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.models.energy.recorded_board import unpack

from multispin_models.energy import open_meter
from multispin_models.energy.calibration import (
    Calibration,
    PairedWatts,
    board_name,
    find_calibration,
    fit_line,
    paired_watts,
    save_calibration,
    student_t_975,
)
from multispin_models.energy.window import PowerSample, Window, energy_between
from multispin_models.errors import ConfigError, SensorError

S = 1_000_000_000
# y = 1.2 x + 0.5 with residuals that are orthogonal to 1 and x, so that the line is exact: sum 0, and sum r x = 0.
XS = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
RESIDUALS = [0.1, -0.1, -0.1, 0.1, 0.0, 0.0, 0.1, -0.1, -0.1, 0.1]
POINTS = [PairedWatts(x, 1.2 * x + 0.5 + r) for x, r in zip(XS, RESIDUALS, strict=True)]


def calibration(sensor: str, board: str, points: list[PairedWatts]) -> Calibration:
    return Calibration(
        board=board,
        sensor=sensor,
        reference="shelly:192.0.2.1",
        reference_label="measured",
        covers="wall",
        fitted_at="2026-11-24T10:00:00.000+00:00",
        window_s=10.0,
        fit=fit_line(points),
        points=tuple(points),
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULTISPIN_CALIBRATIONS", str(tmp_path / "calibrations"))
    return tmp_path / "calibrations"


def test_the_line_and_its_intervals_are_as_computed_by_hand() -> None:
    fit = fit_line(POINTS)
    assert (fit.slope, fit.offset_w) == (pytest.approx(1.2), pytest.approx(0.5))
    # sum of squares 8 * 0.01, 8 degrees of freedom; Sxx = 82.5, mean x = 5.5; t = 2.306
    rms = (0.08 / 8) ** 0.5
    assert fit.residual_rms_w == pytest.approx(rms)
    assert fit.residual_max_w == pytest.approx(0.1)
    assert fit.slope_ci95 == pytest.approx((1.2 - 2.306 * rms / 82.5**0.5, 1.2 + 2.306 * rms / 82.5**0.5), abs=1e-4)
    half = 2.306 * rms * (1 / 10 + 5.5**2 / 82.5) ** 0.5
    assert fit.offset_ci95_w == pytest.approx((0.5 - half, 0.5 + half), abs=1e-3)
    assert (fit.sensor_min_w, fit.sensor_max_w, fit.num_points) == (1.0, 10.0, 10)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(8, 2.306), (10, 2.228), (20, 2.086), (30, 2.042), (60, 2.000), (1000, 1.962)]
)
def test_the_quantile_of_t_is_that_of_the_tables(degrees: int, quantile: float) -> None:
    assert student_t_975(degrees) == pytest.approx(quantile, abs=0.002)


def test_the_intervals_hold_the_truth_95_times_out_of_100() -> None:
    rng = random.Random(20261124)
    held_slope = held_offset = 0
    for _ in range(2000):
        fit = fit_line([PairedWatts(x, 1.15 * x + 0.59 + rng.gauss(0.0, 0.2)) for x in XS])
        held_slope += fit.slope_ci95[0] <= 1.15 <= fit.slope_ci95[1]
        held_offset += fit.offset_ci95_w[0] <= 0.59 <= fit.offset_ci95_w[1]
    for held in (held_slope, held_offset):
        assert 0.935 < held / 2000 < 0.965  # three standard errors of 0.0049


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (POINTS[:9], "9 windows have figures of both meters, needed are 10"),
        ([PairedWatts(3.0, 4.0 + i) for i in range(10)], "showed 3 W all the time: vary the load"),
        ([PairedWatts(x, 5.0 + r * 9) for x, r in zip(XS, RESIDUALS, strict=True)], "which may be 0: vary the load"),
        ([PairedWatts(x, -x) for x in XS], "the slope is -1"),
    ],
)
def test_points_that_carry_no_line_are_refused(points: list[PairedWatts], message: str) -> None:
    with pytest.raises(SensorError, match=message):
        fit_line(points)


def meter_of(watts: Callable[[float], float], hz: int) -> Callable[[int, int], Window]:
    samples = [PowerSample(i * S // hz, watts(i / hz)) for i in range(30 * hz + 1)]
    return lambda a, b: energy_between(samples, a, b)


def test_points_are_mean_watts_of_windows_that_both_meters_carry() -> None:
    sensor = meter_of(lambda t: 2.0 + t / 10, 40)
    reference = meter_of(lambda t: 1.5 * (2.0 + t / 10) + 0.25, 4)
    points = paired_watts(sensor, reference, S, 34 * S, 10.0)  # the last window is not sampled to its end
    assert [p.sensor_w for p in points] == pytest.approx([2.6, 3.6])
    assert [p.reference_w for p in points] == pytest.approx([1.5 * 2.6 + 0.25, 1.5 * 3.6 + 0.25])


def test_a_calibrated_sensor_gives_the_whole_with_its_label_and_its_intervals(tmp_path: Path) -> None:
    root = unpack("raspberry-pi-5", tmp_path / "board")
    save_calibration("bench", calibration("pmic", board_name(root), POINTS))
    meter = open_meter("calibrated:bench", root).meter
    assert meter is not None
    assert meter.read().total(meter.info.rails) == pytest.approx(1.2 * 1.941588 + 0.5)
    assert (meter.info.label, meter.info.covers) == ("calibrated", "wall")
    assert "slope 1.2000 +- 0.0254, offset 0.500 +- 0.158 W (95 %)" in meter.info.note
    assert "pmic fitted to shelly:192.0.2.1 on 2026-11-24" in meter.info.note


def test_a_board_without_a_total_is_calibrated_by_the_sum_of_its_rails(tmp_path: Path) -> None:
    root = unpack("agx-xavier", tmp_path / "board")
    save_calibration("bench", calibration("jetson", board_name(root), POINTS))
    meter = open_meter("calibrated:bench", root).meter
    assert meter is not None
    assert meter.read().values == pytest.approx((1.2 * (0.304 + 0.456 + 1.065 + 0.0 + 0.152 + 1.76) + 0.5,))
    (root / "sys/bus/i2c/drivers/ina3221x/1-0041/iio:device1/in_power0_input").unlink()
    with pytest.raises(SensorError, match=r"a rail that the whole is made of did not answer: .*in_power0_input"):
        meter.read()


def test_a_calibrated_counter_counts_its_offset_with_time(tmp_path: Path) -> None:
    root = unpack("server", tmp_path / "board")
    save_calibration("bench", calibration("rapl", board_name(root), POINTS))
    meter = open_meter("calibrated:bench", root).meter
    assert meter is not None
    first, second = meter.read(), meter.read()  # the counters stand still
    assert first.values[0] is not None
    assert second.values[0] is not None
    elapsed_s = (second.t_ns - first.t_ns) / 1e9
    assert second.values[0] - first.values[0] == pytest.approx(0.5 * elapsed_s, rel=0.01, abs=2e-5)


def test_a_calibrated_model_stays_modelled(tmp_path: Path) -> None:
    (tmp_path / "board/proc").mkdir(parents=True)
    (tmp_path / "board/proc/stat").write_text("cpu  1 2 3 4 5 6 7 8 9 10\n")
    save_calibration("bench", calibration("modelled:1,0", board_name(tmp_path / "board"), POINTS))
    meter = open_meter("calibrated:bench", tmp_path / "board").meter
    assert meter is not None
    assert meter.info.label == "modelled"


def test_a_calibration_of_another_board_is_refused(tmp_path: Path) -> None:
    save_calibration("bench", calibration("pmic", "Raspberry Pi 5 Model B Rev 1.0, serial 123", POINTS))
    with pytest.raises(SensorError, match=r"made for '.*serial 123', this board is 'Raspberry Pi 5 Model B Rev 1.0'"):
        open_meter("calibrated:bench", unpack("raspberry-pi-5", tmp_path / "board"))


def test_the_board_is_named_with_its_serial_number(tmp_path: Path) -> None:
    tree = unpack("raspberry-pi-5", tmp_path) / "sys/firmware/devicetree/base"
    (tree / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    (tree / "serial-number").write_bytes(b"10000000a1b2c3d4\0")
    assert board_name(tmp_path) == "Raspberry Pi 5 Model B Rev 1.0, serial 10000000a1b2c3d4"


def test_what_was_kept_is_found_whole_and_what_is_damaged_is_refused(folder: Path) -> None:
    kept = calibration("pmic", "a board", POINTS)
    path = save_calibration("bench", kept)
    assert path == folder / "bench.json"
    assert find_calibration("bench") == kept
    assert find_calibration(str(path)) == kept
    path.write_text('{"board": "a board"}')
    with pytest.raises(ConfigError, match=r"bench.json cannot be read: .*calibrate again"):
        find_calibration("bench")
    with pytest.raises(ConfigError, match=r"'other' is not there .looked for .*make it with multispin meter calibrate"):
        find_calibration("other")
    for name in ("", "../x", ".hidden", "a b"):
        with pytest.raises(ConfigError, match="allowed are letters"):
            save_calibration(name, kept)
