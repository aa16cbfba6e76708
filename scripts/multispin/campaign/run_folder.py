"""The folder of a run: made, or opened again; one driver at a time."""

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

import msgspec

from multispin.campaign.cell_folder import clear_unfinished
from multispin.campaign.folder import (
    CAMPAIGN,
    CELLS,
    HASHES,
    PLAN,
    SCHEDULE,
    SIGNATURE,
    Campaign,
    Schedule,
    completed_cells,
    read_campaign,
    read_events,
    read_schedule,
)
from multispin.campaign.journal import RunJournal
from multispin.campaign.plan_file import PlanFile
from multispin_models.errors import ConfigError

__all__ = ["WORK", "RunFolder", "write_json"]

WORK: Final = ".work"  # logs of processes that span cells; no part of the run
LOCK: Final = ".lock"


class RunFolder:
    """An open folder; a context.

    Args:
        path: of it; made if it is not there.
        file: the plan.
        schedule: of it.
        campaign: that begins, where the folder is new.

    Attributes:
        path, schedule, campaign, journal: of the run.
        done: ids of the completed cells.
        found_whole: of them, those that the journal does not tell of: the driver was killed before it could.
        is_new: it was made just now.

    Raises:
        ConfigError: it holds something else, another plan, or another driver is at work in it.
    """

    def __init__(self, path: Path, file: PlanFile, schedule: Schedule, campaign: Campaign) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {path} cannot be a folder: {error.strerror}") from error
        self._lock = self._locked()
        try:
            self.is_new = not (path / CAMPAIGN).exists()
            if self.is_new:
                self._make(file, schedule, campaign)
            self._check(file, schedule)
            self.schedule = schedule
            self.campaign = read_campaign(path)
            clear_unfinished(path)
            self.done = set(completed_cells(path))
            self.found_whole: list[str] = []
            self.journal = RunJournal(path)
            self._note_opened()
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        """Let others in."""
        self.journal.close()
        self._lock.close()

    def update(self, campaign: Campaign) -> None:
        """Keep a campaign of which more is known."""
        self.campaign = campaign
        write_json(self.path / CAMPAIGN, campaign)

    @property
    def work(self) -> Path:
        """Where processes log."""
        return self.path / WORK

    def _locked(self) -> IO[str]:
        lock = (self.path / LOCK).open("w", encoding="ascii")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise ConfigError(f"--out {self.path}: another driver is at work in it") from error
        return lock

    def _make(self, file: PlanFile, schedule: Schedule, campaign: Campaign) -> None:
        others = [each.name for each in self.path.iterdir() if not each.name.startswith(".")]
        if set(others) - {PLAN, SCHEDULE, CELLS}:  # what a driver killed at its start leaves
            raise ConfigError(f"--out {self.path} is not empty and holds no run: choose another folder")
        (self.path / PLAN).write_bytes(file.text)
        write_json(self.path / SCHEDULE, schedule)
        (self.path / CELLS).mkdir(exist_ok=True)
        write_json(self.path / CAMPAIGN, campaign)  # last: it says that the folder is whole

    def _check(self, file: PlanFile, schedule: Schedule) -> None:
        if (self.path / PLAN).read_bytes() != file.text:
            raise ConfigError(
                f"--out {self.path} holds a run of another plan (plan.toml differs): choose another folder"
            )
        if read_schedule(self.path) != schedule:
            raise ConfigError(
                f"--out {self.path}: the plan now gives another schedule: the prompts or this version have changed "
                "since the run began; go on with those of its campaign.json, or choose another folder"
            )

    def _note_opened(self) -> None:
        for name in (HASHES, SIGNATURE):  # of what was there; the end of this call makes new ones
            with suppress(FileNotFoundError):
                (self.path / name).unlink()
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        if self.is_new:
            self.journal.note("campaign-started")
            return
        self.journal.note("resumed", reason=f"{len(self.done)} of {len(self.schedule.cells)} cells are there")
        noted = {event.cell_id for event in read_events(self.path) if event.event == "cell-completed"}
        self.found_whole = sorted(self.done - noted)


def write_json(path: Path, what: msgspec.Struct) -> None:
    """Write a file in place of what was there: all of it or nothing."""
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(what), indent=1) + b"\n")
        out.flush()
        os.fsync(out.fileno())
    new.replace(path)
