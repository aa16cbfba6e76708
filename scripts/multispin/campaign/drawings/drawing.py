"""What a figure is, and what several of them need to know of a run."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from multispin.campaign.drawings.style import COLOURS, MARKERS, STYLES
from multispin.campaign.measured import Measured

__all__ = ["Drawing", "Look", "Table", "energy_words", "look_of", "whole"]


class Table(NamedTuple):
    """The numbers of a figure.

    Attributes:
        columns: with units.
        rows: of numbers and texts; None where there is none.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


class Drawing(NamedTuple):
    """A figure.

    Attributes:
        name: of its files, without an ending.
        title: what it shows.
        caption: what has to be said of it, with n.
        alternative: for who cannot see it: what is to be seen.
        table: its numbers.
        svg, png: the picture; empty where there is nothing to be drawn, and the caption says why.
    """

    name: str
    title: str
    caption: str
    alternative: str
    table: Table
    svg: bytes = b""
    png: bytes = b""


class Look(NamedTuple):
    """How an arm is drawn, in every figure alike."""

    colour: str
    marker: str
    style: str


def look_of(run: Measured, arm: str) -> Look:
    """Return how an arm is drawn."""
    place = list(run.arms).index(arm)
    return Look(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], STYLES[place % len(STYLES)])


def energy_words(run: Measured) -> tuple[str, str]:
    """Return the label of a run's joules in brackets, for an axis, and in a sentence, for a caption."""
    labels = sorted({each.energy_label for each in run.cells if each.energy_label is not None})
    if not labels:
        reasons = sorted({each.energy_reason for each in run.cells if each.energy_reason})
        return "not known", f"No joules: {'; '.join(reasons)}."
    said = {
        "measured": "Energy is measured.",
        "calibrated": "Energy is of a sensor that was fitted to an external meter (calibrated).",
        "modelled": "Energy is MODELLED: a guess from the processor's time, no sensor saw it.",
        "replayed": "Energy is REPLAYED: joules of a recording of another machine, not of this run.",
    }
    return " and ".join(labels), " ".join(said[label] for label in labels)


def whole(numbers: Sequence[int]) -> str:
    """Return a count, or its range, in words.

    >>> whole([5, 5]), whole([3, 7])
    ('5', '3 to 7')
    """
    low, high = min(numbers, default=0), max(numbers, default=0)
    return str(low) if low == high else f"{low} to {high}"
