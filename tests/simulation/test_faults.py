"""The invariant in virtual time: the text is the target's own, whatever is lost, repeated, late, or dies."""

import functools
import os
import subprocess
import sys

import msgspec
import pytest

import multispin_coordinator.verifier
from multispin.simulate import faults
from multispin.simulate.fault_setting import FaultyRun, FaultySetting, draw_setting
from multispin.simulate.faults import run_faulty
from multispin.simulate.scenario import Link
from multispin.simulate.toy_model import ToyModel
from multispin_models.verification import Verification, verify_coupled

SEEDS = range(1_000_000, 1_000_024)  # not those that the documents tell of


def sound(setting: FaultySetting) -> FaultySetting:
    """Return a setting in which nothing fails."""
    return msgspec.structs.replace(
        setting,
        links=(Link(delay_s=0.01),) * setting.num_agents,
        engine_fault=0.0,
        agent_death=0.0,
        coordinator_death=0.0,
        hang_up=0.0,
    )


@functools.cache
def run_of(seed: int) -> FaultyRun:
    return run_faulty(draw_setting(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_text_is_the_targets_whatever_fails(seed: int) -> None:
    assert run_of(seed).problems == ()


def test_what_can_fail_does() -> None:
    runs = [run_of(seed) for seed in SEEDS]
    for name in ("num_agent_deaths", "num_coordinator_deaths", "num_hang_ups", "num_engine_faults"):
        assert sum(getattr(run, name) for run in runs), name


def test_two_signs_of_life_at_once_do_not_make_an_agent_spin() -> None:
    assert run_of(6967).problems == ()  # it did not end


@pytest.mark.parametrize("seed", [1188, 2346, 5256])
def test_a_copy_of_an_open_that_comes_after_the_end_begins_no_round_again(seed: int) -> None:
    assert run_of(seed).problems == ()  # another text, and sessions that were left


@pytest.mark.parametrize("seed", SEEDS[:6])
def test_the_text_is_the_targets_on_a_sound_network(seed: int) -> None:
    setting = sound(draw_setting(seed))
    run = run_faulty(setting)
    assert run.problems == ()
    assert run.num_texts == 2 * setting.num_agents * setting.users
    assert (run.num_agent_deaths, run.num_coordinator_deaths, run.num_hang_ups, run.num_engine_faults) == (0, 0, 0, 0)


def test_every_policy_is_among_them() -> None:
    assert {draw_setting(seed).policy for seed in SEEDS} == {"fixed", "price", "exact", "erratic"}


def test_a_seed_gives_the_same_run_again() -> None:
    assert run_faulty(draw_setting(SEEDS[3])) == run_of(SEEDS[3])
    assert run_of(SEEDS[4]).digest != run_of(SEEDS[3]).digest


def test_a_seed_gives_the_same_run_in_another_process() -> None:
    # Kills two requests of an agent at once: the order of a set would differ from process to process.
    command = [sys.executable, "-m", "multispin", "simulate", "--faulty-runs", "2", "--first-seed", "102", "--json"]
    done = subprocess.run(
        command, capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}, timeout=60
    )
    elsewhere = [msgspec.json.decode(line, type=FaultyRun) for line in done.stdout.splitlines()]
    assert elsewhere == [run_of(102), run_of(103)]


def first_problem() -> str:
    """Return the first problem that any of a few seeds has, or nothing."""
    found = (problem for seed in SEEDS for problem in run_faulty(draw_setting(seed)).problems)
    return next(found, "")


def test_a_wrong_verdict_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def errs(draft: list[int], target: list[int]) -> Verification:
        right = verify_coupled(draft, target)
        return Verification(right.num_accepted, right.next_token_id ^ (right.num_accepted == 2))

    monkeypatch.setattr(multispin_coordinator.verifier, "verify_coupled", errs)
    assert "the target's is" in first_problem()


def test_a_cache_that_holds_rejected_tokens_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def keeps_the_last(model: ToyModel, sequence: int, length: int) -> None:
        tokens = model._sequences[sequence]
        del tokens[: len(tokens) - length]  # as many as are asked for, the rejected ones among them

    monkeypatch.setattr(ToyModel, "rewind", keeps_the_last)
    assert "the target's is" in first_problem()


def test_a_request_that_takes_for_ever_is_found_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = msgspec.structs.replace(sound(draw_setting(SEEDS[0])), num_agents=1, users=1, links=(Link(delay_s=3.0),))
    assert run_faulty(setting).problems == ()
    monkeypatch.setattr(faults, "STUCK_S", 1.0)
    assert run_faulty(setting).problems == ("1 users are stuck after 1 virtual seconds",)
