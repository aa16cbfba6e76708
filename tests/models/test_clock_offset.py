"""The offset of two clocks: by hand, and against a true one that no delay, asymmetry or drift may put out of bounds."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin_models.clock_offset import MAX_DRIFT, ClockOffset, Offset

MS = 1_000_000
DELAY = st.integers(0, 500 * MS)


def test_one_exchange_by_hand() -> None:
    # 3 ms up, 1 ms down, the other clock 100 ms ahead: between 99 and 103, so 101 and 2; 11 us for 11 ms of drift.
    assert ClockOffset().add(0, 103 * MS, 110 * MS, 11 * MS) == Offset(101 * MS, 2_011_000)


def test_the_best_of_each_way_make_the_interval() -> None:
    offset = ClockOffset()
    offset.add(0, 105 * MS, 105 * MS, 6 * MS)  # 5 up, 1 down: 99 to 105
    found = offset.add(10 * MS, 111 * MS, 111 * MS, 18 * MS)  # 1 up, 7 down: 93 to 101
    # The lower bound may have drifted for 18 ms, the upper one for 8: 98.982 to 101.008.
    assert found == Offset(99_995_000, 1_013_000)


def test_nothing_is_known_before_the_first_exchange_and_after_a_reset() -> None:
    offset = ClockOffset()
    assert offset.at(0) is None
    offset.add(0, 1, 2, 3)
    assert offset.at(3) is not None
    offset.reset()
    assert offset.at(3) is None
    assert offset.num_breaks == 0


def test_what_was_known_gets_less_sure_with_time() -> None:
    offset = ClockOffset()
    offset.add(0, 0, 0, 0)
    assert offset.at(10**9) == Offset(0, MS)


@given(
    true_ns=st.integers(-(10**15), 10**15),
    ways=st.lists(st.tuples(DELAY, st.integers(0, 100 * MS), DELAY), min_size=1, max_size=30),
    drift=st.floats(-MAX_DRIFT * 0.99, MAX_DRIFT * 0.99),
)
def test_the_bound_holds_however_unequal_the_ways_and_whatever_the_drift(
    true_ns: int, ways: list[tuple[int, int, int]], drift: float
) -> None:
    def there(t_ns: int) -> int:
        return true_ns + t_ns + round(t_ns * drift)

    offset, now = ClockOffset(), 0
    for up, stay, down in ways:
        t1, now = now, now + up + stay + down
        found = offset.add(t1, there(t1 + up), there(t1 + up + stay), now)
        for t in (t1, t1 + up, now):
            assert abs(found.offset_ns - (there(t) - t)) <= found.bound_ns + 2, "rounding apart"
        now += 50 * MS
    assert offset.num_breaks == 0


def test_the_bound_gets_close_to_the_least_delays() -> None:
    chance = random.Random(1)
    offset, now = ClockOffset(), 0
    for _ in range(300):
        up, down = MS + int(chance.expovariate(1 / (5 * MS))), 2 * MS + int(chance.expovariate(1 / (5 * MS)))
        t1, now = now, now + up + down
        found = offset.add(t1, t1 + up, t1 + up, now)
    assert found.bound_ns < 2.5 * MS  # (1 + 2) / 2 and what has drifted since


@pytest.mark.parametrize("step_ns", [50 * MS, -50 * MS])
def test_a_clock_that_steps_is_noticed_and_the_new_offset_found_at_once(step_ns: int) -> None:
    offset = ClockOffset()
    offset.add(0, 1 * MS, 1 * MS, 2 * MS)
    t2 = 11 * MS + step_ns + 10**12
    offset.reset()
    offset.add(0, 10**12 + MS, 10**12 + MS, 2 * MS)
    found = offset.add(10 * MS, t2, t2, 12 * MS)
    assert offset.num_breaks == 1
    assert abs(found.offset_ns - 10**12 - step_ns) <= found.bound_ns == MS + 2_000


def test_more_time_there_than_here_is_a_break() -> None:
    offset = ClockOffset()
    offset.add(0, 1 * MS, 50 * MS, 2 * MS)
    assert offset.num_breaks == 1
    assert offset.at(2 * MS) is None


@pytest.mark.parametrize("times", [(5, 0, 0, 4), (0, 5, 4, 9)])
def test_an_exchange_that_goes_backwards_is_refused(times: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="backwards"):
        ClockOffset().add(*times)
