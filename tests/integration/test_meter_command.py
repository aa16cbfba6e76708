"""The command `multispin meter` on recorded boards: the fields of `read`, the choice of auto, watching, calibrating."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.models.energy.recorded_board import unpack

from multispin.cli import main
from multispin_models.energy.calibration import find_calibration

Capture = pytest.CaptureFixture[str]


def read(root: Path, capsys: Capture, *more: str) -> list[dict[str, Any]]:
    assert main(["meter", "read", "--root", str(root), "--json", *more]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_a_jetson_is_read_with_its_fields_and_one_total(tmp_path: Path, capsys: Capture) -> None:
    rows = read(unpack("orin-nx", tmp_path), capsys)
    assert [row["rail"] for row in rows] == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]
    assert rows[0] == {
        "sensor": "jetson",
        "rail": "VDD_IN",
        "covers": "module",
        "is_total": True,
        "label": "measured",
        "power_w": pytest.approx(5.072 * 1.184),
        "reason": None,
    }
    assert [row["is_total"] for row in rows] == [True, False, False]


def test_agx_orin_has_no_total_and_a_null_with_its_reason(tmp_path: Path, capsys: Capture) -> None:
    rows = read(unpack("agx-orin", tmp_path), capsys)
    assert not any(row["is_total"] for row in rows)
    assert {row["covers"] for row in rows} == {"rails"}
    null = next(row for row in rows if row["power_w"] is None)
    assert null["rail"] == "VDDQ_VDD2_1V8AO"
    assert "Input/output error" in null["reason"]


def test_the_rails_of_a_raspberry_pi_5_are_no_total_and_0_is_0(tmp_path: Path, capsys: Capture) -> None:
    rows = read(unpack("raspberry-pi-5", tmp_path), capsys)
    assert len(rows) == 12
    assert not any(row["is_total"] for row in rows)
    assert {row["rail"]: row["power_w"] for row in rows}["DDR_VDD2"] == 0.0
    assert sum(row["power_w"] for row in rows) == pytest.approx(1.941588)


def test_counters_give_joules_and_parts_are_not_totals(tmp_path: Path, capsys: Capture) -> None:
    rows = {(row["sensor"], row["rail"]): row for row in read(unpack("server", tmp_path), capsys)}
    assert rows["rapl", "package-0"]["energy_j"] == pytest.approx(61250.0)
    totals = [rail for (_, rail), row in rows.items() if row["is_total"]]
    assert totals == ["package-0", "package-1"]
    assert "power_w" not in rows["rapl", "package-0"]
    assert rows["hwmon-energy", "amd_energy hwmon7 Esocket0"]["energy_j"] == pytest.approx(987.654321)


def test_each_zone_of_rapl_that_may_not_be_read_is_null_with_what_to_do(tmp_path: Path, capsys: Capture) -> None:
    (unpack("server", tmp_path) / "sys/class/powercap/intel-rapl:1/max_energy_range_uj").unlink()
    rows = {row["rail"]: row for row in read(tmp_path, capsys) if row["sensor"] == "rapl"}
    assert rows["package-1"]["energy_j"] is None
    assert "max_energy_range_uj cannot be read" in rows["package-1"]["reason"]
    assert rows["package-0"]["energy_j"] == pytest.approx(61250.0)


def test_permission_denied_is_null_for_every_rail(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack("server", tmp_path)
    allowed: Any = os.open

    def denied(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith("energy_uj"):  # root, who may run this test, is denied nothing
            raise PermissionError(13, "Permission denied", str(path))
        return allowed(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", denied)
    rows = [row for row in read(tmp_path, capsys) if row["sensor"] == "rapl"]
    assert [row["rail"] for row in rows] == ["package-0", "package-0/dram", "package-1"]
    assert all(row["energy_j"] is None and "CAP_DAC_READ_SEARCH" in row["reason"] for row in rows)


def test_a_battery_and_no_ucsi_supply(tmp_path: Path, capsys: Capture) -> None:
    rows = read(unpack("laptop", tmp_path), capsys)
    assert [(row["rail"], row["covers"], row["is_total"]) for row in rows] == [
        ("BAT0", "battery", True),
        ("BAT1", "battery", True),
    ]
    assert rows[0]["power_w"] == pytest.approx(8.55)
    (tmp_path / "sys/class/power_supply/BAT0/status").write_text("Charging\n")
    rows = read(tmp_path, capsys)
    assert rows[0]["power_w"] is None
    assert "does not run from its battery" in rows[0]["reason"]


def test_a_sensor_that_cannot_tell_its_rails_is_one_null_row(tmp_path: Path, capsys: Capture) -> None:
    rows = read(unpack("raspberry-pi-4", tmp_path), capsys)
    assert (rows[0]["sensor"], rows[0]["rail"], rows[0]["power_w"]) == ("pmic", None, None)
    assert (rows[0]["covers"], rows[0]["is_total"], rows[0]["label"]) == ("rails", False, "measured")
    assert "only a Raspberry Pi 5 has these rails" in rows[0]["reason"]
    assert {row["sensor"] for row in rows[1:]} == {"hwmon"}


def test_one_named_sensor_is_read_alone(tmp_path: Path, capsys: Capture) -> None:
    rows = read(unpack("raspberry-pi-4", tmp_path), capsys, "--meter", "hwmon:ina226,covers=module")
    assert [(row["rail"], row["is_total"], row["power_w"]) for row in rows] == [
        ("ina226 1-0041 power1", True, pytest.approx(3.7))
    ]


def test_the_table_shows_values_reasons_and_totals(tmp_path: Path, capsys: Capture) -> None:
    assert main(["meter", "read", "--root", str(unpack("agx-orin", tmp_path))]) == 0
    out = capsys.readouterr().out
    assert "VDD_GPU_SOC" in out
    assert "3.528 W rails" in out
    assert "null W rails" in out
    assert "in2_enable is 0" in out


@pytest.mark.parametrize(
    ("board", "auto"),
    [("orin-nx", "jetson"), ("agx-orin", None), ("raspberry-pi-5", "pmic"), ("server", "rapl"), ("laptop", None)],
)
def test_the_list_says_what_auto_takes(board: str, auto: str | None, tmp_path: Path, capsys: Capture) -> None:
    root = str(unpack(board, tmp_path))
    assert main(["meter", "list", "--root", root, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["auto"] == auto
    assert all(status["usable"] or status["reason"] for status in report["sensors"])
    assert main(["meter", "list", "--root", root]) == 0
    assert f"takes the first usable of jetson, pmic, rapl: {auto or 'none, energy is null'}" in capsys.readouterr().out


def test_watching_gives_mean_watts_of_every_second(tmp_path: Path, capsys: Capture) -> None:
    recording = tmp_path / "a.csv"
    recording.write_text("t_s,power_w\n0,4.0\n60,4.0\n")
    assert main(["meter", "watch", "--meter", f"replay:{recording}", "--seconds", "1", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["mean_w"] == pytest.approx(4.0)
    assert row["coverage"] == 1.0
    assert main(["meter", "watch", "--root", str(tmp_path)]) == 1  # auto, and nothing is there
    assert "no energy sensor can be read" in capsys.readouterr().err


def test_a_sensor_is_calibrated_kept_and_used(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTISPIN_CALIBRATIONS", str(tmp_path / "kept"))
    for name, slope, offset in (("sensor", 1.0, 0.0), ("reference", 1.25, 0.5)):
        # Rising evenly: that the two recordings do not start at the same instant moves the offset alone.
        rows = [f"{t},{slope * (2.0 + t) + offset}" for t in range(60)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["# covers: wall", "t_s,power_w", *rows]) + "\n")
    flags = ["--sensor", f"replay:{tmp_path}/sensor.csv", "--reference", f"replay:{tmp_path}/reference.csv"]
    arguments = ["meter", "calibrate", *flags, "--name", "bench", "--seconds", "1.6", "--window", "0.1"]
    assert main([*arguments, "--root", str(tmp_path)]) == 0
    assert "meter with calibrated:bench" in capsys.readouterr().out
    fit = find_calibration("bench").fit
    assert fit.slope == pytest.approx(1.25, abs=0.02)
    assert fit.offset_w == pytest.approx(0.5, abs=1.0)
    assert fit.num_points == 16
    assert main([*arguments[:-1], "1.0", "--root", str(tmp_path)]) == 1
    assert "ten windows or more are needed" in capsys.readouterr().err


def test_a_reference_that_guesses_is_refused(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  1 2 3 4 5 6 7 8 9 10\n")
    flags = ["--sensor", "modelled:1,0", "--reference", "modelled:2,1", "--name", "a", "--root", str(tmp_path)]
    assert main(["meter", "calibrate", *flags]) == 1
    assert "only a meter that measures can be one" in capsys.readouterr().err


def test_a_board_that_is_not_there_is_refused(tmp_path: Path, capsys: Capture) -> None:
    assert main(["meter", "read", "--root", str(tmp_path / "none")]) == 1
    assert "which is no folder" in capsys.readouterr().err


def test_conditions_are_shown(tmp_path: Path, capsys: Capture) -> None:
    root = str(unpack("orin-conditions", tmp_path))
    assert main(["meter", "conditions", "--root", root, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["power_mode"] == "1 25W"
    assert main(["meter", "conditions", "--root", root]) == 0
    assert "oc3_event_cnt" in capsys.readouterr().out
