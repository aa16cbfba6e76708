"""What a rule is."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from multispin.campaign.rules.evidence import CellEvidence, CellNote, RunEvidence

__all__ = ["CellRule", "NotesRule", "RunRule"]


class RunRule(NamedTuple):
    """A rule over a run's own files; its check yields a fault each, its docstring is the rule in words."""

    number: int
    check: Callable[[RunEvidence], Iterator[str]]


class CellRule(NamedTuple):
    """A rule over every cell that counts."""

    number: int
    check: Callable[[RunEvidence, CellEvidence], Iterator[str]]


class NotesRule(NamedTuple):
    """A rule over all cells that count, seen together."""

    number: int
    check: Callable[[RunEvidence, Sequence[CellNote]], Iterator[str]]
