"""What rules look at: the files of a run, and the tables of one cell at a time, so that a run may be of any size."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow.parquet as pq
from msgspec import Struct

from multispin.campaign.folder import (
    CELLS,
    CONDITIONS,
    KEY_COLUMNS,
    PLAN,
    REQUEST_COLUMNS,
    REQUESTS,
    ROUNDS,
    Campaign,
    Cell,
    CellClock,
    CellEnergy,
    ConditionsRow,
    Event,
    ExternalHeader,
    FolderError,
    Schedule,
    completed_cells,
    excluded_cells,
    factor_column,
    read_campaign,
    read_clock,
    read_energy,
    read_events,
    read_header,
    read_schedule,
)
from multispin.campaign.plan import Arm, External, LocalDraft
from multispin.campaign.plan_file import PlanFile, read_plan
from multispin.campaign.tables import FACTOR_KINDS
from multispin_models.records import RequestRecord, RoundRecord, RunHeader

__all__ = ["CellEvidence", "CellNote", "RunEvidence", "Thresholds", "note_of", "read_cell", "read_run"]


class Thresholds(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The limits of the rules that have one.

    Attributes:
        min_blocks: of every device, arm and setting.
        min_rate: samples a second, as a share of what was asked for and the sensor can.
        max_gap_s: without a sample.
        min_coverage: share of a window between samples.
        max_power_drop: by which a run may draw less than its own idle window.
        max_clock_bound_s: of clocks of two machines, the median round of a cell.
        max_clock_events: share of a cell's rounds.
        max_excluded: share of the scheduled cells, of any arm.
        public_key: hex, that must have signed; null takes any.
    """

    min_blocks: int = 5
    min_rate: float = 0.8
    max_gap_s: float = 1.0
    min_coverage: float = 0.99
    max_power_drop: float = 0.05
    max_clock_bound_s: float = 0.01
    max_clock_events: float = 0.01
    max_excluded: float = 0.2
    public_key: str | None = None


class RunEvidence(NamedTuple):
    """A run's own files, read. `excluded` is the reason by cell."""

    path: Path
    plan: PlanFile
    schedule: Schedule
    campaign: Campaign
    events: list[Event]
    completed: list[str]
    excluded: dict[str, str]
    thresholds: Thresholds

    @property
    def cells(self) -> list[Cell]:
        """What this folder had to run: the cells of its devices."""
        return [cell for cell in self.schedule.cells if cell.device in self.campaign.devices]

    @property
    def counted(self) -> list[Cell]:
        """What is there and not excluded, in its order."""
        there = set(self.completed) - self.excluded.keys()
        return [cell for cell in self.cells if cell.cell_id in there]

    def arm(self, cell: Cell) -> Arm:
        """Return what the plan says of a cell's arm."""
        return next(arm for arm in self.plan.plan.arms if arm.name == cell.arm)


class CellEvidence(NamedTuple):
    """All of a cell; `keys` are the distinct values of its key and factor columns by table and column."""

    cell: Cell
    arm: Arm
    header: RunHeader | ExternalHeader
    requests: list[RequestRecord]
    extras: list[dict[str, Any]]
    rounds: list[RoundRecord]
    conditions: list[ConditionsRow]
    energy: CellEnergy
    clock: CellClock
    keys: dict[str, dict[str, set[Any]]]

    @property
    def is_target_text(self) -> bool:
        """Whether its texts must be those of the target."""
        return not isinstance(self.arm, LocalDraft | External)


class CellNote(NamedTuple):
    """What is remembered of a cell when the next one is looked at.

    Attributes:
        texts: by prompt; empty where they are not the target's.
    """

    cell: Cell
    header: RunHeader | ExternalHeader
    texts: dict[str, tuple[int, ...]]
    energy: CellEnergy
    governors: frozenset[str]


def read_run(path: Path, thresholds: Thresholds) -> RunEvidence:
    """Return a run's own files.

    Raises:
        MultispinError: one of them is not there or is none.
    """
    return RunEvidence(
        path=path,
        plan=read_plan(path / PLAN, path),
        schedule=read_schedule(path),
        campaign=read_campaign(path),
        events=read_events(path),
        completed=completed_cells(path),
        excluded=excluded_cells(path),
        thresholds=thresholds,
    )


def read_cell(run: RunEvidence, cell: Cell) -> CellEvidence:
    """Return all of a cell.

    Raises:
        MultispinError, OSError, ValueError: a file is not there or is none.
    """
    folder = run.path / CELLS / cell.cell_id
    requests, extras, keys = _table(folder / REQUESTS, RequestRecord, REQUEST_COLUMNS, with_factors=True)
    all_keys = {REQUESTS: keys}
    rounds: list[RoundRecord] = []
    if (folder / ROUNDS).exists():
        rounds, _, all_keys[ROUNDS] = _table(folder / ROUNDS, RoundRecord, (), with_factors=True)
    conditions, _, all_keys[CONDITIONS] = _table(folder / CONDITIONS, ConditionsRow, (), with_factors=False)
    return CellEvidence(
        cell=cell,
        arm=run.arm(cell),
        header=read_header(run.path, cell.cell_id),
        requests=requests,
        extras=extras,
        rounds=rounds,
        conditions=conditions,
        energy=read_energy(run.path, cell.cell_id),
        clock=read_clock(run.path, cell.cell_id),
        keys=all_keys,
    )


def note_of(found: CellEvidence) -> CellNote:
    """Return what is remembered of a cell."""
    texts = {request.id: request.token_ids for request in found.requests} if found.is_target_text else {}
    governors = frozenset(row.governor for row in found.conditions if row.governor is not None)
    return CellNote(found.cell, found.header, texts, found.energy, governors)


def _table(
    path: Path, kind: type[Any], more: tuple[str, ...], *, with_factors: bool
) -> tuple[list[Any], list[dict[str, Any]], dict[str, set[Any]]]:
    """Return the records of a table, the further columns of each row, and the values of its key columns."""
    table = pq.read_table(path)
    factors = tuple(map(factor_column, FACTOR_KINDS)) if with_factors else ()
    own = kind.__struct_fields__
    wanted = {*KEY_COLUMNS, *own, *more, *factors}
    if set(table.column_names) != wanted:
        lacks, has = sorted(wanted - set(table.column_names)), sorted(set(table.column_names) - wanted)
        raise FolderError(f"{path} lacks the columns {lacks} and has {has} besides")
    rows = table.to_pylist()
    try:
        records = [msgspec.convert({name: row[name] for name in own}, kind) for row in rows]
    except msgspec.ValidationError as error:
        raise FolderError(f"{path} has a row that is no {kind.__name__}: {error}") from error
    keys = {name: set(table.column(name).unique().to_pylist()) for name in (*KEY_COLUMNS, *factors)}
    return records, [{name: row[name] for name in more} for row in rows], keys
