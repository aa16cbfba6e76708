"""The parts of a round by hand, on two clocks of which the test knows the truth."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin_agent.round_clock import RoundClock, RoundParts
from multispin_models.clock_offset import ClockOffset
from multispin_models.clock_watch import Clocks, ClockWatch
from multispin_models.messages import Verdict

MS = 1_000_000
AHEAD_NS = 10**13  # the coordinator's clock


def verdict(received_ns: int, residence_us: int, verify_us: int) -> Verdict:
    return Verdict(1, 1, 0, 5, 0, received_ns + AHEAD_NS, residence_us, verify_us, 5)


def total(parts: RoundParts) -> float:
    assert parts.uplink_s is not None
    assert parts.downlink_s is not None
    return math.fsum(
        [
            *(parts.draft_wait_s, parts.rewind_s, parts.agent_queue_s, parts.uplink_s),
            *(parts.coordinator_queue_s, parts.verify_s, parts.downlink_s),
        ]
    )


def test_a_round_by_hand() -> None:
    clock = RoundClock(0, ClockOffset(), None)
    clock.drafted(2 * MS, 3 * MS, 8 * MS)  # 1 rewind, 5 draft
    clock.sent(10 * MS, is_repeat=False)
    parts = clock.finish(40 * MS, verdict(14 * MS, 20_000, 15_000))  # 4 up, 5 queue, 15 verify, 6 down
    assert parts.round_s == pytest.approx(0.040)
    assert (parts.rewind_s, parts.draft_wait_s, parts.agent_queue_s) == pytest.approx((0.001, 0.005, 0.004))
    assert (parts.coordinator_queue_s, parts.verify_s) == pytest.approx((0.005, 0.015))
    # 4 and 6 ms are not told apart: 5 each, and the bound covers what is wrong.
    assert (parts.uplink_s, parts.downlink_s, parts.clock_bound_s) == pytest.approx((0.005, 0.005, 0.00503))
    assert parts.clock_offset_ns == AHEAD_NS - MS
    assert (parts.clock_event, parts.num_sends) == (None, 1)
    assert total(parts) == pytest.approx(parts.round_s, abs=1e-12)


def test_what_was_drafted_while_the_verdict_before_was_in_flight_is_no_part() -> None:
    clock = RoundClock(0, ClockOffset(), None)
    clock.sent(0, is_repeat=False)
    clock.drafted(1 * MS, 2 * MS, 12 * MS)  # begun in the first round, done in the second
    clock.finish(10 * MS, verdict(4 * MS, 2_000, 1_000))
    clock.drafted(12 * MS, 13 * MS, 15 * MS)
    clock.sent(16 * MS, is_repeat=False)
    parts = clock.finish(30 * MS, verdict(20 * MS, 2_000, 1_000))
    assert (parts.rewind_s, parts.draft_wait_s, parts.agent_queue_s) == pytest.approx((0.001, 0.004, 0.001))
    assert total(parts) == pytest.approx(parts.round_s, abs=1e-12)


def test_a_draft_that_was_sent_again_counts_from_the_first_time() -> None:
    clock = RoundClock(0, ClockOffset(), None)
    clock.sent(1 * MS, is_repeat=False)
    clock.sent(500 * MS, is_repeat=True)
    parts = clock.finish(520 * MS, verdict(505 * MS, 10_000, 10_000))
    assert parts.num_sends == 2
    assert parts.clock_offset_ns is not None
    assert abs(parts.clock_offset_ns - AHEAD_NS) <= (parts.clock_bound_s or 0.0) * 1e9
    assert total(parts) == pytest.approx(0.52, abs=1e-12)


def test_a_round_without_a_sending_has_no_one_way_times() -> None:
    clock = RoundClock(0, ClockOffset(), None)
    parts = clock.finish(10 * MS, verdict(5 * MS, 2_000, 1_000))
    assert (parts.uplink_s, parts.downlink_s, parts.clock_offset_ns, parts.num_sends) == (None, None, None, 0)
    assert (parts.round_s, parts.verify_s) == pytest.approx((0.010, 0.001))


@given(
    st.lists(
        st.tuples(*(st.integers(0, 50 * MS) for _ in range(7))),
        min_size=1,
        max_size=20,
    )
)
def test_the_parts_add_up_and_the_bound_covers_every_asymmetry(rounds: list[tuple[int, ...]]) -> None:
    clock, now = RoundClock(0, ClockOffset(), None), 0
    for rewind, draft, wait, up, queue, verify, down in rounds:
        begun = now
        clock.drafted(begun, begun + rewind, begun + rewind + draft)
        sent = begun + rewind + draft + wait
        clock.sent(sent, is_repeat=False)
        received = sent + up
        # The wire has whole microseconds, rounded down.
        residence_us, verify_us = (queue + verify) // 1000, verify // 1000
        now = received + queue + verify + down
        parts = clock.finish(now, verdict(received, residence_us, verify_us))
        assert parts.uplink_s is not None
        assert parts.downlink_s is not None
        assert parts.clock_bound_s is not None
        assert total(parts) == pytest.approx(parts.round_s, abs=1e-9)
        assert abs(parts.uplink_s - up / 1e9) <= parts.clock_bound_s + 1e-9
        assert abs(parts.downlink_s - down / 1e9) <= parts.clock_bound_s + 2e-6
        assert parts.rewind_s == pytest.approx(rewind / 1e9)
        assert parts.draft_wait_s == pytest.approx(draft / 1e9)
        assert parts.agent_queue_s == pytest.approx(wait / 1e9, abs=1e-12)


def test_a_round_in_which_a_clock_stepped_or_slept_is_marked_and_the_next_is_not() -> None:
    s = 1000 * MS
    played = iter(
        [
            Clocks(0, 0, 0),
            Clocks(1 * s, 1 * s, 1 * s),
            Clocks(2 * s, 2 * s, 9 * s),
            Clocks(3 * s, 33 * s, 40 * s),
            Clocks(4 * s, 34 * s, 41 * s),
        ]
    )
    clock = RoundClock(0, ClockOffset(), ClockWatch(lambda: next(played)))
    events = []
    for begun, after in pairwise(range(0, 50 * MS, 10 * MS)):
        clock.sent(begun, is_repeat=False)
        events.append(clock.finish(after, verdict(begun + MS, 1_000, 1_000)).clock_event)
    assert events == [None, "step", "suspend", None]


def test_a_coordinator_whose_clock_jumps_is_marked() -> None:
    clock = RoundClock(0, ClockOffset(), None)
    clock.sent(0, is_repeat=False)
    assert clock.finish(10 * MS, verdict(5 * MS, 1_000, 1_000)).clock_event is None
    clock.sent(11 * MS, is_repeat=False)
    assert clock.finish(20 * MS, verdict(15 * MS + 10**12, 1_000, 1_000)).clock_event == "offset"


def test_two_requests_of_an_agent_both_see_an_event() -> None:
    offset = ClockOffset()
    clocks = [RoundClock(0, offset, None) for _ in range(2)]
    for clock in clocks:
        clock.sent(0, is_repeat=False)
        assert clock.finish(10 * MS, verdict(5 * MS, 1_000, 1_000)).clock_event is None
    for clock in clocks:
        clock.sent(11 * MS, is_repeat=False)
        assert clock.finish(20 * MS, verdict(15 * MS + 10**12, 1_000, 1_000)).clock_event == "offset"
