"""The joules of a batch reach its requests without a bit lost."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin_models.energy import Sampler
from multispin_models.energy.replay import ReplayMeter
from multispin_models.energy.split import split_energy

S = 1_000_000_000
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


def test_shares_of_all_batches_sum_to_the_run(tmp_path: Path) -> None:
    now_ns = 0
    recording = tmp_path / "power.csv"
    recording.write_text("t_s,power_w\n0,2.0\n0.7,9.5\n1.3,3.25\n2.0,2.0\n")
    sampler = Sampler(ReplayMeter(recording, loop=True, clock=lambda: now_ns), hz=40.0)
    for now_ns in range(0, 10 * S, S // 40):  # noqa: B007 - the meter's clock
        sampler.read_now()
    edges = [0, *range(37_000_000, 9 * S, 61_000_000), 9 * S]  # batches back to back, most within two samples
    parts: list[float] = []
    for number, (t0_ns, t1_ns) in enumerate(pairwise(edges)):
        joules = sampler.joules(t0_ns, t1_ns, min_samples=0).joules
        assert joules is not None
        parts += split_energy(joules, {1: 5, 2: 1 + number % 4, 3: number % 2}).values()
    run = sampler.joules(0, 9 * S).joules
    assert run is not None
    assert math.fsum(parts) == pytest.approx(run, rel=1e-12)
    # Four loops of 9.6875 J and a second of the fifth, 6.40625 J; the corners of the line fall between samples.
    assert run == pytest.approx(4 * 9.6875 + 6.40625, rel=1e-3)
