"""The choice of a token: the right distribution, the same on every box, and never from a broken model."""

import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from multispin_models.sampling import Sampling, choose, choose_weighed, gumbel_noise, truncate

SEEDS = st.integers(0, 2**64 - 1)
# Most logits from a few values, so that ties are common.
LOGITS = st.one_of(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-30, 30, width=32)),
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([0.0, 1.0, 1.5, 8.0, -float("inf")])).filter(
        lambda logits: bool(np.isfinite(logits).any())
    ),
)


def softmax(logits: npt.NDArray[np.float32], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    weights = np.exp((logits.astype(np.float64) - float(logits.max())) / temperature)
    result: npt.NDArray[np.float64] = weights / weights.sum()
    return result


def naive_truncate(logits: npt.NDArray[np.float32], sampling: Sampling) -> set[int]:
    """Sort everything, keep k, then the shortest head whose probability reaches p."""
    order = sorted(range(len(logits)), key=lambda v: (-logits[v], v))[: sampling.top_k or None]
    weights = [math.exp((float(logits[v]) - float(logits[order[0]])) / sampling.temperature) for v in order]
    kept: set[int] = set()
    reached = 0.0
    for token, weight in zip(order, weights, strict=True):
        kept.add(token)
        reached += weight
        if reached >= sampling.top_p * math.fsum(weights):
            break
    return kept if sampling.top_p < 1.0 else set(order)


def choose_from_all(logits: npt.NDArray[np.float32], position: int, sampling: Sampling) -> int:
    """Score every id, without leaving out those that cannot win."""
    noise = gumbel_noise(sampling.seed, position, range(len(logits)))
    return int(np.argmax((logits.astype(np.float64) - float(logits.max())) / sampling.temperature + noise))


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_temperature_0_takes_the_largest_logit_at_every_position_and_seed() -> None:
    logits = np.array([0.0, 3.0, 1.0], np.float32)
    assert {choose(logits, p, Sampling(seed=s)) for p in range(20) for s in range(20)} == {1}


def test_the_largest_of_two_equal_logits_is_the_lower_id() -> None:
    assert choose(np.array([1.0, 5.0, 2.0, 5.0], np.float32), 3, Sampling()) == 1


def test_top_k_of_equal_logits_keeps_the_lower_ids() -> None:
    logits = np.array([1.0, 2.0, 2.0, 2.0, 0.0], np.float32)
    assert truncate(logits, Sampling(1.0, top_k=2)).tolist() == [1, 2]
    assert {choose(logits, p, Sampling(1.0, top_k=2, seed=9)) for p in range(200)} == {1, 2}


def test_top_p_keeps_the_shortest_head_that_reaches_p() -> None:
    logits = np.log(np.array([0.1, 0.5, 0.15, 0.25])).astype(np.float32)
    kept = {p: truncate(logits, Sampling(1.0, top_p=p)).tolist() for p in (0.4, 0.49, 0.51, 0.74, 0.76, 0.89, 0.91)}
    assert kept == {
        0.4: [1],
        0.49: [1],
        0.51: [1, 3],
        0.74: [1, 3],
        0.76: [1, 3, 2],
        0.89: [1, 3, 2],
        0.91: [1, 3, 2, 0],
    }


def test_top_p_counts_the_probability_of_what_top_k_left() -> None:
    logits = np.log(np.array([0.4, 0.4, 0.2])).astype(np.float32)
    assert truncate(logits, Sampling(1.0, top_k=2, top_p=0.45)).tolist() == [0]  # 0.4 of 0.8
    assert truncate(logits, Sampling(1.0, top_p=0.45)).tolist() == [0, 1]


def test_the_choice_is_the_largest_logit_over_temperature_plus_noise() -> None:
    logits = np.array([0.0, 1.0], np.float32)
    for position in range(100):
        a, b = gumbel_noise(5, position, [0, 1])
        assert choose(logits, position, Sampling(0.5, seed=5)) == int(2.0 + b > a)


def test_the_noise_never_changes_from_one_version_to_the_next() -> None:
    # Both ends must have the very same noise: a change here is a new PROTOCOL_VERSION.
    # The counters in plain integers, written by hand from the module's description.
    mask = 2**64 - 1

    def mix(x: int) -> int:
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
        return x ^ x >> 31

    def bits(key: int, token: int) -> int:
        x = (token * 0x9E3779B9 + key) & 0xFFFFFFFF
        x ^= x >> 16
        x = x * 0x21F0AAAD & 0xFFFFFFFF
        x ^= key >> 32
        x ^= x >> 15
        x = x * 0xD35A2D97 & 0xFFFFFFFF
        return x ^ x >> 15

    golden = 0x9E3779B97F4A7C15
    for seed, position, token in [(0, 0, 0), (7, 3, 49151), (2**64 - 1, 2047, 2**24 - 1)]:
        stream = mix((mix((seed + golden) & mask) + (position + 1) * golden) & mask)
        uniform = (bits(stream, token) * 2**20 + (bits(mix(stream ^ golden), token) >> 12) + 0.5) / 2**52
        assert gumbel_noise(seed, position, [token])[0] == pytest.approx(-math.log(-math.log(uniform)), rel=1e-14)


# -- properties --------------------------------------------------------------------------------------------------------


@given(seed=SEEDS, position=st.integers(0, 10**6), ids=st.lists(st.integers(0, 2**24 - 1), min_size=1, unique=True))
def test_the_noise_of_an_id_does_not_depend_on_the_others_asked_for(seed: int, position: int, ids: list[int]) -> None:
    together = gumbel_noise(seed, position, ids)
    assert [gumbel_noise(seed, position, [token])[0] for token in ids] == together.tolist()
    assert gumbel_noise(seed, position, ids[::-1]).tolist() == together[::-1].tolist()
    assert np.isfinite(together).all()


@settings(max_examples=1000, deadline=None)
@given(
    logits=LOGITS,
    temperature=st.floats(0.01, 100.0),
    top_k=st.integers(0, 50),
    top_p=st.sampled_from([0.001, 0.3, 0.9, 0.999, 0.9999999, 1.0]),
)
def test_truncation_keeps_what_sorting_everything_keeps(
    logits: npt.NDArray[np.float32], temperature: float, top_k: int, top_p: float
) -> None:
    sampling = Sampling(temperature, top_k, top_p)
    kept, expected = truncate(logits, sampling), naive_truncate(logits, sampling)
    if set(kept.tolist()) != expected:
        # Two orders of adding up may part only where a sum meets p to the last bits: then by one id.
        probabilities = softmax(logits, temperature)[sorted(expected | set(kept.tolist()))]
        assert len(expected ^ set(kept.tolist())) == 1
        assert min(abs(np.cumsum(sorted(probabilities)[::-1]) / probabilities.sum() - top_p)) < 1e-9


@settings(max_examples=1000, deadline=None)
@given(
    shape=LOGITS,
    scale=st.sampled_from([0.01, 1.0, 30.0, 1e4]),
    temperature=st.sampled_from([1e-3, 0.1, 0.8, 1.0, 5.0, 100.0]),
    seed=SEEDS,
    position=st.integers(0, 4096),
)
def test_leaving_out_ids_that_cannot_win_changes_no_choice(
    shape: npt.NDArray[np.float32], scale: float, temperature: float, seed: int, position: int
) -> None:
    logits = shape * np.float32(scale)
    sampling = Sampling(temperature, seed=seed)
    assert choose(logits, position, sampling) == choose_from_all(logits, position, sampling)


def test_leaving_out_ids_that_cannot_win_changes_no_choice_over_a_whole_vocabulary() -> None:
    rng = np.random.default_rng(1)
    for position in range(100):
        logits = (rng.standard_normal(49152) * rng.choice([0.1, 2.0, 10.0])).astype(np.float32)
        sampling = Sampling(float(rng.choice([0.3, 1.0, 3.0])), seed=position)
        assert choose(logits, position, sampling) == choose_from_all(logits, position, sampling)


@given(logits=LOGITS, seed=SEEDS, temperature=st.sampled_from([5e-324, 1e-300, 1e-40]))
def test_a_tiny_temperature_is_greedy(logits: npt.NDArray[np.float32], seed: int, temperature: float) -> None:
    gap = np.sort(logits)[-2:]
    if len(gap) == 2 and gap[0] == gap[1]:
        return  # equal ones share the draw
    assert choose(logits, 0, Sampling(temperature, seed=seed)) == int(np.argmax(logits))


@given(
    logits=LOGITS, seed=SEEDS, position=st.integers(0, 4096), sampling=st.sampled_from([(0.0,), (0.8,), (1, 5, 0.9)])
)
def test_equal_logits_at_both_ends_choose_the_same_token(
    logits: npt.NDArray[np.float32], seed: int, position: int, sampling: tuple[float, ...]
) -> None:
    drawn = Sampling(*sampling, seed=seed)  # type: ignore[arg-type]
    assert choose(logits, position, drawn) == choose(logits.copy(), position, drawn)


# -- distribution ------------------------------------------------------------------------------------------------------

# With fixed seeds these are deterministic. Thresholds: chi-square of 7 degrees of freedom at p = 0.0001 is 29.9.
CHI_SQUARE_7 = 29.9
DRAWS = 20_000


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.5), Sampling(2.0, top_k=8, top_p=1.0)])
def test_over_positions_tokens_are_drawn_as_often_as_softmax_says(sampling: Sampling) -> None:
    logits = np.random.default_rng(3).standard_normal(8).astype(np.float32)
    counts = Counter(choose(logits, position, sampling) for position in range(DRAWS))
    assert chi_square(counts, softmax(logits, sampling.temperature)) < CHI_SQUARE_7


def test_over_seeds_tokens_are_drawn_as_often_as_softmax_says() -> None:
    logits = np.random.default_rng(4).standard_normal(8).astype(np.float32)
    counts = Counter(choose(logits, 17, Sampling(1.0, seed=seed)) for seed in range(DRAWS))
    assert chi_square(counts, softmax(logits)) < CHI_SQUARE_7


def test_what_one_position_draws_says_nothing_about_the_next() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2])).astype(np.float32)
    drawn = [choose(logits, position, Sampling(1.0, seed=2)) for position in range(DRAWS)]
    counts = Counter(first * 3 + second for first, second in zip(drawn[::2], drawn[1::2], strict=True))
    expected = np.outer([0.5, 0.3, 0.2], [0.5, 0.3, 0.2]).ravel()
    assert chi_square(counts, expected) < 31.8  # 8 degrees of freedom, p = 0.0001


def test_the_noise_has_the_mean_and_the_spread_of_gumbels_distribution() -> None:
    noise = gumbel_noise(11, 5, range(200_000))
    assert noise.mean() == pytest.approx(0.5772, abs=4 * 1.2825 / math.sqrt(200_000))  # 4 standard errors
    assert noise.std() == pytest.approx(math.pi / math.sqrt(6), abs=0.02)


def chi_square(counts: Counter[int], probabilities: npt.NDArray[np.float64]) -> float:
    total = sum(counts.values())
    return sum((counts[v] - total * p) ** 2 / (total * p) for v, p in enumerate(probabilities))


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_draft_and_target_agree_at_least_as_often_as_the_coupling_promises(noise: float) -> None:
    # Daliri et al., arXiv 2408.07978, Theorem 3: P(equal) >= (1 - TV) / (1 + TV). 4 standard errors of slack.
    rng = np.random.default_rng(6)
    target = rng.standard_normal(12).astype(np.float32)
    draft = target + (rng.standard_normal(12) * noise).astype(np.float32)
    distance = float(np.abs(softmax(target) - softmax(draft)).sum()) / 2
    assert 0.05 < distance < 0.95
    equal = [choose(target, p, Sampling(1.0)) == choose(draft, p, Sampling(1.0)) for p in range(4000)]
    promised = (1 - distance) / (1 + distance)
    assert sum(equal) / 4000 >= promised - 4 * math.sqrt(promised * (1 - promised) / 4000)
    assert sum(equal) / 4000 <= 1 - distance + 4 * math.sqrt(
        distance * (1 - distance) / 4000
    )  # no coupling does better


# -- broken models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [[0.0, math.nan], [math.nan, 9.0], [0.0, math.inf], [-math.inf, -math.inf]])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0), Sampling(1.0, top_k=1), Sampling(1.0, top_p=0.5)])
def test_logits_that_are_no_numbers_are_never_a_token(broken: list[float], sampling: Sampling) -> None:
    with pytest.raises(ValueError, match="the model is broken"):
        choose(np.array(broken, np.float32), 0, sampling)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0), Sampling(1.0, top_k=3), Sampling(1.0, top_p=0.99)])
def test_an_id_that_the_model_forbids_is_never_drawn(sampling: Sampling) -> None:
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0], np.float32)
    assert {choose(logits, position, sampling) for position in range(200)} <= {1, 3}


@pytest.mark.parametrize(
    "arguments",
    [{"seed": 2**64}, {"temperature": math.nan}, {"top_p": math.nan}],
)
def test_sampling_that_msgspec_cannot_bound_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"allowed are|not NaN"):
        Sampling(**arguments)  # type: ignore[arg-type]


@given(
    logits=LOGITS,
    sampling=st.builds(
        Sampling, st.sampled_from([0.0, 0.3, 1.0, 2.0]), st.sampled_from([0, 3]), st.sampled_from([1.0, 0.8]), SEEDS
    ),
    position=st.integers(0, 1000),
)
def test_weighing_a_choice_does_not_change_it(
    logits: npt.NDArray[np.float32], sampling: Sampling, position: int
) -> None:
    before = logits.copy()
    token, probability, margin = choose_weighed(logits, position, sampling)
    assert token == choose(logits, position, sampling)
    assert probability == pytest.approx(softmax(logits, sampling.temperature or 1.0)[token], rel=1e-4, abs=1e-30)
    assert 0.0 <= margin <= 20.0
    np.testing.assert_array_equal(logits, before)


def test_the_margin_is_that_of_what_decides() -> None:
    logits = np.array([0.0, 3.0, 1.0, 2.5], np.float32)
    assert choose_weighed(logits, 7, Sampling()).margin == 0.5
    for seed in range(20):
        sampling = Sampling(temperature=2.0, seed=seed)
        scores = np.sort(logits / 2.0 + gumbel_noise(seed, 7, range(4)))
        found = choose_weighed(logits, 7, sampling).margin
        assert found == pytest.approx(scores[-1] - scores[-2]) or found >= 0.25  # one able to win: of the logits alone
    assert choose_weighed(np.array([4.0], np.float32), 0, Sampling()) == (0, 1.0, 20.0)
    with pytest.raises(ValueError, match="the model is broken"):
        choose_weighed(np.array([1.0, np.nan], np.float32), 0, Sampling())
