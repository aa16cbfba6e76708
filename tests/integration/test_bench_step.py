"""`multispin bench step`: modes, settling and the picture, on hand-made rounds."""

import xml.etree.ElementTree as ET

import pytest
from tests.integration.test_bench_cooperate import made

from multispin.bench.load_step import draw, look_at, modes_of
from multispin_models.records import RoundRecord

PERIOD_MS = 100


def rounds(agent: str, begin_ms: int, *kinds: int) -> list[RoundRecord]:
    """Return rounds one after the other, with so many drafted tokens each, all accepted; they arrive 10 ms later."""
    return [
        made(agent, begin_ms + PERIOD_MS * place, num_draft_tokens=drafted, num_accepted=drafted)
        for place, drafted in enumerate(kinds)
    ]


def test_a_mode_is_three_rounds_of_a_kind_and_an_empty_draft_between_is_none() -> None:
    own = rounds("a", 0, 2, 2, 2, 0, 2, 0, 0, 2, 0, 0, 0, 2, 2, 2)
    assert [(round(mode.since_s, 3), mode.is_alone) for mode in modes_of(own)] == [
        (0.01, False),
        (0.81, True),
        (1.11, False),
    ]


def test_a_phase_has_settled_with_the_last_change_of_a_mode() -> None:
    steady = rounds("a", 0, *[2] * 30)
    changing = rounds("b", 0, *[2] * 8, *[0] * 22)
    phase = look_at([*steady, *changing], 0.5, 2.5, 2)
    assert (phase.changes, phase.settled_s) == (1, pytest.approx(0.31))
    # From 0.81 to 2.5 s: 17 rounds of 3 tokens, and 17 of one.
    assert phase.goodput_tokens_per_s == pytest.approx(17 * 4 / 1.69)
    assert phase.alone_share == pytest.approx(1 / 4)
    assert look_at(steady, 0.5, 2.5, 1).settled_s == 0.0


def test_the_picture_is_an_svg_with_a_point_for_every_half_second_and_a_line_for_every_step() -> None:
    picture = ET.fromstring(draw(rounds("a", 0, *[2] * 30), [0.0, 1.0, 3.0], "toy"))
    lines = picture.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [6, 6]
    assert len(picture.findall("{http://www.w3.org/2000/svg}line")) == 3
