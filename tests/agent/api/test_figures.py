"""Figures of a request, worked out by hand."""

from multispin_agent.api.figures import course_of, energy_of
from multispin_agent.recording import AgentEnergy
from multispin_agent.request import Finished, RoundTiming
from multispin_models.api.figures import metrics_of, timings_of
from multispin_models.messages import Verdict

MS = 1_000_000


def a_round(num_drafted: int, num_accepted: int, *, is_open: bool = False, energy_nj: int | None = None) -> RoundTiming:
    verdict = Verdict(1, 0, num_accepted, 9, 0, 0, 0, 0, 1, energy_nj)
    return RoundTiming(is_open, verdict, num_drafted, 0, 0.0, 0.0, None, 0, 0, [])


def finished(*rounds: RoundTiming) -> Finished:
    """Ten tokens, the first after 200 ms, the last after 650 ms."""
    return Finished(
        token_ids=list(range(10)),
        finish="length",
        started_ns=1000 * MS,
        first_token_ns=1200 * MS,
        ended_ns=1650 * MS,
        rounds=list(rounds),
    )


ROUNDS = (a_round(0, 0, is_open=True), a_round(4, 4), a_round(4, 2), a_round(4, 0), a_round(0, 0))


def test_timings_are_those_of_the_first_and_the_last_token() -> None:
    timings = timings_of(course_of(finished(*ROUNDS), 40))
    assert (timings.prompt_n, timings.prompt_ms, timings.prompt_per_token_ms) == (40, 200.0, 5.0)
    assert timings.prompt_per_second == 200.0
    assert (timings.predicted_n, timings.predicted_ms, timings.predicted_per_token_ms) == (10, 450.0, 45.0)
    assert (timings.draft_n, timings.draft_n_accepted) == (12, 6)


def test_a_text_of_one_instant_has_no_rate() -> None:
    done = Finished(token_ids=[1], started_ns=MS, first_token_ns=MS, ended_ns=MS)
    assert timings_of(course_of(done, 1)).predicted_per_second is None
    assert metrics_of(course_of(done, 1), num_spec_tokens=4, queued_s=0.0, detail="summary").mean_itl_ms is None


def test_acceptance_counts_the_rounds_that_had_a_draft() -> None:
    metrics = metrics_of(course_of(finished(*ROUNDS), 40), num_spec_tokens=4, queued_s=0.5, detail="detailed")
    assert (metrics.time_to_first_token_ms, metrics.generation_time_ms, metrics.queue_time_ms) == (200.0, 450.0, 500.0)
    assert metrics.mean_itl_ms == 50.0
    decoding = metrics.speculative_decoding
    assert decoding.mean_acceptance_length == 3.0
    assert decoding.draft_acceptance_rate == 0.5
    assert decoding.acceptance_histogram == (1, 0, 1, 0, 1)
    assert (decoding.num_spec_steps, decoding.num_accepted_draft_tokens, decoding.num_draft_tokens) == (3, 6, 12)
    assert (decoding.per_step_accepted, decoding.per_step_drafted) == ((4, 2, 0), (4, 4, 4))


def test_without_a_draft_there_is_no_acceptance() -> None:
    decoding = metrics_of(
        course_of(finished(ROUNDS[0]), 40), num_spec_tokens=0, queued_s=0, detail="summary"
    ).speculative_decoding
    assert (decoding.mean_acceptance_length, decoding.draft_acceptance_rate) == (None, None)
    assert decoding.acceptance_histogram == ()


def test_joules_come_with_their_label_or_with_the_reason_why_there_are_none() -> None:
    share = AgentEnergy(2.5, (1.5, 1.0), "measured", None)
    known = energy_of(
        finished(a_round(4, 1, energy_nj=300_000_000), a_round(4, 1, energy_nj=200_000_000)), share, "modelled"
    )
    assert (known.agent.joules, known.agent.label, known.agent.reason) == (2.5, "measured", None)
    assert (known.coordinator.joules, known.coordinator.label, known.coordinator.reason) == (0.5, "modelled", None)
    unknown = energy_of(finished(*ROUNDS), "no sensor")
    assert (unknown.agent.joules, unknown.agent.label, unknown.agent.reason) == (None, None, "no sensor")
    assert (unknown.coordinator.joules, unknown.coordinator.label) == (None, None)
    assert "no meter" in str(unknown.coordinator.reason)


def test_joules_that_the_samples_do_not_carry_have_no_label() -> None:
    energy = energy_of(finished(*ROUNDS), AgentEnergy(None, (), "measured", "a gap"))
    assert (energy.agent.joules, energy.agent.label, energy.agent.reason) == (None, None, "a gap")
