"""One folder of what several boxes have run, and folders that are not complete.

Boxes that run their own devices of one plan leave a folder each. Merging puts their cells into one: the plan and the
schedule must be the same, every part must be what was signed, and a cell that is in two of them must be the same in
both. What is missing stays missing, and a later merge may bring it.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from multispin.campaign.folder import (
    CAMPAIGN,
    CELLS,
    HASHES,
    JOURNAL,
    PLAN,
    SCHEDULE,
    Campaign,
    Event,
    FolderError,
    Schedule,
    completed_cells,
    read_campaign,
    read_events,
    read_schedule,
)
from multispin.campaign.hashing import cell_digest, hash_lines, read_hashes, seal, signature_fault
from multispin.campaign.run_folder import write_json
from multispin_models.errors import ConfigError
from multispin_models.records import write_jsonl

__all__ = ["Collected", "collect", "merge", "part_faults"]


class Collected(NamedTuple):
    """What a folder holds.

    Attributes:
        completed, planned: cells.
        missing: ids of those that are not there, of the folder's devices.
        faults: what does not fit together; nothing is signed then.
    """

    completed: int
    planned: int
    missing: tuple[str, ...]
    faults: tuple[str, ...]


def collect(run: Path, key_file: Path | None = None) -> Collected:
    """Check a folder against its journal, list its hashes and sign them; also one whose driver was killed.

    Raises:
        FolderError: it is no run.
        ConfigError: there is no key.
    """
    found = _look(run)
    if not found.faults:
        seal(run, key_file)
    return found


def part_faults(run: Path) -> list[str]:
    """Return in what a sealed folder differs from what was signed; none if it is the same."""
    try:
        listed = read_hashes(run)
        there = {path: digest for digest, path in (line.split("  ", 1) for line in hash_lines(run))}
    except FolderError as error:
        return [str(error)]
    faults = [signature_fault(run)]
    faults += [f"{run / name} is missing: {HASHES} lists it" for name in sorted(listed.keys() - there.keys())]
    faults += [f"{run / name} is not in {HASHES}" for name in sorted(there.keys() - listed.keys())]
    same = sorted(listed.keys() & there.keys())
    changed = [name for name in same if listed[name] != there[name]]
    faults += [f"{run / name} was changed: its sha256 is not the one of {HASHES}" for name in changed]
    return [fault for fault in faults if fault]


def merge(parts: Sequence[Path], out: Path, key_file: Path | None = None) -> Collected:
    """Put the cells of several folders of one plan into a new one, and sign it.

    Args:
        parts: sealed folders.
        out: new or empty.
        key_file: null for the user's own.

    Raises:
        FolderError: a part is not what was signed, is of another plan, or has another cell of one name.
        ConfigError: `out` is not empty.
    """
    for part in parts:
        if faults := part_faults(part) or list(_look(part).faults):
            raise FolderError(f"{part} is not merged: {faults[0]}" + (f" ({len(faults)} faults)" if faults[1:] else ""))
    campaigns = [read_campaign(part) for part in parts]
    schedule = _one_schedule(parts, campaigns)
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: give a new folder")
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    (new / CELLS).mkdir(parents=True)
    origin: dict[str, tuple[Path, str]] = {}
    for part in parts:
        for cell_id in completed_cells(part):
            digest = cell_digest(part / CELLS / cell_id)
            other, known = origin.setdefault(cell_id, (part, digest))
            if known != digest:
                raise FolderError(f"cell {cell_id} is in {other} and, another, in {part}: leave one of them out")
            if other == part:
                shutil.copytree(part / CELLS / cell_id, new / CELLS / cell_id)
    shutil.copyfile(parts[0] / PLAN, new / PLAN)
    write_json(new / SCHEDULE, schedule)
    write_json(new / CAMPAIGN, _merged(campaigns))
    write_jsonl(new / JOURNAL, _events(parts))
    seal(new, key_file)
    if out.exists():
        out.rmdir()
    new.rename(out)
    return _look(out)


def _look(run: Path) -> Collected:
    schedule, campaign = read_schedule(run), read_campaign(run)
    planned = [cell.cell_id for cell in schedule.cells if cell.device in campaign.devices]
    completed = completed_cells(run)
    digests: dict[str, str | None] = {}
    for event in read_events(run):
        if event.event == "cell-completed" and event.cell_id is not None:
            digests[event.cell_id] = event.sha256
    faults = [f"{run / CELLS / name} is of no cell of the schedule" for name in sorted(set(completed) - set(planned))]
    faults += [
        f"{run / CELLS / name} was changed since it was completed (the journal has its sha256)"
        for name in sorted(set(completed) & digests.keys())
        if cell_digest(run / CELLS / name) != digests[name]
    ]
    faults += [
        f"{run / CELLS / name} is not there, and the journal says that it was completed"
        for name in sorted(digests.keys() - set(completed))
    ]
    return Collected(
        len(completed), len(planned), tuple(each for each in planned if each not in set(completed)), tuple(faults)
    )


def _one_schedule(parts: Sequence[Path], campaigns: Sequence[Campaign]) -> Schedule:
    schedules = [read_schedule(part) for part in parts]
    for part, campaign, schedule in zip(parts, campaigns, schedules, strict=True):
        if campaign.plan_sha256 != campaigns[0].plan_sha256:
            raise FolderError(f"{part} is of another plan than {parts[0]}: their plan.toml differ")
        if schedule != schedules[0]:
            raise FolderError(f"{part} has another schedule than {parts[0]}: their prompts or versions differ")
    return schedules[0]


def _merged(campaigns: Sequence[Campaign]) -> Campaign:
    flat = [part for campaign in campaigns for part in campaign.merged_from or (campaign,)]
    devices = tuple(dict.fromkeys(name for part in flat for name in part.devices))
    return msgspec.structs.replace(flat[0], devices=devices, merged_from=tuple(flat))


def _events(parts: Sequence[Path]) -> list[Event]:
    """Return all lines of the parts, by wall time: monotonic clocks of several machines do not compare."""
    seen: dict[bytes, Event] = {msgspec.json.encode(event): event for part in parts for event in read_events(part)}
    return sorted(seen.values(), key=lambda event: event.at)
