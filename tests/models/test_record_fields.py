"""What is written of records is what they are; and what `check` finds wrong with them."""

from pathlib import Path

import msgspec
import pytest
from tests.models.test_records import a_round, energy, request

from multispin_models.records import AnyRecord, GapRecord
from multispin_models.records.checking import check_records
from multispin_models.records.fields import describe_fields, documented_structs, records_document

DOCUMENT = Path(__file__).parents[2] / "models/docs/records.md"


def test_the_document_is_what_the_code_says() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == records_document(), (
        "multispin records fields > models/docs/records.md writes it anew"
    )


@pytest.mark.parametrize("struct", documented_structs(), ids=lambda struct: struct.__name__)
def test_every_field_is_described(struct: type[msgspec.Struct]) -> None:
    assert [name for name, meaning in describe_fields(struct).items() if not meaning] == []


class _Sample(msgspec.Struct):
    """A struct.

    Attributes:
        a, b: the same: both,
            on two lines.
        length_s: 1 | 2.
    """

    a: int
    b: int
    length_s: float
    unknown: str = ""


def test_fields_that_share_a_line_and_lines_that_go_on() -> None:
    assert describe_fields(_Sample) == {
        "a": "the same: both, on two lines.",
        "b": "the same: both, on two lines.",
        "length_s": "1 \\| 2.",
        "unknown": "",
    }


ROUNDS = [a_round(round=number, is_open=number == 0) for number in range(4)]


def test_records_that_fit_have_no_problem() -> None:
    assert list(check_records([request(), *ROUNDS, energy("a", 1.0)])) == []


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ([request(), *ROUNDS, ROUNDS[2]], r"rounds \[2\] are there more than once"),
        ([request(), *ROUNDS[:3]], "counts 3 rounds, 2 are there, and no gap"),
        ([energy("a", None)], "no joules and no reason"),
        ([msgspec.structs.replace(energy("a", 3.0), attributed_j=1.0, unattributed_j=1.9)], "its parts sum to 2.9"),
        ([a_round(uplink_s=0.1)], "without its bound"),
        (
            [
                a_round(
                    **dict.fromkeys(("draft_wait_s", "rewind_s", "agent_queue_s", "uplink_s", "downlink_s"), 0.01),
                    coordinator_queue_s=0.0,
                    clock_bound_s=0.001,
                    verify_s=0.01,
                    round_s=0.07,
                )
            ],
            r"lasts 0.07 s, its parts 0.06",
        ),
        (
            [
                request(energy_coordinator_j=4.0),
                *(msgspec.structs.replace(r, energy_coordinator_j=0.5) for r in ROUNDS),
            ],
            "has energy_coordinator_j 4.0, its rounds sum to 2.0",
        ),
    ],
)
def test_what_does_not_fit_is_told(records: list[AnyRecord], problem: str) -> None:
    problems = list(check_records(records))
    assert len(problems) >= 1
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(problems)


def test_a_recorded_gap_explains_rounds_that_are_missing() -> None:
    gap = GapRecord(run_id="r", agent_id="a", num_dropped=1, reason="full")
    assert list(check_records([request(), *ROUNDS[:3], gap])) == []
