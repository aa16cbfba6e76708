"""Runs a campaign: cell after cell in the order of the schedule, through whatever dies, into the folder of a run.

What is there whole is done. The driver may be killed at any point and called again; a coordinator, an agent or a server
that dies takes the cell under way along, which is begun anew with new processes. No process outlives the driver.
"""

import itertools
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from multispin.campaign.asking import Ask, Ready, Told
from multispin.campaign.cell_files import ConditionsRow
from multispin.campaign.cell_folder import CellContent, write_cell
from multispin.campaign.cool_down import cool_down, faults_of
from multispin.campaign.figures import CellFigures, figures_of
from multispin.campaign.folder import CELLS, Cell, FolderError, excluded_cells, read_events
from multispin.campaign.groups import ask_of_cell, open_group, run_settings, warm_up_of
from multispin.campaign.hashing import cell_digest, seal
from multispin.campaign.headers import header_of
from multispin.campaign.meter import MACHINE, MachineMeter
from multispin.campaign.plan import Arm, Device, External, LocalDraft, Plan
from multispin.campaign.plan_file import PlanFile
from multispin.campaign.processes import StartFailed
from multispin.campaign.prompts import Prompts
from multispin.campaign.run_folder import RunFolder
from multispin.campaign.schedule import SiteKey, site_key
from multispin.campaign.stopping import stop_reason
from multispin.campaign.tables import conditions_row, read_conditions_rows
from multispin.supervised import DaemonFailed
from multispin_models.clock import wall_time
from multispin_models.energy.conditions import Conditions, ConditionsLog, read_temperatures

__all__ = ["Driver", "Outcome", "Watcher"]

MOST_LOG_BYTES = 1 << 18  # of a cell
LONGEST_RETRY_S = 300.0


class Watcher(Protocol):
    """Is told how it goes."""

    def say(self, what: str) -> None:
        """Something happens between cells."""

    def begin(self, cell: Cell) -> None:
        """A cell begins."""

    def done(self, cell: Cell, figures: CellFigures, seconds: float) -> None:
        """A cell is complete."""


class Asked(Protocol):
    """The process of a group, as `GroupProcess`."""

    ready: Ready

    def ask(self, ask: Ask, within_s: float) -> Told:
        """Have a cell served."""
        ...


OpenProcesses = Callable[[Plan, SiteKey, Device, Path, Path], AbstractContextManager[Asked]]


class Outcome(NamedTuple):
    """What a call came to.

    Attributes:
        completed: cells that are there.
        missing: that are not, of the devices of this call, and not for a rule's sake.
        stopped: why a rule ended it; null if none did.
    """

    completed: int
    missing: tuple[str, ...]
    stopped: str | None


class CellFailed(Exception):
    """Requests of a cell had no answer."""


class Driver:
    """Runs what is not there yet.

    Args:
        file: the plan.
        run: its folder, open.
        prompts: of the plan.
        devices: names of those that this driver is for.
        meter: of this machine, running.
        watcher: is told.
        open_processes: as `open_group`, which it is but in tests.
        sleep: likewise.
    """

    def __init__(
        self,
        file: PlanFile,
        run: RunFolder,
        prompts: Prompts,
        devices: Collection[str],
        meter: MachineMeter,
        watcher: Watcher,
        open_processes: OpenProcesses = open_group,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._sleep = sleep
        self._open_processes = open_processes
        self._plan = file.plan
        self._file = file
        self._run = run
        self._prompts = prompts
        self._devices = {device.name: device for device in file.plan.devices if device.name in devices}
        self._arms: dict[str, Arm] = {arm.name: arm for arm in file.plan.arms}
        self._meter = meter
        self._watcher = watcher
        self._attempts: Counter[str] = Counter()
        self.figures = cache(lambda cell_id: figures_of(run.path, cell_id))

    def run(self) -> Outcome:
        """Run all cells that are not there; return what came of it."""
        self._note_found()
        stopped = self._was_stopped()
        for _ in range(self._plan.passes):
            self._attempts.clear()
            stopped = self._pass(stopped)
            missing = () if stopped else self._missing()
            if not missing:
                break
        return Outcome(len(self._run.done), missing, stopped)

    def _pass(self, stopped: str | None) -> str | None:
        """Go through the schedule; return why a rule ended it."""
        for block, cells in itertools.groupby(self._run.schedule.cells, key=lambda cell: cell.block):
            stopped = stopped or self._may_stop(block)
            if stopped:
                break
            for _, mates in itertools.groupby(cells, key=lambda cell: cell.group):
                own = [cell for cell in mates if cell.device in self._devices]
                self._run_group([cell for cell in own if cell.cell_id not in self._run.done])
        return stopped

    def _missing(self) -> tuple[str, ...]:
        mine = (cell.cell_id for cell in self._run.schedule.cells if cell.device in self._devices)
        return tuple(each for each in mine if each not in self._run.done)

    def seal(self, outcome: Outcome, key_file: Path | None = None) -> None:
        """Note the end, and sign what is there."""
        said = f"{len(outcome.missing)} cells are missing" if outcome.missing else outcome.stopped or "complete"
        self._run.journal.note("ended", reason=said)
        seal(self._run.path, key_file)

    def _note_found(self) -> None:
        """Tell the journal of cells that were completed just before a driver was killed."""
        cells = {cell.cell_id: cell for cell in self._run.schedule.cells}
        for cell_id in self._run.found_whole:
            if cell_id not in cells:
                raise FolderError(f"{self._run.path / CELLS / cell_id} is of no cell of the schedule: remove it")
            self._note_limits(cells[cell_id], read_conditions_rows(self._run.path, cell_id))
            digest = cell_digest(self._run.path / CELLS / cell_id)
            self._run.journal.note("cell-completed", cell_id, reason="found whole", sha256=digest)

    # -- when to stop -------------------------------------------------------------------------------------------------

    def _was_stopped(self) -> str | None:
        return next((event.reason for event in read_events(self._run.path) if event.event == "stopped"), None)

    def _may_stop(self, num_blocks: int) -> str | None:
        if self._plan.stop is None:
            return None
        excluded = excluded_cells(self._run.path)
        usable = [cell for cell in self._run.schedule.cells if cell.block < num_blocks]
        usable = [cell for cell in usable if cell.cell_id in self._run.done and cell.cell_id not in excluded]
        reason = stop_reason(self._plan, num_blocks, usable, lambda cell: self.figures(cell.cell_id))
        if reason is not None:
            self._run.journal.note("stopped", reason=reason)
        return reason

    # -- a group ------------------------------------------------------------------------------------------------------

    def _run_group(self, cells: list[Cell]) -> None:
        """Run cells that share processes; start these anew when one dies."""
        left = list(cells)
        while left:
            cell = left[0]
            self._attempts[cell.cell_id] += 1
            try:
                self._serve_group(left)
            except (DaemonFailed, CellFailed) as failure:
                # The one under way, or the first if the processes did not even start.
                failed = left[0]
                attempt = self._attempts[failed.cell_id]
                self._run.journal.note("cell-failed", failed.cell_id, attempt=attempt, reason=str(failure))
                self._watcher.say(f"{failed.cell_id}, attempt {attempt}: {_in_a_line(failure)}")
                if attempt < self._plan.attempts:
                    self._sleep(min(self._plan.retry_s * 2 ** (attempt - 1), LONGEST_RETRY_S))
                elif isinstance(failure, StartFailed):
                    return  # nor would the others
                else:
                    left.pop(0)

    def _serve_group(self, left: list[Cell]) -> None:
        """Start the processes and serve cells, each taken from the list when it is there."""
        first = left[0]
        device = self._devices[first.device]
        key = self._key(left)
        self._watcher.say(f"starting {key.external or 'coordinator and agents'} for {device.name}, link {key.link}")
        with self._open_processes(self._plan, key, device, self._run.work, self._file.folder) as process:
            self._know(process)
            self._warm_up(process, left, device)
            while left:
                cell = left[0]
                if cell is not first:
                    self._attempts[cell.cell_id] += 1
                self._serve(process, key, cell)
                left.pop(0)

    def _key(self, cells: Sequence[Cell]) -> SiteKey:
        """Return what the processes are started with: as its cells want that care."""
        keys = [site_key(self._arms[cell.arm], cell.device, cell.factors) for cell in cells]
        caring = [key for key, cell in zip(keys, cells, strict=True) if "link" in cell.factors]
        return (caring or keys)[0]

    def _know(self, process: Asked) -> None:
        """Keep what is served, told for the first time."""
        campaign = self._run.campaign
        if campaign.target is None and process.ready.target is not None:
            known = msgspec.structs.replace(campaign, target=process.ready.target, draft=process.ready.draft)
            self._run.update(known)

    def _warm_up(self, process: Asked, cells: Sequence[Cell], device: Device) -> None:
        asked = set()
        for cell in cells:
            ask = warm_up_of(self._plan, self._arms[cell.arm], cell, self._prompts, device)
            if ask is not None and (manner := (ask.kind, ask.policy, ask.length)) not in asked:
                asked.add(manner)
                process.ask(ask, self._plan.cell_timeout_s)

    # -- a cell -------------------------------------------------------------------------------------------------------

    def _serve(self, process: Asked, key: SiteKey, cell: Cell) -> None:
        plan, journal = self._plan, self._run.journal
        arm = self._arms[cell.arm]
        self._cool_down(process, cell)
        journal.note("cell-started", cell.cell_id, attempt=self._attempts[cell.cell_id])
        self._watcher.begin(cell)
        logged = {path: path.stat().st_size for path in self._run.work.iterdir()}
        run_id, started_at, begun_s = secrets.token_hex(8), wall_time(), time.monotonic()
        conditions: list[ConditionsRow] = []

        def note(found: Conditions) -> None:
            conditions.append(conditions_row(MACHINE, found))

        with ConditionsLog(note, plan.energy.conditions_s):
            told = process.ask(ask_of_cell(plan, arm, cell, self._prompts, run_id), plan.cell_timeout_s)
        _check(cell, told)
        windows = [] if told.idle is None else [self._meter.window("idle", told.idle)]
        windows.append(self._meter.window("run", told.run))
        device = self._devices[cell.device]
        settings = None if isinstance(arm, External) else run_settings(plan, key, device)
        content = CellContent(
            header=header_of(
                plan,
                arm,
                cell,
                settings,
                process.ready,
                told,
                self._meter.end,
                run_id=run_id,
                started_at=started_at,
                model_files=self._run.campaign.model_files,
            ),
            told=told,
            tasks={name: job.task for name, job in self._prompts.jobs.items()},
            due_s=ask_of_cell(plan, arm, cell, self._prompts, run_id).due_s,
            requests_per_user=plan.requests_per_user,
            is_queued=isinstance(arm, LocalDraft),
            elsewhere=frozenset(box.name for box in device.boxes if box.launch),
            conditions=conditions,
            energy=windows,
            log=_log_since(self._run.work, logged),
        )
        digest = write_cell(self._run.path, self._run.campaign.campaign_id, cell, content)
        seconds = time.monotonic() - begun_s
        self._run.done.add(cell.cell_id)
        self._note_limits(cell, conditions)
        journal.note(
            "cell-completed", cell.cell_id, attempt=self._attempts[cell.cell_id], seconds=seconds, sha256=digest
        )
        self._watcher.done(cell, self.figures(cell.cell_id), seconds)

    def _cool_down(self, process: Asked, cell: Cell) -> None:
        limits = self._plan.limits
        is_elsewhere = any(box.launch for box in self._devices[cell.device].boxes)
        looks = is_elsewhere and not isinstance(self._arms[cell.arm], External)

        def temperatures() -> dict[str, float | None]:
            found = read_temperatures()
            if looks:
                told = process.ask(Ask(run_id="", kind="look"), self._plan.cell_timeout_s)
                for record in (each for answer in told.answers for each in answer.conditions):
                    zones = record.conditions.temperatures_c
                    found |= {f"{record.end} {zone}": celsius for zone, celsius in zones.items()}
            return found

        if limits.cool_down_s or limits.start_below_c is not None:
            cooled = cool_down(limits, temperatures)
            self._run.journal.note("cool-down", cell.cell_id, reason=cooled.reason, seconds=cooled.seconds)
            if not cooled.is_cool:
                self._run.journal.note("limit-passed", cell.cell_id, reason=f"begun warm: {cooled.reason}")

    def _note_limits(self, cell: Cell, conditions: Sequence[ConditionsRow]) -> None:
        excluded, kept = faults_of(self._plan.limits, conditions)
        if excluded:
            self._run.journal.note("cell-excluded", cell.cell_id, reason="; ".join(excluded))
        if kept:
            self._run.journal.note("limit-passed", cell.cell_id, reason="; ".join(kept))


def _in_a_line(failure: Exception) -> str:
    """Return the first line, and the last one, which of a log says most."""
    first, *rest = str(failure).splitlines()
    return f"{first} {rest[-1].strip()}" if rest else first


def _check(cell: Cell, told: Told) -> None:
    """Refuse a cell that is not whole."""
    records = [*told.requests, *(record for answer in told.answers for record in answer.requests)]
    if errors := [record for record in records if record.finish == "error"]:
        raise CellFailed(f"{len(errors)} of {len(records)} requests failed, the first: {errors[0].error}")
    if sorted(record.id for record in records) != sorted(cell.prompt_ids):
        raise CellFailed(f"{len(records)} requests were served, {len(cell.prompt_ids)} were asked")


def _log_since(folder: Path, sizes: dict[Path, int]) -> bytes:
    """Return what was logged since, each file under its name, at most so much of each."""
    parts = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            file.seek(sizes.get(path, 0))
            if said := file.read(MOST_LOG_BYTES):
                parts.append(f"--- {path.name}\n".encode() + said)
    return b"".join(parts)
