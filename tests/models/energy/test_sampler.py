"""The sampler: windows from its own readings, a sensor that vanishes, a bound, and its thread."""

import threading
from pathlib import Path

import pytest
from tests.models.energy.recorded_board import unpack

from multispin_models.clock import monotonic_ns
from multispin_models.energy import MeterInfo, Rail, Reading, Sampler, jetson
from multispin_models.energy.calibrated import CalibratedMeter
from multispin_models.energy.meter import Asked, Quantity, QuickMeter
from multispin_models.energy.sensors import AUTO_ORDER, open_present
from multispin_models.errors import SensorError

S = 1_000_000_000


class Script:
    """A meter that gives what it is told, and SensorError for null."""

    def __init__(self, readings: list[Reading | None], quantity: Quantity = "power", total: bool = True) -> None:
        self.info = MeterInfo("script", quantity, "module", "measured", (Rail("VDD_IN", total),))
        self.readings = readings
        self.closed = False

    def read(self) -> Reading:
        reading = self.readings.pop(0)
        if reading is None:
            raise SensorError("gone: Remote I/O error")
        return reading

    def close(self) -> None:
        self.closed = True


def watts(t_ms: int, power_w: float | None) -> Reading:
    return Reading(t_ms * 1_000_000, (power_w,))


def test_windows_come_from_the_samples() -> None:
    sampler = Sampler(Script([watts(0, 2.0), watts(500, 4.0), watts(1000, 4.0)]), hz=10.0)
    for _ in range(3):
        assert sampler.read_now()
    assert sampler.joules(0, S).joules == pytest.approx(1.5 + 2.0)


def test_a_counter_carries_its_segment() -> None:
    readings: list[Reading | None] = [Reading(0, (1.0,)), Reading(S, (4.0,)), Reading(2 * S, (4.0,), segment=1)]
    sampler = Sampler(Script(readings, "energy"))
    for _ in range(3):
        sampler.read_now()
    assert sampler.joules(0, S).joules == 3.0
    assert "lost count" in (sampler.joules(0, 2 * S).reason or "")


def test_a_sensor_that_vanishes_leaves_a_gap_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ms = iter([200, 1100])
    monkeypatch.setattr("multispin_models.energy.sampler.monotonic_ns", lambda: next(now_ms) * 1_000_000)
    readings = [watts(0, 1.0), watts(100, 1.0), None, watts(1100, None), watts(1500, 1.0), watts(1600, 1.0)]
    sampler = Sampler(Script(readings))
    assert [sampler.read_now() for _ in range(6)] == [True, True, False, False, True, True]
    window = sampler.joules(0, 1600 * 1_000_000)
    assert window.joules is None
    assert "no sample for 1.400 s" in (window.reason or "")
    assert "2 failed reads" in (window.reason or "")
    assert sampler.num_failures == 2
    assert sampler.joules(1500 * 1_000_000, 1600 * 1_000_000).joules == pytest.approx(0.1)
    assert sampler.joules(0, 1600 * 1_000_000, max_gap_s=2.0).joules == pytest.approx(1.6)


def test_only_so_many_samples_are_kept() -> None:
    sampler = Sampler(Script([watts(i, 1.0) for i in range(1000)]), capacity=16)
    for _ in range(1000):
        sampler.read_now()
        assert len(sampler._times) <= 16
    assert "before the first sample" in (sampler.joules(0, 999_000_000).reason or "")
    assert sampler.joules(990_000_000, 999_000_000).joules == pytest.approx(0.009)


def test_a_meter_without_a_rail_for_the_whole_is_refused() -> None:
    with pytest.raises(SensorError, match=r"no rail for the whole \(VDD_IN\)"):
        Sampler(Script([], total=False))


class Steady:
    """3 W by its counter, by the real clock; says when it was read often enough."""

    def __init__(self, enough: int, fail_at: int = -1) -> None:
        self.info = MeterInfo("steady", "energy", "socket", "measured", (Rail("package-0", in_total=True),), 500.0)
        self.num_reads = 0
        self.enough = enough
        self.fail_at = fail_at
        self.read_enough = threading.Event()
        self.closed = False

    def read(self) -> Reading:
        self.num_reads += 1
        if self.num_reads >= self.enough:
            self.read_enough.set()
        if self.num_reads == self.fail_at:
            raise SensorError("gone for a moment")
        t_ns = monotonic_ns()
        return Reading(t_ns, (3.0 * t_ns / 1e9,))

    def close(self) -> None:
        self.closed = True


def test_the_thread_samples_until_it_is_stopped_and_survives_a_failed_read() -> None:
    meter = Steady(enough=20, fail_at=7)
    with Sampler(meter, hz=2000.0) as sampler:
        assert sampler.hz == 500.0  # no faster than the sensor has values
        t0_ns = monotonic_ns()
        assert meter.read_enough.wait(30.0)
        t1_ns = monotonic_ns()
    assert meter.closed
    num_reads = meter.num_reads
    window = sampler.joules(t0_ns, t1_ns, max_gap_s=30.0)
    assert window.joules == pytest.approx(3.0 * (t1_ns - t0_ns) / 1e9)
    assert window.num_samples > 7  # it went on after the read that failed
    assert sampler.num_failures == 1
    assert 0.0 < sampler.cpu_s < 30.0
    sampler.stop()  # twice is no error, and reads nothing
    assert meter.num_reads == num_reads


def test_beats_that_were_missed_are_skipped_not_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 0
    waits: list[float] = []

    def clock() -> int:
        return now_ns

    def wait(seconds: float) -> bool:
        nonlocal now_ns
        waits.append(seconds)
        now_ns += round(seconds * 1e9) + (350_000_000 if len(waits) == 2 else 0)  # held up for 3.5 beats once
        return len(waits) == 5

    monkeypatch.setattr("multispin_models.energy.sampler.monotonic_ns", clock)
    sampler = Sampler(Script([watts(i, 1.0) for i in range(20)]), hz=10.0, wait=wait)
    sampler._run()
    assert waits == pytest.approx([0.1, 0.1, 0.05, 0.1, 0.1])


class TwoSteps(Script):
    """Counts what is asked and understood; 'gone' is an answer that means nothing."""

    def __init__(self, answers: list[str]) -> None:
        super().__init__([])
        self.answers = answers
        self.num_asked = self.num_understood = 0

    def ask(self) -> Asked:
        self.num_asked += 1
        return self.num_asked * 100_000_000, self.answers.pop(0)

    def understand(self, asked: Asked) -> Reading:
        self.num_understood += 1
        t_ns, answer = asked
        if not answer.isdecimal():
            raise SensorError(f"holds {answer!r}, expected is a number")
        return Reading(t_ns, (float(answer),))


def test_beats_only_ask_and_a_window_understands_what_they_left() -> None:
    meter = TwoSteps(["2", "4", "gone", "4", "4", "4"])
    waits = iter([False] * 5 + [True])
    sampler = Sampler(meter, wait=lambda _seconds: next(waits))
    sampler.read_now()
    assert (meter.num_asked, meter.num_understood) == (1, 1)
    sampler._run()
    assert (meter.num_asked, meter.num_understood) == (6, 1)
    # 0.1 s from 2 to 4 W, 0.4 s of 4 W, over the answer that meant nothing
    assert sampler.joules(100_000_000, 600_000_000).joules == pytest.approx(0.3 + 1.6)
    assert meter.num_understood == 6
    window = sampler.joules(250_000_000, 350_000_000, max_gap_s=0.15)
    assert "no sample for 0.200 s" in (window.reason or "")
    assert "1 failed reads, the last: holds 'gone'" in (window.reason or "")  # at its own time


def test_answers_are_not_left_for_ever() -> None:
    meter = TwoSteps(["3"] * 33)
    waits = iter([False] * 33 + [True])
    Sampler(meter, wait=lambda _seconds: next(waits))._run()
    assert (meter.num_asked, meter.num_understood) == (33, 32)


@pytest.mark.parametrize("board", ["orin-nx", "xavier-nx", "nano", "tx2", "thor", "raspberry-pi-5", "server"])
def test_two_steps_give_what_a_reading_gives(board: str, tmp_path: Path) -> None:
    root = unpack(board, tmp_path)
    [meter] = [found for name, found in open_present(root) if name in AUTO_ORDER and not isinstance(found, SensorError)]
    assert isinstance(meter, QuickMeter)
    total = meter.read().total(meter.info.rails)
    assert total is not None
    asked = meter.ask()
    assert meter.understand(asked).total(meter.info.rails) == total
    assert meter.understand(meter.ask()).t_ns > asked[0]
    calibrated = CalibratedMeter(meter, "fit", 2.0, 0.0, "module", "calibrated", "")
    assert calibrated.understand(calibrated.ask()).values == (2.0 * total,)
    calibrated.close()


def test_a_fit_of_all_rails_reads_them_all(tmp_path: Path) -> None:
    meter = CalibratedMeter(
        jetson.open_first(unpack("agx-xavier", tmp_path)), "fit", 1.0, 0.0, "module", "calibrated", ""
    )
    sampler = Sampler(meter)
    first_ns = monotonic_ns()
    assert sampler.read_now()
    assert sampler.read_now()
    last_ns = sampler._times[-1]
    joules = sampler.joules(max(first_ns, sampler._times[0]), last_ns).joules
    watts = 0.304 + 0.456 + 1.065 + 0.152 + 1.76
    assert joules == pytest.approx(watts * (last_ns - sampler._times[0]) / 1e9)
    sampler.stop()
