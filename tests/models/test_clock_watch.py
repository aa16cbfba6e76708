"""Suspends and steps from clocks that are played, and chrony's answer from recorded ones."""

import sys

import pytest

from multispin_models.clock_watch import Clocks, ClockSync, ClockWatch, parse_tracking, read_clock_sync, read_clocks

S = 1_000_000_000
MS = 1_000_000
# As `chronyc -c tracking` prints it: chronyc(1), the fourteen fields of the report in its order.
TRACKING = (
    "C0A80101,192.168.1.1,3,1764000000.123456789,0.000012345,-0.000001234,0.000023456,"
    "-12.345,0.002,0.123,0.010000000,0.001500000,64.2,Normal\n"
)


def watched(*clocks: Clocks | None) -> tuple[int, int]:
    played = iter(clocks)
    watch = ClockWatch(lambda: next(played))
    for _ in clocks[1:]:
        watch.check()
    return watch.num_suspends, watch.num_steps


def test_clocks_that_run_together_are_no_event() -> None:
    assert watched(*(Clocks(t * S, 5 * S + t * S, 10**18 + t * S) for t in range(10))) == (0, 0)


def test_a_wall_clock_that_is_slewed_is_no_step() -> None:
    assert watched(Clocks(0, 0, 0), Clocks(100 * S, 100 * S, 100 * S + 50 * MS)) == (0, 0)


@pytest.mark.parametrize("step_ns", [S, -S, 12 * MS, -3600 * S])
def test_a_wall_clock_that_is_set_is_a_step(step_ns: int) -> None:
    start = 10**18
    after = start + step_ns
    assert watched(Clocks(0, 0, start), Clocks(S, S, after + S), Clocks(2 * S, 2 * S, after + 2 * S)) == (0, 1)


def test_a_suspend_is_one_and_no_step() -> None:
    assert watched(Clocks(0, 0, 10**18), Clocks(S, 61 * S, 10**18 + 61 * S)) == (1, 0)


def test_a_moment_at_which_the_clocks_could_not_be_read_together_hides_nothing() -> None:
    assert watched(Clocks(0, 0, 0), None, Clocks(2 * S, 62 * S, 62 * S)) == (1, 0)
    assert watched(None, Clocks(0, 0, 0), Clocks(S, S, S)) == (0, 0)


def test_the_kernels_clocks_can_be_read_and_show_no_event() -> None:
    clocks = read_clocks()
    assert clocks is None or clocks.boottime_ns >= clocks.monotonic_ns > 0
    watch = ClockWatch()
    watch.check()
    assert watch.num_suspends == 0


def test_chronys_answer_field_by_field() -> None:
    assert parse_tracking(TRACKING) == ClockSync(
        reference="192.168.1.1",
        stratum=3,
        system_offset_s=0.000012345,
        rms_offset_s=0.000023456,
        frequency_ppm=-12.345,
        skew_ppm=0.123,
        root_delay_s=0.01,
        root_dispersion_s=0.0015,
        update_interval_s=64.2,
        leap_status="Normal",
        bound_s=pytest.approx(0.006512345),
    )


@pytest.mark.parametrize("text", ["", "506 Cannot talk to daemon", TRACKING.replace(",3,", ",three,")])
def test_an_answer_that_is_none_says_what_came(text: str) -> None:
    sync = parse_tracking(text)
    assert sync.reason is not None
    assert "chronyc said" in sync.reason
    assert (sync.stratum, sync.bound_s) == (None, None)


def test_the_command_itself() -> None:
    said = read_clock_sync((sys.executable, "-c", f"print({TRACKING!r}, end='')"))
    assert (said.reason, said.stratum) == (None, 3)
    failed = read_clock_sync((sys.executable, "-c", "import sys; sys.exit('506 Cannot talk to daemon')"))
    assert failed.reason == "chronyc ended with 1: 506 Cannot talk to daemon"
    assert "not installed" in (read_clock_sync(("no-such-program-here",)).reason or "")
