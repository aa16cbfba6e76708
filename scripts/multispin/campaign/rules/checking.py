"""All rules over a run: first the bytes, then the run's own files, then one cell after the other."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from multispin.campaign.rules import conditions, energy, enough, folder, planned, recorded
from multispin.campaign.rules.evidence import (
    CellEvidence,
    CellNote,
    RunEvidence,
    Thresholds,
    note_of,
    read_cell,
    read_run,
)
from multispin.campaign.rules.rule import CellRule, NotesRule, RunRule

__all__ = ["BYTE_RULES", "READING", "RULES", "Fault", "Verdict", "check_run"]

BYTE_RULES: Final = {101: folder.check_files, 102: folder.check_hashes, 103: folder.check_signature}
READING: Final = 106
RULES: Final[tuple[RunRule | CellRule | NotesRule, ...]] = (
    *folder.RULES,
    *planned.RULES,
    *recorded.RULES,
    *energy.RULES,
    *conditions.RULES,
    *enough.RULES,
)


class Fault(Struct, frozen=True, forbid_unknown_fields=True):
    """Something that does not hold.

    Attributes:
        rule: number.
        where: id of the cell; "" of the run.
        what: in words.
    """

    rule: int
    where: str
    what: str


class Verdict(Struct, frozen=True, forbid_unknown_fields=True):
    """What came of all rules.

    Attributes:
        rules: numbers of those that were applied.
        cells: that were looked at: those that count.
        faults: in the order of the rules; none for a run that counts.
    """

    rules: tuple[int, ...]
    cells: int
    faults: tuple[Fault, ...]


def check_run(path: Path, thresholds: Thresholds) -> Verdict:
    """Return what all rules say of a run; a rule that cannot be applied is a fault of that rule."""
    faults = list(_told(101, "", folder.check_files, path))
    faults += _told(102, "", folder.check_hashes, path)
    faults += _told(103, "", folder.check_signature, path, thresholds)
    numbers = (*BYTE_RULES, READING, *(rule.number for rule in RULES))
    evidence: list[RunEvidence] = []
    faults += _told(READING, "", _readable, path, thresholds, evidence)
    if not evidence:
        return Verdict(tuple(sorted(numbers)), 0, tuple(faults))
    [run] = evidence
    for rule in RULES:
        if isinstance(rule, RunRule):
            faults += _told(rule.number, "", rule.check, run)
    notes: list[CellNote] = []
    for cell in run.counted:
        cells: list[CellEvidence] = []
        faults += _told(READING, cell.cell_id, _readable_cell, run, cell, cells)
        for found in cells:
            for rule in RULES:
                if isinstance(rule, CellRule):
                    faults += _told(rule.number, cell.cell_id, rule.check, run, found)
            notes.append(note_of(found))
    for rule in RULES:
        if isinstance(rule, NotesRule):
            faults += _told(rule.number, "", rule.check, run, notes)
    faults.sort(key=lambda fault: fault.rule)
    return Verdict(tuple(sorted(numbers)), len(notes), tuple(faults))


def _readable(path: Path, thresholds: Thresholds, into: list[RunEvidence]) -> Iterator[str]:
    """Every file is what its name says: all fields there, none unknown, all in their ranges, schema of this version."""
    into.append(read_run(path, thresholds))
    yield from ()


def _readable_cell(run: RunEvidence, cell: Any, into: list[CellEvidence]) -> Iterator[str]:
    into.append(read_cell(run, cell))
    yield from ()


def _told(number: int, where: str, check: Callable[..., Iterator[str]], *evidence: Any) -> list[Fault]:
    faults: list[Fault] = []
    try:
        for what in check(*evidence):
            faults.append(Fault(number, where, what))  # noqa: PERF401 - what came before an error is kept
    except Exception as error:  # whatever a spoilt file provokes, it is told and does not pass
        faults.append(Fault(number, where, f"cannot be checked: {type(error).__name__}: {error}"))
    return faults
