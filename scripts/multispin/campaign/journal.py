"""The journal of a run: a line an event, on the disk when `note` returns."""

from pathlib import Path

from multispin.campaign.folder import JOURNAL, Event, EventName
from multispin_models.clock import monotonic_ns, wall_time
from multispin_models.records import JsonlWriter, read_boot_id

__all__ = ["RunJournal"]


class RunJournal:
    """Appends to the journal of a folder; a last line that was cut off in writing is removed.

    Args:
        run: the folder.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / JOURNAL
        self._writer = JsonlWriter(self._path)
        self._boot_id = read_boot_id()

    def note(
        self,
        event: EventName,
        cell_id: str | None = None,
        *,
        attempt: int | None = None,
        reason: str | None = None,
        seconds: float | None = None,
        sha256: str | None = None,
    ) -> Event:
        """Write an event, with the times of now; fields as in `Event`."""
        found = Event(
            event=event,
            at=wall_time(),
            t_ns=monotonic_ns(),
            boot_id=self._boot_id,
            cell_id=cell_id,
            attempt=attempt,
            reason=reason,
            seconds=seconds,
            sha256=sha256,
        )
        self._writer.append(found)
        self._writer.sync()
        return found

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
