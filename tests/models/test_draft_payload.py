"""Payloads of the rejection rules: packing and reading are inverses, sizes are the paper's, the rest is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multispin_models.draft_distribution import TOTAL, DraftDistribution, payload_bits, quantize
from multispin_models.draft_payload import (
    pack_candidates,
    pack_distributions,
    pack_weights,
    unpack_candidates,
    unpack_distributions,
    unpack_weights,
)
from multispin_models.errors import WireError
from multispin_models.verification import Candidate

N_VOCAB = 3000


def distribution(seed: int, entries: int) -> DraftDistribution:
    weights = np.random.default_rng(seed).exponential(size=N_VOCAB)
    return quantize(weights / weights.sum(), entries)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32), st.integers(1, 1500)), max_size=4))
def test_reading_distributions_undoes_packing_them(drawn: list[tuple[int, int]]) -> None:
    distributions = tuple(distribution(seed, entries) for seed, entries in drawn)
    assert unpack_distributions(pack_distributions(distributions), len(drawn), N_VOCAB) == distributions


@given(st.lists(st.integers(1, TOTAL), max_size=64))
def test_reading_weights_undoes_packing_them(weights: list[int]) -> None:
    assert list(unpack_weights(pack_weights(weights), len(weights))) == weights


@given(st.lists(st.tuples(st.integers(0, 2**24 - 1), st.floats(2.0**-100, 1.0, width=32)), min_size=1, max_size=16))
def test_reading_candidates_undoes_packing_them(drawn: list[tuple[int, float]]) -> None:
    candidates = tuple(Candidate(*each) for each in drawn)
    assert unpack_candidates(pack_candidates(candidates)) == candidates


def test_a_distribution_takes_the_papers_bits_and_three_bytes() -> None:
    packed = pack_distributions([DraftDistribution(tuple(range(30_976, 32_000)), (64,) * 1024)])
    assert 8 * (len(packed) - 3) == payload_bits(1024, 32_000) == 31_744


GOOD = pack_distributions([distribution(1, 5), distribution(2, 7)])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_is_read_of_damaged_bytes_is_a_distribution_or_an_error(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, 8 * len(GOOD) - 1))
    damaged = bytearray(GOOD[: data.draw(st.integers(at // 8 + 1, len(GOOD)))])
    damaged[at // 8] ^= 1 << at % 8
    try:
        found = unpack_distributions(bytes(damaged), 2, N_VOCAB)
    except WireError:
        return
    for each in found:
        assert sum(each.weights) == TOTAL
        assert list(each.token_ids) == sorted(set(each.token_ids))
        assert each.token_ids[-1] < N_VOCAB


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (GOOD[:2], "ends after 0 of 2"),
        (GOOD + b"\x00", "1 bytes after the last"),
        (b"\xff\xff\x10" + b"\x00" * 99, "distribution 0 has 65536 entries"),
        (b"\x00\x00\x19" + b"\x00" * 99, "ids of 25 bits"),
        (b"\x00\x00\x00" + b"\x00" * 99, "ids of 0 bits"),
        (pack_distributions([DraftDistribution((5,), (TOTAL - 1,))] * 2), "sum to 65535"),
        (pack_distributions([DraftDistribution((5, 5), (1, TOTAL - 1))] * 2), "do not rise"),
        (pack_distributions([DraftDistribution((N_VOCAB,), (TOTAL,))] * 2), "above 2999"),
    ],
)
def test_what_is_no_distribution_is_refused(payload: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        unpack_distributions(payload, 2, N_VOCAB)


@pytest.mark.parametrize(
    "payload", [b"", b"\x00" * 8, b"\x00\x00\x01\x7f\xc0\x00\x00", b"\x00\x00\x01\x00\x00\x00\x00"]
)
def test_what_is_no_candidate_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError, match="candidate"):
        unpack_candidates(payload)


def test_weights_of_another_number_are_refused() -> None:
    with pytest.raises(WireError, match="2 drafted tokens have 4"):
        unpack_weights(b"\x00\x00", 2)
