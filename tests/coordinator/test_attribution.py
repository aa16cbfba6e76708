"""Joules of a pass, shared out by rows, to the last nanojoule."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin_coordinator.attribution import PassMeter, split_by_rows
from multispin_models.energy import MeterInfo, Rail, Reading
from multispin_models.energy.meter import Quantity
from multispin_models.errors import SensorError

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


class PlannedMeter:
    """Gives the readings that it was made with; None does not answer."""

    def __init__(self, quantity: Quantity, *readings: Reading | None) -> None:
        self.info = MeterInfo("planned", quantity, "socket", "measured", (Rail("package", True), Rail("core", False)))
        self._readings = list(readings)
        self.closed = False

    def read(self) -> Reading:
        reading = self._readings.pop(0)
        if reading is None:
            raise SensorError("no answer")
        return reading

    def close(self) -> None:
        self.closed = True


def shares(meter: PlannedMeter | None, rows: list[int]) -> list[int | None]:
    pass_meter = PassMeter(meter)
    return pass_meter.shares_nj(pass_meter.read(), rows)


def test_joules_counted_during_the_pass_are_shared() -> None:
    meter = PlannedMeter("energy", Reading(0, (5.0, 1.0)), Reading(10**9, (5.00000001, 9.0)))
    assert shares(meter, [1, 4]) == [2, 8]


def test_watts_at_both_ends_of_the_pass_become_joules() -> None:
    meter = PlannedMeter("power", Reading(0, (4.0, 0.0)), Reading(500_000_000, (6.0, 0.0)))
    assert shares(meter, [1]) == [2_500_000_000]


def test_without_a_meter_shares_are_null_and_never_0() -> None:
    assert shares(None, [1, 2]) == [None, None]


@pytest.mark.parametrize(
    "readings",
    [
        (None, Reading(1, (6.0, 0.0))),
        (Reading(0, (5.0, 0.0)), None),
        (Reading(0, (5.0, 0.0)), Reading(1, (None, 0.0))),
        (Reading(0, (5.0, 0.0)), Reading(1, (0.5, 0.0), segment=1)),
    ],
)
def test_a_pass_that_the_meter_did_not_see_whole_has_null_shares(readings: tuple[Reading | None, ...]) -> None:
    assert shares(PlannedMeter("energy", *readings), [1, 2]) == [None, None]


def test_a_meter_that_stops_answering_is_told_once_and_again_after_it_was_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pass_meter = PassMeter(PlannedMeter("energy", None, None, Reading(0, (1.0, 1.0)), None))
    with caplog.at_level(logging.WARNING):
        assert [pass_meter.read() is None for _ in range(4)] == [True, True, False, True]
    assert len(caplog.records) == 2


def test_a_pass_without_rows_has_no_shares() -> None:
    assert shares(PlannedMeter("energy", Reading(0, (5.0, 0.0))), []) == []


def test_closing_closes_the_meter() -> None:
    meter = PlannedMeter("energy")
    PassMeter(meter).close()
    PassMeter(None).close()
    assert meter.closed
