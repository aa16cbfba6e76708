"""The folder of a run of a campaign: its files by name, and what stands in each. Readers and writers share this module.

    RUN/
      plan.toml            the plan as it was given, byte for byte
      schedule.json        `Schedule`: every cell in its order
      campaign.json        `Campaign`: who, where, with what; of a merged folder, those of all its parts
      journal.jsonl        `Event`, a line each: appended and synced, never rewritten
      cells/CELL_ID/       there whole or not at all (written beside, then renamed)
        header.json        `RunHeader`; of an external arm `ExternalHeader`
        requests.parquet   a row a `RequestRecord`, and `KEY_COLUMNS`, `REQUEST_COLUMNS`, a column factor_NAME a factor
        rounds.parquet     a row a `RoundRecord`, and the same keys and factors; absent where an arm has no rounds
        conditions.parquet a row a `ConditionsRow`, and `KEY_COLUMNS`
        energy.json        `CellEnergy`
        clock.json         `CellClock`
        log.txt            what the processes said
      hashes.txt           "sha256  path" a line, of every file but these two, sorted by path; `sha256sum -c` reads it
      hashes.sig           `Signature` over the bytes of hashes.txt

A factor that does not concern an arm (a link, for a draft model that writes by itself) is absent from its cells'
`factors` and null in the tables: such a cell is compared with those of every level.

Cells of one `text_key` were asked the same prompts with the same draws: where their verification is "coupled" their
texts must be the same, whatever the arm, the link or the number of users. Ids of requests are those of the prompts.
"""

from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from multispin.campaign.cell_files import (
    SCHEMA_VERSION,
    CellClock,
    CellEnergy,
    ClockBound,
    ConditionsRow,
    EnergyLabel,
    EnergyWindow,
    ExternalHeader,
)
from multispin_models.clock_watch import ClockSync
from multispin_models.errors import MultispinError
from multispin_models.language_model import ModelInfo
from multispin_models.records import Machine, RunHeader, read_jsonl

__all__ = [
    "CAMPAIGN",
    "CELLS",
    "CLOCK",
    "CONDITIONS",
    "ENERGY",
    "HASHES",
    "HEADER",
    "JOURNAL",
    "KEY_COLUMNS",
    "LOG",
    "PLAN",
    "REQUESTS",
    "REQUEST_COLUMNS",
    "ROUNDS",
    "SCHEDULE",
    "SCHEMA_VERSION",
    "SIGNATURE",
    "Campaign",
    "Cell",
    "CellClock",
    "CellEnergy",
    "ClockBound",
    "ConditionsRow",
    "EnergyLabel",
    "EnergyWindow",
    "Event",
    "EventName",
    "ExternalHeader",
    "FactorValue",
    "FolderError",
    "Schedule",
    "Signature",
    "completed_cells",
    "excluded_cells",
    "factor_column",
    "read_campaign",
    "read_clock",
    "read_energy",
    "read_events",
    "read_header",
    "read_schedule",
]

PLAN: Final = "plan.toml"
SCHEDULE: Final = "schedule.json"
CAMPAIGN: Final = "campaign.json"
JOURNAL: Final = "journal.jsonl"
CELLS: Final = "cells"
HASHES: Final = "hashes.txt"
SIGNATURE: Final = "hashes.sig"
HEADER: Final = "header.json"
REQUESTS: Final = "requests.parquet"
ROUNDS: Final = "rounds.parquet"
CONDITIONS: Final = "conditions.parquet"
ENERGY: Final = "energy.json"
CLOCK: Final = "clock.json"
LOG: Final = "log.txt"

KEY_COLUMNS: Final = ("campaign_id", "cell_id", "block", "device", "arm")
"""In every table: text, text, integer, text, text."""

REQUEST_COLUMNS: Final = ("task", "arrival_s", "waited_s", "quality_nll")
"""In requests.parquet besides: the prompt's category; when it came, in seconds after the first user could have come;
how long it then waited until it was begun (its `ttft_s` does not hold this); and, of arms whose text is not the
target's, the mean negative log-likelihood of a token under the target, in nats, null elsewhere."""

FactorValue = int | float | str
_Kind = TypeVar("_Kind", bound=Struct)
EventName = Literal[
    "campaign-started",  # the folder was made
    "resumed",  # the driver was called again
    "cell-started",
    "cell-completed",  # its folder is there; `sha256` is `hashing.cell_digest` of it
    "cell-failed",  # an attempt; `reason`
    "cell-excluded",  # completed, or never to be run; `reason`
    "cool-down",  # `seconds` waited before a cell; `reason` says for what
    "limit-passed",  # a temperature, a throttling: in a cell that is kept; `reason`
    "stopped",  # the stopping rule was met; `reason`
    "ended",  # the driver ended; `reason` says whether all is done
]


class FolderError(MultispinError):
    """A run's folder that is not what it should be; names the file."""


class Cell(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing to be run.

    Attributes:
        cell_id: its folder's name: block, place and arm, as "b03-017-price".
        block: from 0; a block holds every combination once for each device.
        device: the agents that take part.
        order: place in the whole schedule, from 0.
        group: cells of one number, which follow each other, share processes (the coordinator's, the agents').
        arm: name.
        factors: value by name, those that concern the arm.
        seed: of the draws, `sampling.Sampling`; the same for all cells of a text_key.
        text_key: what its texts depend on besides the target: block, task, temperature.
        prompt_ids: asked, user after user: the first `requests_per_user` are the first user's.
    """

    cell_id: str
    block: Annotated[int, Meta(ge=0)]
    device: str
    order: Annotated[int, Meta(ge=0)]
    group: Annotated[int, Meta(ge=0)]
    arm: str
    factors: dict[str, FactorValue]
    seed: Annotated[int, Meta(ge=0)]
    text_key: str
    prompt_ids: tuple[str, ...]


class Schedule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All cells in the order in which they are run; a function of the plan alone.

    Attributes:
        plan_sha256: of plan.toml.
        seed: of the plan.
        factors: levels of every factor.
        cells: by `order`.
    """

    schema_version: int = SCHEMA_VERSION
    plan_sha256: str
    seed: int
    factors: dict[str, tuple[FactorValue, ...]]
    cells: tuple[Cell, ...]


class Campaign(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who ran it, where and with what.

    Attributes:
        campaign_id: name of the plan and the first 12 digits of its sha256: one plan is one campaign on every box.
        plan_sha256: of plan.toml.
        prompts_sha256: of the file of prompts.
        started_at: UTC wall time, ISO 8601.
        machine: of the driver.
        boot_id, governor, clock_sync: as in a `RunHeader`.
        versions: of what computes, by package: multispin, numpy, onnxruntime, ...
        model_files: sha256 by file name of target and draft.
        target: as served; null until the first cell has told it, and where no arm serves one.
        draft: likewise.
        configuration: the plan's settings with all defaults.
        devices: that this folder is about; fewer than the plan's where boxes run their own part.
        merged_from: those of the parts, of a merged folder.
    """

    schema_version: int = SCHEMA_VERSION
    campaign_id: str
    plan_sha256: str
    prompts_sha256: str
    started_at: str
    machine: Machine
    boot_id: str | None
    governor: str | None
    clock_sync: ClockSync | None
    versions: dict[str, str]
    model_files: dict[str, str]
    target: ModelInfo | None = None
    draft: ModelInfo | None = None
    configuration: dict[str, object]
    devices: tuple[str, ...]
    merged_from: "tuple[Campaign, ...]" = ()


class Event(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A line of the journal.

    Attributes:
        event: what happened.
        at: UTC wall time, ISO 8601.
        t_ns: monotonic, of the driver's machine in this boot.
        boot_id: that boot.
        cell_id: of the cell; null where it is about none.
        attempt: of the cell, from 1.
        reason: in words.
        seconds: that it took.
        sha256: of a completed cell, see `EventName`.
    """

    event: EventName
    at: str
    t_ns: int
    boot_id: str | None = None
    cell_id: str | None = None
    attempt: int | None = None
    reason: str | None = None
    seconds: float | None = None
    sha256: str | None = None


class Signature(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A signature over hashes.txt.

    Attributes:
        algorithm: "ed25519".
        public_key, signature: hex.
        signed_at: UTC wall time, ISO 8601.
        node: name of the machine.
    """

    algorithm: Literal["ed25519"] = "ed25519"
    public_key: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    signature: Annotated[str, Meta(pattern="^[0-9a-f]{128}$")]
    signed_at: str
    node: str


def factor_column(name: str) -> str:
    """Return the column of a factor.

    >>> factor_column("users")
    'factor_users'
    """
    return f"factor_{name}"


def read_schedule(run: Path) -> Schedule:
    """Return the schedule of a run. Raises FolderError."""
    return _read(run / SCHEDULE, Schedule)


def read_campaign(run: Path) -> Campaign:
    """Return what ran it. Raises FolderError."""
    return _read(run / CAMPAIGN, Campaign)


def read_header(run: Path, cell_id: str) -> RunHeader | ExternalHeader:
    """Return the header of a cell. Raises FolderError."""
    path = run / CELLS / cell_id / HEADER
    try:
        is_external = "url" in msgspec.json.decode(path.read_bytes(), type=dict)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FolderError(f"{path} cannot be read: {error}") from error
    return _read(path, ExternalHeader) if is_external else _read(path, RunHeader)


def read_energy(run: Path, cell_id: str) -> CellEnergy:
    """Return the joules of a cell. Raises FolderError."""
    return _read(run / CELLS / cell_id / ENERGY, CellEnergy)


def read_clock(run: Path, cell_id: str) -> CellClock:
    """Return the clocks of a cell. Raises FolderError."""
    return _read(run / CELLS / cell_id / CLOCK, CellClock)


def read_events(run: Path) -> list[Event]:
    """Return the journal; a last line that was cut off in writing is left out.

    Raises:
        RecordError: a whole line is no event.
    """
    return read_jsonl(run / JOURNAL, Event).records


def completed_cells(run: Path) -> list[str]:
    """Return the ids of the cells whose folders are there, in the order of their names."""
    folder = run / CELLS
    if not folder.is_dir():
        return []
    return sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def excluded_cells(run: Path) -> dict[str, str]:
    """Return why, by cell, of those that are not to be counted."""
    return {
        event.cell_id: event.reason or ""
        for event in read_events(run)
        if event.event == "cell-excluded" and event.cell_id is not None
    }


def _read(path: Path, kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise FolderError(f"{path} is no {kind.__name__}: {error}") from error
