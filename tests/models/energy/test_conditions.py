"""Conditions of recorded boards: every value by hand, flags in words, and what is not there."""

import os
from pathlib import Path

import msgspec
import pytest
from tests.models.energy.recorded_board import unpack

from multispin_models.energy.conditions import Conditions, ConditionsLog, Link, read_conditions, throttle_flags


def test_the_state_of_a_jetson_is_as_recorded(tmp_path: Path) -> None:
    found = read_conditions("during", unpack("orin-conditions", tmp_path))
    assert found.governors == ("schedutil", "performance")
    assert found.frequencies_hz == (1.344e9, 7.296e8)
    assert found.max_frequencies_hz == (1.5104e9, 1.5104e9)
    assert found.temperatures_c == {
        "cpu-thermal": pytest.approx(53.718),
        "gpu-thermal": None,  # asleep
        "soc-thermal thermal_zone2": pytest.approx(51.5),
        "soc-thermal thermal_zone3": pytest.approx(50.25),
    }
    assert found.fans_rpm == {"pwm_tach fan1": 1786.0}
    assert found.fans_pwm == {"pwmfan pwm1": pytest.approx(0.2)}
    assert found.cooling == {"pwm-fan cooling_device0": 2.0}
    assert found.throttle_events == {"oc1_event_cnt": 0, "oc3_event_cnt": 37}
    assert found.power_mode == "1 25W"
    assert found.links == (Link("eth0", 1e9, None, None), Link("wlan0", 433.3e6, -52.0, 58.0, 14))
    assert found.load_1min == 2.31
    assert found.machine_busy_s == pytest.approx((1000 + 20 + 30 + 6 + 7 + 8) / os.sysconf("SC_CLK_TCK"))
    assert found.available_memory_bytes == 5120000 * 1024
    assert found.throttled is None
    assert len(found.faults) == 1
    assert "thermal_zone1/temp cannot be read" in found.faults[0]


def test_a_raspberry_pi_s_flags_come_from_its_firmware_in_words(tmp_path: Path) -> None:
    found = read_conditions("before", unpack("raspberry-pi-5", tmp_path))
    assert found.throttled == ("under-voltage since boot", "throttled since boot")
    assert found.faults == ()


def test_or_from_the_kernel_s_file(tmp_path: Path) -> None:
    folder = unpack("raspberry-pi-5", tmp_path) / "sys/devices/platform/soc/soc:firmware"
    folder.mkdir(parents=True)
    (folder / "get_throttled").write_text("5\n")
    assert read_conditions("before", tmp_path).throttled == ("under-voltage", "throttled")


@pytest.mark.parametrize(
    ("bits", "flags"),
    [
        (0x0, ()),
        (0x1, ("under-voltage",)),
        (0x2, ("frequency capped",)),
        (0x4, ("throttled",)),
        (0x8, ("soft temperature limit",)),
        (0x80000, ("soft temperature limit since boot",)),
        (0x20002, ("frequency capped", "frequency capped since boot")),
    ],
)
def test_each_bit_has_its_word(bits: int, flags: tuple[str, ...]) -> None:
    assert throttle_flags(bits) == flags


def test_a_firmware_that_does_not_know_the_question_is_a_fault_not_no_flags(tmp_path: Path) -> None:
    found = read_conditions("before", unpack("raspberry-pi-4", tmp_path))
    assert found.throttled is None
    assert found.faults == (
        """the firmware answered get_throttled with 'error=1 error_msg="Command not registered"'""",
    )


def test_an_empty_machine_has_nulls_and_no_faults(tmp_path: Path) -> None:
    found = read_conditions("after", tmp_path)
    assert (found.governors, found.frequencies_hz, found.temperatures_c, found.links) == ((), (), {}, ())
    assert (found.load_1min, found.machine_busy_s, found.power_mode, found.available_memory_bytes) == (None,) * 4
    assert found.faults == ()
    assert found.own_busy_s > 0.0


def test_this_machine_is_read_and_stands_in_a_record_whole() -> None:
    found = read_conditions("before")
    assert found.load_1min is not None
    assert found.machine_busy_s is not None
    assert msgspec.json.decode(msgspec.json.encode(found), type=Conditions) == found


def test_they_are_taken_before_during_and_after(tmp_path: Path) -> None:
    taken: list[Conditions] = []
    beats = iter([False, False, True])
    with ConditionsLog(taken.append, 10.0, tmp_path, wait=lambda _seconds: next(beats)) as log:
        log._thread.join()
    assert [found.when for found in taken] == ["before", "during", "during", "after"]
    assert [found.t_ns for found in taken] == sorted(found.t_ns for found in taken)


def test_they_are_taken_after_a_run_that_failed(tmp_path: Path) -> None:
    taken: list[Conditions] = []
    with pytest.raises(KeyboardInterrupt), ConditionsLog(taken.append, 10.0, tmp_path):
        raise KeyboardInterrupt
    assert [found.when for found in taken] == ["before", "after"]
