"""Writes the folder of a cell: beside the others, on the disk, then renamed, so that it is there whole or not."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec
from msgspec import Struct

from multispin.bench.cooperate_protocol import Answer
from multispin.campaign.asking import Told
from multispin.campaign.cell_files import CellClock, CellEnergy, ClockBound, ConditionsRow, EnergyWindow, ExternalHeader
from multispin.campaign.folder import (
    CELLS,
    CLOCK,
    CONDITIONS,
    ENERGY,
    HEADER,
    LOG,
    REQUESTS,
    ROUNDS,
    Cell,
)
from multispin.campaign.hashing import cell_digest
from multispin.campaign.meter import window_of_record
from multispin.campaign.tables import conditions_row, write_table
from multispin_models.records import RequestRecord, RoundRecord, RunHeader

__all__ = ["CellContent", "clear_unfinished", "write_cell"]


class CellContent(NamedTuple):
    """What a cell left.

    Attributes:
        header: of the run.
        told: by its processes.
        tasks: by prompt.
        due_s: when jobs came, by id; empty where users asked when served.
        requests_per_user: asked by each.
        is_queued: a box's users wait for each other (the draft model alone).
        elsewhere: agents on other machines.
        conditions: of the driver's machine.
        energy: likewise.
        log: what was said meanwhile.
    """

    header: RunHeader | ExternalHeader
    told: Told
    tasks: Mapping[str, str]
    due_s: Mapping[str, float]
    requests_per_user: int
    is_queued: bool
    elsewhere: frozenset[str]
    conditions: Sequence[ConditionsRow]
    energy: Sequence[EnergyWindow]
    log: bytes


class _Row(NamedTuple):
    """A request with what its record does not hold."""

    record: RequestRecord
    arrival_s: float
    waited_s: float


def write_cell(run: Path, campaign_id: str, cell: Cell, content: CellContent) -> str:
    """Write a cell's folder; return its digest.

    Raises:
        OSError: the disk takes no more; nothing is there then.
    """
    new = run / CELLS / f".{cell.cell_id}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    told = content.told
    keys: dict[str, str | int] = {
        "campaign_id": campaign_id,
        "cell_id": cell.cell_id,
        "block": cell.block,
        "device": cell.device,
        "arm": cell.arm,
    }
    _write_json(new / HEADER, content.header)
    rows = _rows(cell, content)
    write_table(
        new / REQUESTS,
        RequestRecord,
        [row.record for row in rows],
        keys,
        factors=cell.factors,
        more={
            "task": (str, [content.tasks.get(row.record.id, "") for row in rows]),
            "arrival_s": (float, [row.arrival_s for row in rows]),
            "waited_s": (float, [row.waited_s for row in rows]),
            "quality_nll": (float, [told.quality_nll.get(row.record.id) for row in rows]),
        },
    )
    rounds = [record for answer in told.answers for record in answer.rounds]
    if rounds:
        write_table(new / ROUNDS, RoundRecord, rounds, keys, factors=cell.factors)
    conditions = [*content.conditions, *_conditions_elsewhere(content)]
    write_table(new / CONDITIONS, ConditionsRow, conditions, keys)
    _write_json(new / ENERGY, CellEnergy(cell_id=cell.cell_id, windows=(*content.energy, *_own_windows(told))))
    _write_json(new / CLOCK, CellClock(cell_id=cell.cell_id, agents=_clocks(told, content.elsewhere)))
    (new / LOG).write_bytes(content.log)
    digest = cell_digest(new)
    for path in (*new.iterdir(), new):
        _sync(path)
    new.rename(run / CELLS / cell.cell_id)
    _sync(run / CELLS)
    return digest


def clear_unfinished(run: Path) -> None:
    """Remove what a driver that was killed has left of a cell."""
    for path in (run / CELLS).glob(".*.new"):
        shutil.rmtree(path)


def _rows(cell: Cell, content: CellContent) -> list[_Row]:
    """Return all requests, each with when it came and how long it waited to be begun."""
    told = content.told
    begun_ns = {record.id: told.begun_ns for record in told.requests}
    begun_ns |= {record.id: answer.begun_ns for answer in told.answers for record in answer.requests}
    records = [*told.requests, *(record for answer in told.answers for record in answer.requests)]
    by_id = {record.id: record for record in records}
    place = {name: index for index, name in enumerate(cell.prompt_ids)}
    found = []
    for record in sorted(records, key=lambda each: place[each.id]):
        begun = begun_ns[record.id]
        started_s = (record.started_ns - begun) / 1e9
        arrival_s = content.due_s.get(record.id, started_s)
        if content.is_queued and not content.due_s:
            index = place[record.id]
            is_first = index % content.requests_per_user == 0
            before = None if is_first else by_id.get(cell.prompt_ids[index - 1])
            arrival_s = 0.0 if before is None else (before.ended_ns - begun) / 1e9
        found.append(_Row(record, arrival_s, max(0.0, started_s - arrival_s)))
    return found


def _conditions_elsewhere(content: CellContent) -> list[ConditionsRow]:
    return [
        conditions_row(record.end, record.conditions) for answer in content.told.answers for record in answer.conditions
    ]


def _own_windows(told: Told) -> list[EnergyWindow]:
    """Return what agents with meters of their own have counted."""
    found = []
    for answer in told.answers:
        if answer.meter.meter is not None:
            if answer.idle is not None:
                found.append(window_of_record("idle", answer.idle, answer.meter))
            if answer.energy is not None:
                found.append(window_of_record("run", answer.energy, answer.meter))
    return found


def _clocks(told: Told, elsewhere: frozenset[str]) -> tuple[ClockBound, ...]:
    return tuple(_clock(answer, elsewhere) for answer in told.answers)


def _clock(answer: Answer, elsewhere: frozenset[str]) -> ClockBound:
    agent_id = answer.meter.end.removeprefix("agent:")
    bounds = [record.clock_bound_s for record in answer.rounds if record.clock_bound_s is not None]
    return ClockBound(
        agent_id=agent_id,
        is_same_machine=agent_id not in elsewhere,
        rounds=len(bounds),
        bound_s_median=median(bounds) if bounds else None,
        bound_s_largest=max(bounds, default=None),
        clock_events=sum(record.clock_event is not None for record in answer.rounds),
    )


def _write_json(path: Path, what: Struct) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(what), indent=1) + b"\n")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
