"""Rejection verification keeps the target's distribution: enumerated, and on samples of both forms."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multispin_models.draft_distribution import TOTAL, DraftDistribution, payload_bits, quantize
from multispin_models.sampling import Sampling, choose, probabilities, uniform
from multispin_models.verification import (
    DRAFT,
    Verification,
    acceptance,
    choose_candidate,
    residual,
    residual_candidates,
    verify_lean,
    verify_rejection,
)

Array = npt.NDArray[np.float64]
N_VOCAB = 5
SAMPLES = 10_000
# The chance that a sound rule fails a test below is one in ten thousand: the quantile of chi-square for each number of
# degrees of freedom (R: qchisq(1 - 1e-4, df)).
CHI_SQUARE = {4: 23.51, 16: 45.92}


def distribution(seed: int, sharpness: float = 1.5) -> Array:
    weights = np.exp(np.random.default_rng(seed).standard_normal(N_VOCAB) * sharpness)
    return np.asarray(weights / weights.sum())


# -- the payload --


@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40).filter(lambda weights: sum(weights) > 1e-3),
    st.integers(1, 50),
)
def test_weights_sum_to_one_and_are_near_what_they_stand_for(raw: list[float], max_entries: int) -> None:
    whole = np.array(raw) / sum(raw)
    kept = quantize(whole, max_entries)
    assert sum(kept.weights) == TOTAL
    assert min(kept.weights) >= 1
    assert list(kept.token_ids) == sorted(set(kept.token_ids))
    assert len(kept.token_ids) <= max_entries
    head = np.sort(whole)[::-1][:max_entries].sum()
    for token, weight in zip(kept.token_ids, kept.weights, strict=True):
        assert abs(weight / TOTAL - whole[token] / head) <= 1 / TOTAL
        assert kept.weight(token) == weight


def test_what_is_drawn_has_the_weights_to_the_last_unit() -> None:
    kept = quantize(distribution(3), 3)
    drawn = [kept.draw((number + 0.5) / TOTAL) for number in range(TOTAL)]
    assert [drawn.count(token) for token in kept.token_ids] == list(kept.weights)
    assert [kept.weight(token) for token in range(-1, N_VOCAB + 1) if token not in kept.token_ids] == [0] * 4


def test_the_payload_is_the_papers() -> None:
    assert payload_bits(1024, 32_000) == 31_744
    assert payload_bits(1024, 248_000) == 34_816


@pytest.mark.parametrize("max_entries", [0, TOTAL + 1])
def test_a_number_of_entries_that_cannot_be_is_refused(max_entries: int) -> None:
    with pytest.raises(ValueError, match="max_entries is"):
        quantize(distribution(1), max_entries)


# -- the numbers --


def test_probabilities_are_what_choose_draws_from() -> None:
    logits = np.array([1.0, 2.0, 0.0, -1.0, 1.5], np.float32)
    for how in (Sampling(1.0), Sampling(0.7, top_k=3), Sampling(1.3, top_p=0.8)):
        counts = np.zeros(N_VOCAB)
        for position in range(2000):
            counts[choose(logits, position, Sampling(how.temperature, how.top_k, how.top_p, seed=5))] += 1
        whole = probabilities(logits, how)
        assert whole.sum() == pytest.approx(1.0)
        assert np.abs(counts / 2000 - whole).max() < 0.05  # over four standard errors
        assert (counts[whole == 0] == 0).all()
    assert probabilities(logits, Sampling()).tolist() == [0, 1, 0, 0, 0]


def test_uniform_numbers_are_uniform_and_apart() -> None:
    numbers = np.array([[uniform(seed, 3, purpose) for purpose in (1, 2, 3)] for seed in range(4000)])
    assert ((numbers > 0) & (numbers < 1)).all()
    assert np.abs(numbers.mean(axis=0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(numbers.T) - np.eye(3)).max() < 0.07
    assert uniform(1, 2, 3) == uniform(1, 2, 3) != uniform(1, 2, 3, 1)


# -- by enumeration --


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.integers(1, N_VOCAB), st.floats(0.1, 4.0))
def test_one_token_has_the_targets_distribution_whatever_the_draft(seed: int, entries: int, sharpness: float) -> None:
    p = distribution(seed, sharpness)
    q = quantize(distribution(seed + 1, sharpness), entries).probabilities(N_VOCAB)
    out = np.zeros(N_VOCAB)
    for token in np.flatnonzero(q):
        accepted = acceptance(p[token], q[token])
        out[token] += q[token] * accepted
        out += q[token] * (1 - accepted) * residual(p, q)
    assert np.abs(out - p).max() < 1e-12


def test_two_tokens_have_the_targets_joint_distribution() -> None:
    p1, p2 = distribution(1), [distribution(10 + token) for token in range(N_VOCAB)]
    q1 = quantize(distribution(2), 4).probabilities(N_VOCAB)
    q2 = [quantize(distribution(20 + token), 3).probabilities(N_VOCAB) for token in range(N_VOCAB)]
    joint = np.zeros((N_VOCAB, N_VOCAB))
    for first, second in itertools.product(range(N_VOCAB), range(N_VOCAB)):
        drafted = q1[first] * q2[first][second]
        if drafted == 0:
            continue
        keep = acceptance(p1[first], q1[first])
        keep_second = acceptance(p2[first][second], q2[first][second])
        joint[first, second] += drafted * keep * keep_second
        joint[first] += drafted * keep * (1 - keep_second) * residual(p2[first], q2[first])
        # Rejected at once: the next round begins after the replacement, and is exact by itself.
        joint += drafted * (1 - keep) * residual(p1, q1)[:, None] * np.array(p2)
    assert np.abs(joint - p1[:, None] * np.array(p2)).max() < 1e-12


def test_the_first_candidate_that_passes_has_the_residuals_distribution() -> None:
    p, q = distribution(1), quantize(distribution(2), 4)
    passing = p * np.maximum(0.0, 1 - q.probabilities(N_VOCAB) / p)
    assert np.abs(passing / passing.sum() - residual(p, q.probabilities(N_VOCAB))).max() < 1e-12


# -- on samples --


def chi_square(counts: Array, expected: Array) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


P = [distribution(1), distribution(3)]  # the target's, one by one: the second does not look at the first
Q = [quantize(distribution(2), 4), quantize(distribution(4), 3)]


def drafted_with(seed: int) -> list[int]:
    return [q.draw(uniform(seed, position, DRAFT)) for position, q in enumerate(Q)]


def rejection(seed: int) -> Verification:
    return verify_rejection(drafted_with(seed), Q, [*P, P[0]], seed, 0)


def lean(seed: int) -> Verification:
    drafted = drafted_with(seed)
    weights = [q.weight(token) for q, token in zip(Q, drafted, strict=True)]
    verdict = verify_lean(drafted, weights, [*P, P[0]], seed, 0)
    if verdict.next_token_id is not None:
        return Verification(verdict.num_accepted, verdict.next_token_id)
    row, first = verdict.num_accepted, 0
    while True:
        candidates = residual_candidates(P[row], seed, row, first, 2)
        taken = choose_candidate(candidates, Q[row], seed, row, first)
        if taken is not None:
            return Verification(row, candidates[taken].token_id)
        first += 2


@pytest.mark.parametrize("rule", [rejection, lean])
def test_samples_have_the_targets_distribution(rule: object) -> None:
    first, both, num_accepted = np.zeros(N_VOCAB), np.zeros((N_VOCAB, N_VOCAB)), 0
    for seed in range(SAMPLES):
        verdict = rule(seed)  # type: ignore[operator]
        text = [*drafted_with(seed)[: verdict.num_accepted], verdict.next_token_id]
        first[text[0]] += 1
        if len(text) > 1:
            both[text[0], text[1]] += 1
        num_accepted += verdict.num_accepted >= 1
    assert chi_square(first, P[0] * SAMPLES) < CHI_SQUARE[4]
    # What follows an accepted first token is the target's second, whatever the first was.
    accepted = both.sum(axis=1)
    assert np.count_nonzero(accepted) == 4
    both, accepted = both[accepted > 0], accepted[accepted > 0]
    assert chi_square(both, accepted[:, None] * P[1]) < CHI_SQUARE[16]
    overlap = np.minimum(P[0], Q[0].probabilities(N_VOCAB)).sum()
    assert num_accepted / SAMPLES == pytest.approx(overlap, abs=4 * 0.5 / SAMPLES**0.5)


def test_both_forms_accept_the_same_tokens_and_answer_again_alike() -> None:
    for seed in range(200):
        assert rejection(seed).num_accepted == lean(seed).num_accepted
        assert rejection(seed) == rejection(seed)


def test_an_agent_that_samples_before_it_truncates_is_found() -> None:
    """The hole that truncate-then-sample closes: drawn from the whole, uploaded as its head."""
    whole, head = distribution(2), quantize(distribution(2), 2)
    counts = np.zeros(N_VOCAB)
    for seed in range(SAMPLES):
        drafted = quantize(whole, N_VOCAB).draw(uniform(seed, 0, DRAFT))
        if head.weight(drafted) == 0:  # cannot even be said on the wire
            drafted = head.token_ids[0]
        verdict = verify_rejection([drafted], [head], [P[0], P[0]], seed, 0)
        counts[drafted if verdict.num_accepted else verdict.next_token_id] += 1
    assert chi_square(counts, P[0] * SAMPLES) > 5 * CHI_SQUARE[4]


def test_a_token_that_cannot_have_been_drawn_is_refused() -> None:
    outside = next(token for token in range(N_VOCAB) if Q[0].weight(token) == 0)
    with pytest.raises(ValueError, match=f"token {outside} of the draft has weight 0"):
        verify_rejection([outside], Q[:1], [P[0], P[0]], 1, 0)


def test_at_temperature_0_it_is_the_coupled_rule() -> None:
    sure = [np.eye(N_VOCAB)[token] for token in (2, 3, 1)]
    same = [DraftDistribution((token,), (TOTAL,)) for token in (2, 4)]
    assert verify_rejection([2, 4], same, sure, 9, 0) == Verification(1, 3)
    right = [DraftDistribution((token,), (TOTAL,)) for token in (2, 3)]
    assert verify_rejection([2, 3], right, sure, 9, 0) == Verification(2, 1)
