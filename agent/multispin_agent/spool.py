"""The agent's store-and-forward spool: records on this box's disk until the coordinator has them on its own.

One SQLite file, in WAL mode with synchronous=FULL: what `append` has returned of survives a kill and a power cut.

A record's key is (agent, boot, sequence). Sequences go up and are never used twice within a boot, not even by a spool
that was deleted and made anew: a new one counts on from the microseconds of the monotonic clock.

The bound. When the lines together exceed `max_bytes`, the oldest records of *rounds* are dropped, down to seven
eighths of it, and a GapRecord says which. Summaries (of requests, runs, energy, gaps) are never dropped: alone they may
exceed the bound, up to the disk. The file stays as large as the most that was ever held, some tenths more than the
lines; beside it lies the log that SQLite writes first, 8 MB at rest.

The disk. SQLite writes to delete, too: a spool that took the last byte could never shrink again. So nothing is appended
when less than `RESERVE_BYTES` of disk and file are free. When others fill it to the end, what is uploaded is
remembered, not sent again while this process lives, and deleted when there is room.
"""

import logging
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from multispin_models.clock import monotonic_ns
from multispin_models.errors import ConfigError, MultispinError
from multispin_models.messages import MAX_RECORD_BYTES, Records, SpooledRecord
from multispin_models.records import SCHEMA_VERSION, AnyRecord, GapRecord, encode_line, is_summary

__all__ = ["MAX_BATCH_RECORDS", "Line", "Spool", "SpoolUnwritable", "line_of"]

log = logging.getLogger(__name__)

MAX_BATCH_RECORDS: Final = 1024
RESERVE_BYTES: Final = 1 << 24  # twice the log
ROW_BYTES: Final = 120  # of a row beside its line: key, boot, run, kind
_KEPT_EIGHTHS: Final = 7
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS records (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    boot_id TEXT NOT NULL,
    schema_version INTEGER NOT NULL,
    kind TEXT NOT NULL,
    run_id TEXT NOT NULL,
    is_summary INTEGER NOT NULL,
    line BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS rounds ON records (sequence) WHERE NOT is_summary;
CREATE TABLE IF NOT EXISTS refused (
    sequence INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL,
    schema_version INTEGER NOT NULL,
    kind TEXT NOT NULL,
    line BLOB NOT NULL,
    reason TEXT NOT NULL
);
"""


class SpoolUnwritable(MultispinError):
    """The disk took nothing: full, or failing. What was spooled before is kept; try again later."""


class Line(NamedTuple):
    """A record as it is spooled."""

    kind: str
    run_id: str
    line: bytes


def line_of(record: AnyRecord) -> Line:
    """Return a record as a line.

    Raises:
        ValueError: it is larger than the wire takes.
    """
    line = encode_line(record)
    if len(line) > MAX_RECORD_BYTES:
        raise ValueError(f"a {type(record).__name__} has {len(line)} bytes, allowed are {MAX_RECORD_BYTES}")
    return Line(type(record).__name__, record.run_id, line)


class Spool:
    """The records that are not yet known to be on the coordinator's disk. For one process, one thread at a time.

    Args:
        path: of the SQLite file, made if it is not there.
        agent_id: named in gaps.
        boot_id: of this boot, in the key of what is appended.
        max_bytes: bound of the lines together, see above.

    Raises:
        ConfigError: the file cannot be opened, or is no spool.
    """

    def __init__(self, path: Path, agent_id: str, boot_id: str, max_bytes: int) -> None:
        self._agent_id = agent_id
        self._boot_id = boot_id
        self._max_bytes = max_bytes
        self._path = path
        self._handed_out = 0  # the last sequence that is on its way
        self._uploaded: list[int] = []  # not deleted yet
        self._uploaded_through = 0
        try:
            self._database = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("PRAGMA journal_size_limit = 8388608")
            self._database.executescript(_TABLES)
            if self._one("SELECT count(*) FROM sqlite_sequence WHERE name = 'records'") == 0:
                first = monotonic_ns() // 1000
                self._database.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('records', ?)", (first,))
            self.num_bytes = self._one(f"SELECT coalesce(sum(length(line) + {ROW_BYTES}), 0) FROM records")  # noqa: S608
            self.num_records = self._one("SELECT count(*) FROM records")
        except sqlite3.Error as error:
            raise ConfigError(f"spool {path} cannot be used: {error}; give another path, or free the disk") from error

    def append(self, lines: Iterable[Line]) -> None:
        """Put records on disk, all or none; they are there when this returns.

        Raises:
            SpoolUnwritable: the disk is full or failing; none was taken.
        """
        free = shutil.disk_usage(self._path.parent).free
        held = self._one("PRAGMA freelist_count") * self._one("PRAGMA page_size")  # of the file, free for use again
        if free + held < RESERVE_BYTES:
            raise SpoolUnwritable(f"spool: {free} bytes of the disk are free, at least {RESERVE_BYTES} are left alone")
        rows = [(self._boot_id, SCHEMA_VERSION, kind, run, is_summary(kind), line) for kind, run, line in lines]
        self._write(lambda: self._append(rows))

    def next_batch(self, max_bytes: int, max_records: int = MAX_BATCH_RECORDS) -> Records | None:
        """Return the oldest records, of one boot and schema, one at least and no more than asked; None if empty."""
        rows = self._database.execute(
            "SELECT sequence, boot_id, schema_version, kind, line FROM records "
            "WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (self._uploaded_through, max_records),
        )
        records: list[SpooledRecord] = []
        origin, left = None, max_bytes
        for sequence, boot_id, schema_version, kind, line in rows:
            left -= len(line) + len(kind) + 12
            if records and (left < 0 or (boot_id, schema_version) != origin):
                break
            origin = (boot_id, schema_version)
            records.append(SpooledRecord(sequence, kind, line))
        rows.close()
        if origin is None:
            return None
        self._handed_out = records[-1].sequence
        return Records(*origin, tuple(records))

    def set_aside(self, batch: Records, reason: str) -> None:
        """Keep records that the coordinator finds wrong in a table of their own: the others are not to wait for them.

        Raises:
            SpoolUnwritable: they stay where they are.
        """
        rows = [(each.sequence, batch.boot_id, batch.schema_version, each.kind, each.line) for each in batch.records]

        def move() -> None:
            self._database.executemany(
                "INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?, ?, ?)", [(*row, reason) for row in rows]
            )
            self._delete([row[0] for row in rows])

        self._write(move)

    def forget(self, batch: Records) -> None:
        """Delete the records of a batch: the coordinator has them.

        Raises:
            SpoolUnwritable: a full disk takes no deletion either; they are deleted with the next batch, and are
                uploaded again only by another process.
        """
        sequences = [record.sequence for record in batch.records]
        self._uploaded += sequences
        self._uploaded_through = sequences[-1]
        self.forget_uploaded()

    def forget_uploaded(self) -> None:
        """Delete what was uploaded and could not be deleted then; errors as of `forget`."""
        if self._uploaded:
            self._write(lambda: self._delete(self._uploaded))
            self._uploaded = []

    def close(self) -> None:
        """Close the file. Closing twice is no error."""
        self._database.close()

    # -- inside a transaction -----------------------------------------------------------------------------------------

    def _append(self, rows: Sequence[tuple[str, int, str, str, bool, bytes]]) -> None:
        self._database.executemany(
            "INSERT INTO records (boot_id, schema_version, kind, run_id, is_summary, line) VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )
        self.num_records += len(rows)
        self.num_bytes += sum(len(row[-1]) + ROW_BYTES for row in rows)
        if self.num_bytes > self._max_bytes:
            self._drop_oldest_rounds()

    def _drop_oldest_rounds(self) -> None:
        """Make room, and say what was given up: a gap a run, each a summary."""
        excess = self.num_bytes - self._max_bytes * _KEPT_EIGHTHS // 8
        dropped: dict[str, list[int]] = {}
        rounds = self._database.execute(
            "SELECT sequence, run_id, length(line) FROM records "
            "WHERE NOT is_summary AND sequence > ? ORDER BY sequence",
            (self._handed_out,),
        )
        for sequence, run_id, length in rounds:
            dropped.setdefault(run_id, []).append(sequence)
            excess -= length + ROW_BYTES
            if excess <= 0:
                break
        rounds.close()
        if not dropped:
            return
        self._delete([sequence for sequences in dropped.values() for sequence in sequences])
        log.warning("spool is full: %d records of rounds dropped", sum(map(len, dropped.values())))
        gaps = [
            line_of(
                GapRecord(
                    run_id=run_id,
                    agent_id=self._agent_id,
                    num_dropped=len(sequences),
                    reason=f"the spool reached its bound of {self._max_bytes} bytes: the oldest rounds were dropped",
                    first_sequence=sequences[0],
                    last_sequence=sequences[-1],
                )
            )
            for run_id, sequences in dropped.items()
        ]
        self._database.executemany(
            "INSERT INTO records (boot_id, schema_version, kind, run_id, is_summary, line) VALUES (?, ?, ?, ?, 1, ?)",
            [(self._boot_id, SCHEMA_VERSION, gap.kind, gap.run_id, gap.line) for gap in gaps],
        )
        self.num_records += len(gaps)
        self.num_bytes += sum(len(gap.line) + ROW_BYTES for gap in gaps)

    def _delete(self, sequences: Sequence[int]) -> None:
        for sequence in sequences:
            row = self._database.execute(
                "DELETE FROM records WHERE sequence = ? RETURNING length(line)", (sequence,)
            ).fetchone()
            if row is not None:  # dropped while it was on its way
                self.num_records -= 1
                self.num_bytes -= row[0] + ROW_BYTES

    def _write(self, change: Callable[[], None]) -> None:
        before = self.num_records, self.num_bytes
        try:
            self._database.execute("BEGIN IMMEDIATE")
            change()
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            self.num_records, self.num_bytes = before
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise SpoolUnwritable(f"spool: {error}") from error

    def _one(self, query: str) -> int:
        return int(self._database.execute(query).fetchone()[0])
