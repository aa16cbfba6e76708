"""Joules of a pass, shared out by rows, to the last nanojoule; and an account that closes."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.metered import CurveMeter, HandClock, S, sampled

from multispin_coordinator import attribution
from multispin_coordinator.attribution import PassMeter, split_by_rows
from multispin_models.energy import Sampler
from multispin_models.records import IdleBaseline

ROWS = st.lists(st.integers(1, 64), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("nanojoules", "rows", "shares"),
    [
        (10, [1, 2], [3, 7]),
        (10, [5], [10]),
        (0, [1, 2], [0, 0]),
        (100, [1, 1, 2], [25, 25, 50]),
        (2, [1, 1, 1], [2, 0, 0]),  # what is left over goes to the first of the largest
    ],
)
def test_shares_by_hand(nanojoules: int, rows: list[int], shares: list[int]) -> None:
    assert split_by_rows(nanojoules, rows) == shares


@given(nanojoules=st.integers(0, 10**12), rows=ROWS)
def test_shares_sum_to_the_pass_and_are_within_a_part_of_their_rows(nanojoules: int, rows: list[int]) -> None:
    shares = split_by_rows(nanojoules, rows)
    assert sum(shares) == nanojoules
    for share, count in zip(shares, rows, strict=True):
        assert share >= 0
        assert abs(share - nanojoules * count / sum(rows)) <= len(rows)


def a_pass(meter: PassMeter, clock: HandClock, length_s: float, rows: list[int], prefill: int = 0) -> list[int | None]:
    """Return the shares of a pass that lasts so long; the first `prefill` parts are of prompts."""
    begun_ns = meter.begin()
    clock.t_ns += round(length_s * S)
    return meter.shares_nj(begun_ns, rows, is_prefill=[index < prefill for index in range(len(rows))])


def test_joules_counted_during_the_pass_are_shared_and_those_between_are_nobodys() -> None:
    clock = HandClock()
    sampler, _ = sampled(clock, lambda t: 10.0 * t)  # 10 W
    meter = PassMeter(sampler, IdleBaseline(power_w=3.0, length_s=2.0), clock)
    clock.t_ns += S  # 10 J between
    assert a_pass(meter, clock, 0.5, [1, 4], prefill=1) == [1_000_000_000, 4_000_000_000]
    clock.t_ns += S // 2  # 5 J between
    record = meter.record("r")
    assert record is not None
    assert (record.energy_j, record.attributed_j, record.prefill_j, record.unattributed_j) == (20.0, 5.0, 1.0, 15.0)
    assert record.idle == IdleBaseline(power_w=3.0, length_s=2.0), "beside, and subtracted from nothing"


def test_watts_at_both_ends_of_the_pass_become_joules() -> None:
    clock = HandClock()
    sampler, _ = sampled(clock, lambda t: 4.0 + 4.0 * t, "power")
    assert a_pass(PassMeter(sampler, now_ns=clock), clock, 0.5, [1]) == [2_500_000_000]  # (4 + 6) / 2 for half a second


def test_what_came_before_the_start_is_no_part_of_the_account() -> None:
    clock = HandClock()
    sampler, _ = sampled(clock, lambda t: 10.0 * t)
    meter = PassMeter(sampler, now_ns=clock)
    clock.t_ns += 5 * S
    meter.start()
    clock.t_ns += S
    record = meter.record("r")
    assert record is not None
    assert (record.energy_j, record.unattributed_j) == (10.0, 10.0)


@pytest.mark.parametrize("seed", range(5))
def test_all_requests_and_the_time_between_sum_to_the_run_within_a_billionth(seed: int) -> None:
    chance = random.Random(seed)
    clock = HandClock()
    sampler, _ = sampled(clock, lambda t: 7.3 * t + 0.1 * math.sin(t), "energy" if seed % 2 else "power")
    meter = PassMeter(sampler, now_ns=clock)
    requests: dict[int, int] = {}
    passes: list[int] = []
    for _ in range(400):
        clock.t_ns += round(chance.expovariate(200) * S)
        rows = [chance.randint(1, 64) for _ in range(chance.randint(1, 8))]
        shares = a_pass(meter, clock, chance.uniform(0.005, 0.05), rows, prefill=chance.randint(0, 2))
        passes.append(sum(share or 0 for share in shares))
        for share in shares:
            assert share is not None
            request = chance.randrange(20)
            requests[request] = requests.get(request, 0) + share
    record = meter.record("r")
    assert record is not None
    assert record.energy_j is not None
    assert record.attributed_j is not None
    assert record.unattributed_j is not None
    assert sum(requests.values()) == sum(passes)
    assert sum(requests.values()) / 1e9 == pytest.approx(record.attributed_j, rel=1e-12)
    assert record.attributed_j + record.unattributed_j == pytest.approx(record.energy_j, rel=1e-9)
    assert record.unattributed_j > 0.0


def test_an_idle_hour_is_settled_before_the_sampler_forgets_it() -> None:
    clock = HandClock()
    sampler = Sampler(CurveMeter(clock, lambda t: 10.0 * t), hz=1.0, capacity=128)
    meter = PassMeter(sampler, now_ns=clock)
    meter.start()
    for _ in range(10):
        for _ in range(60):
            clock.t_ns += S
            sampler.read_now()
        meter.settle()
    assert a_pass(meter, clock, 0.5, [3, 1]) == [pytest.approx(3.75e9), pytest.approx(1.25e9)]
    record = meter.record("r")
    assert record is not None
    assert (record.energy_j, record.attributed_j) == (pytest.approx(6005.0), pytest.approx(5.0))
    assert record.unattributed_j == pytest.approx(6000.0)


def test_a_pass_is_not_settled_in_its_middle() -> None:
    clock = HandClock()
    sampler, _ = sampled(clock, lambda t: 10.0 * t)
    meter = PassMeter(sampler, now_ns=clock)
    meter.start()
    begun_ns = meter.begin()
    clock.t_ns += S
    meter.settle()
    clock.t_ns += S
    assert meter.shares_nj(begun_ns, [1], is_prefill=[False]) == [20 * S]


def test_without_a_meter_shares_are_null_and_never_0() -> None:
    meter = PassMeter(None)
    assert meter.shares_nj(meter.begin(), [1, 2], is_prefill=[False, False]) == [None, None]
    assert (meter.record("r"), meter.label) == (None, None)


def test_a_pass_that_the_meter_did_not_see_whole_has_null_shares_and_the_account_says_so() -> None:
    clock = HandClock()
    sampler, _ = sampled(clock, lambda t: 10.0 * t if t < 1.0 or t > 5.0 else None, "power")
    meter = PassMeter(sampler, now_ns=clock)
    assert a_pass(meter, clock, 0.5, [1]) != [None]
    clock.t_ns += S
    assert a_pass(meter, clock, 0.5, [1, 2]) == [None, None]
    clock.t_ns = 6 * S
    record = meter.record("r")
    assert record is not None
    assert (record.energy_j, record.attributed_j, record.unattributed_j) == (None, None, None)
    assert record.reason


def test_a_slow_sensor_holds_up_no_pass_and_counts_for_the_run_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attribution, "QUICK_NS", -1)
    clock = HandClock()
    sampler, _ = sampled(clock, lambda t: 10.0 * t)
    meter = PassMeter(sampler, now_ns=clock)
    assert "slow" in caplog.text
    assert a_pass(meter, clock, 0.5, [1]) == [None]
    record = meter.record("r")
    assert record is not None
    assert (record.energy_j, record.attributed_j) == (5.0, None)


def test_a_pass_without_rows_has_no_shares() -> None:
    clock = HandClock()
    sampler, _ = sampled(clock, lambda t: 10.0 * t)
    assert a_pass(PassMeter(sampler, now_ns=clock), clock, 0.5, []) == []


def test_closing_closes_the_meter() -> None:
    sampler, device = sampled(HandClock(), lambda t: t)
    PassMeter(sampler).close()
    PassMeter(None).close()
    assert device.closed
