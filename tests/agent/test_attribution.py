"""The joules of a box, shared by the requests that are open: by hand, and summing to the window whatever overlaps."""

import math
import random

import pytest
from tests.metered import CurveMeter, HandClock, S, sampled

from multispin_agent.attribution import BoxEnergy
from multispin_agent.recording import request_energy
from multispin_agent.request import Finished, RoundTiming
from multispin_models.energy import Sampler
from multispin_models.messages import Verdict
from multispin_models.records import IdleBaseline


def wait_until(t_s: int, clock: HandClock, sampler: Sampler) -> None:
    """Let time pass, with a sample every quarter of a second."""
    while clock.t_ns < t_s * S:
        clock.t_ns += S // 4
        sampler.read_now()


def test_two_requests_that_overlap_share_what_they_overlap_in() -> None:
    clock = HandClock()
    sampler, _ = sampled(clock, lambda t: 10.0 * t)
    box = BoxEnergy(sampler, IdleBaseline(power_w=2.0, length_s=1.0), clock)
    box.start()
    wait_until(1, clock, sampler)
    first = box.opened()
    wait_until(2, clock, sampler)
    second = box.opened()
    wait_until(4, clock, sampler)
    first_end = box.ended()
    # 10 J alone, 20 J shared by two; then 10 J alone for the second.
    assert box.joules(first, first_end).joules == pytest.approx(20.0)
    wait_until(5, clock, sampler)
    second_end = box.ended()
    assert box.joules(second, second_end).joules == pytest.approx(20.0)
    for share in (20.0, 20.0):
        box.add_share(share)
    wait_until(7, clock, sampler)
    record = box.record("r", "a")
    assert (record.end, record.energy_j, record.attributed_j) == ("agent:a", pytest.approx(70.0), 40.0)
    assert record.unattributed_j == pytest.approx(30.0)  # before the first, and after the second
    assert record.idle == IdleBaseline(power_w=2.0, length_s=1.0)


def test_an_account_that_is_settled_every_minute_outlives_the_memory_of_the_sampler() -> None:
    clock = HandClock()
    sampler = Sampler(CurveMeter(clock, lambda t: 10.0 * t), hz=1.0, capacity=128)
    box = BoxEnergy(sampler, None, clock)
    sampler.read_now()
    clock.t_ns += 60 * S
    box.settle()
    box.start()  # the minute before is no part of it
    for minute in range(2, 12):
        opened = box.opened() if minute == 6 else None
        while clock.t_ns < minute * 60 * S:
            clock.t_ns += S
            sampler.read_now()
        if opened is not None:
            box.add_share(box.joules(opened, box.ended()).joules)
        box.settle()
    record = box.record("r", "a")
    assert record.energy_j == pytest.approx(6000.0)
    assert (record.attributed_j, record.unattributed_j) == (pytest.approx(600.0), pytest.approx(5400.0))
    assert record.coverage == 1.0


def a_round(received_ns: int) -> RoundTiming:
    return RoundTiming(False, Verdict(1, 0, 1, 9, 0, 0, 0, 0, 1), 4, 0, 0.0, 0.0, None, 0, 0, [], None, received_ns)


@pytest.mark.parametrize("seed", range(6))
def test_rounds_sum_to_requests_and_requests_to_the_run_within_a_billionth(seed: int) -> None:
    chance = random.Random(seed)
    clock = HandClock()
    sampler, _ = (
        sampled(clock, lambda t: 5.0 + 3.0 * math.sin(t), "power")
        if seed % 2
        else sampled(clock, lambda t: 5.0 * t + math.sin(t))
    )
    box = BoxEnergy(sampler, now_ns=clock)
    box.start()
    running: list[Finished] = []
    shares: list[float] = []
    for _ in range(300):
        clock.t_ns += round(chance.uniform(0.0, 0.3) * S)
        sampler.read_now()
        what = chance.random()
        if what < 0.3 and len(running) < 4:
            running.append(Finished(started_ns=box.opened()))
        elif what < 0.8 and running:
            chance.choice(running).rounds.append(a_round(clock.t_ns))
        elif running:
            finished = running.pop(chance.randrange(len(running)))
            energy = request_energy(box, finished, box.ended())
            assert energy.joules is not None
            shares.append(energy.joules)
            if finished.rounds:
                rounds = [share for share in energy.rounds if share is not None]
                assert len(rounds) == len(finished.rounds)
                assert math.fsum(rounds) == pytest.approx(energy.joules, rel=1e-9, abs=1e-12)
    while running:
        shares.append(request_energy(box, running.pop(), box.ended()).joules or 0.0)
    record = box.record("r", "a")
    assert record.energy_j is not None
    assert record.attributed_j is not None
    assert record.unattributed_j is not None
    assert len(shares) > 20
    assert record.attributed_j == pytest.approx(math.fsum(shares), rel=1e-12)
    assert record.attributed_j + record.unattributed_j == pytest.approx(record.energy_j, rel=1e-9)


def test_a_window_that_the_samples_do_not_carry_is_null_with_a_reason() -> None:
    clock = HandClock()
    sampler, _ = sampled(clock, lambda t: None if 1.0 < t < 9.0 else 5.0, "power")
    box = BoxEnergy(sampler, now_ns=clock)
    box.start()
    started = box.opened()
    clock.t_ns = 5 * S
    finished = Finished(started_ns=started, rounds=[a_round(2 * S), a_round(4 * S)])
    energy = request_energy(box, finished, box.ended())
    assert (energy.joules, energy.rounds) == (None, [None, None])
    assert energy.reason
    clock.t_ns = 10 * S
    record = box.record("r", "a")
    assert (record.attributed_j, record.energy_j) == (None, None)
