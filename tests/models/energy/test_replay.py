"""Recordings, played against a clock that the test turns."""

from pathlib import Path

import pytest

from multispin_models.energy import open_meter
from multispin_models.energy.replay import ReplayMeter
from multispin_models.errors import ConfigError, SensorError

S = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ns = 5 * S

    def __call__(self) -> int:
        return self.now_ns


def write(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_watts_are_interpolated_between_rows(tmp_path: Path) -> None:
    clock = Clock()
    path = write(tmp_path, "a.csv", "# covers: wall", "t_s,power_w", "100.0,2.0", "101.0,4.0", "103.0,4.0")
    meter = ReplayMeter(path, clock=clock)
    values = []
    for t_ns in (0, S // 2, S, 3 * S):
        clock.now_ns = 5 * S + t_ns
        values.append(meter.read().total(meter.info.rails))
    assert values == [2.0, 3.0, 4.0, 4.0]
    assert (meter.info.covers, meter.info.quantity, meter.info.label) == ("wall", "power", "measured")
    assert "not the energy of this run" in meter.info.note


def test_a_recording_ends(tmp_path: Path) -> None:
    clock = Clock()
    meter = ReplayMeter(write(tmp_path, "a.csv", "t_s,power_w", "0,1", "2,1"), clock=clock)
    clock.now_ns += 2 * S + 1
    with pytest.raises(SensorError, match=r"is over after 2\.0 s"):
        meter.read()


def test_a_looped_counter_goes_on_counting(tmp_path: Path) -> None:
    clock = Clock()
    lines = ['{"covers": "socket", "label": "calibrated"}', '{"t_s": 0, "energy_j": 10}', '{"t_s": 2, "energy_j": 16}']
    meter = ReplayMeter(write(tmp_path, "a.jsonl", *lines), loop=True, clock=clock)
    clock.now_ns += 5 * S
    assert meter.read().values == (10.0 + 6.0 + 6.0 + 3.0,)
    assert (meter.info.label, meter.info.quantity) == ("calibrated", "energy")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_moment_without_a_value_does_not_answer(tmp_path: Path, name: str) -> None:
    rows = ["0,1.5", "1,", "2,2.5", "3,2.5"]
    if name == "a.csv":
        lines = ["t_s,power_w", *rows]
    else:
        lines = [f'{{"t_s": {r.split(",")[0]}, "power_w": {r.split(",")[1] or "null"}}}' for r in rows]
    clock = Clock()
    meter = ReplayMeter(write(tmp_path, name, *lines), clock=clock)
    assert meter.read().values == (1.5,)
    for t_ns in (S // 2, S, 3 * S // 2):
        clock.now_ns = 5 * S + t_ns
        with pytest.raises(SensorError, match="did not answer"):
            meter.read()
    clock.now_ns = 7 * S
    assert meter.read().values == (2.5,)


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("a.csv", ["t_s,power_w", "0,1"], "1 rows, needed are 2"),
        ("a.csv", ["t_s,power_w", "0,1", "0,2"], "it must rise"),
        ("a.csv", ["t_s,power_w", "0,1", "1,-2"], "line 3 has 1, -2"),
        ("a.csv", ["t_s,power_w", "0,1", "1,nan"], "line 3 has 1, nan"),
        ("a.csv", ["t_s,power_w", "0,x", "1,2"], "line 2"),
        ("a.csv", ["t_s,energy_j", "0,5", "1,4"], "the counter falls"),
        ("a.csv", ["t_s,energy_j", "0,5", "1,"], "first and its last row"),
        ("a.csv", ["t_s,volts", "0,5", "1,6"], "line 2 has"),
        ("a.csv", ["# covers: everything", "t_s,power_w", "0,5", "1,6"], "everything"),
        ("a.jsonl", ["[]"], "line 1 is no JSON object"),
        ("a.jsonl", ['{"t_s": 0'], "line 1 is no JSON object"),
    ],
)
def test_a_bad_recording_is_refused_by_file_and_line(tmp_path: Path, name: str, lines: list[str], message: str) -> None:
    with pytest.raises(SensorError, match=message) as caught:
        ReplayMeter(write(tmp_path, name, *lines))
    assert name in str(caught.value)


def test_a_recording_is_opened_by_name_once_or_in_a_loop(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "t_s,power_w", "0,1", "1,1")
    for spec in (f"replay:{path}", f"replay:{path},loop"):
        meter = open_meter(spec).meter
        assert meter is not None
        assert meter.info.name == f"replay:{path}"
    with pytest.raises(SensorError, match=r"missing\.csv cannot be read"):
        open_meter(f"replay:{tmp_path / 'missing.csv'}")


def test_a_meter_that_is_not_known_is_refused_and_none_is_none() -> None:
    with pytest.raises(ConfigError, match=r"'rappel', allowed are auto, none, shared, jetson, .*, replay:FILE"):
        open_meter("rappel")
    assert open_meter("none").meter is None
    assert "switched off" in open_meter("none").reason
