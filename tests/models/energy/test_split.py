"""The joules of a batch reach its requests without a bit lost."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin_models.energy.split import split_energy

ROWS = st.dictionaries(st.integers(0, 2**64 - 1), st.integers(0, 4096), min_size=1).filter(lambda d: any(d.values()))


@given(st.floats(0.0, 1e300), ROWS)
def test_the_shares_sum_exactly_to_the_batch_in_any_order(joules: float, rows: dict[int, int]) -> None:
    shares = split_energy(joules, rows)
    assert list(shares) == list(rows)
    assert math.fsum(shares.values()) == joules
    assert sum(shares.values()) == joules
    assert sum(reversed(shares.values())) == joules


@given(st.floats(1e-9, 1e9), ROWS)
def test_a_share_is_in_proportion_to_its_rows(joules: float, rows: dict[int, int]) -> None:
    shares = split_energy(joules, rows)
    for request, num_rows in rows.items():
        exact = joules * num_rows / sum(rows.values())
        assert abs(shares[request] - exact) <= len(rows) * math.ulp(joules) + math.ulp(exact)


def test_a_request_without_rows_pays_nothing() -> None:
    assert split_energy(1.0, {1: 0, 2: 5}) == {1: 0.0, 2: 1.0}


@pytest.mark.parametrize(
    ("joules", "rows"),
    [(-1.0, {1: 1}), (math.nan, {1: 1}), (math.inf, {1: 1}), (1.0, {}), (1.0, {1: 0}), (1.0, {1: -1, 2: 3})],
)
def test_what_cannot_be_split_is_an_error(joules: float, rows: dict[int, int]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        split_energy(joules, rows)
