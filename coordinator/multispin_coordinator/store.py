"""The coordinator's records: one SQLite file, each record once, whatever was sent twice.

The key is (agent, boot, sequence). What `keep` has returned of is on disk (WAL, synchronous=FULL) and may be
acknowledged; a batch that comes again is acknowledged again and stored once. Two different records under one key are a
fault of an agent (a copied disk): the first stays, and the second is counted.
"""

import logging
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from multispin_models.errors import ConfigError, MultispinError
from multispin_models.messages import Records, RecordsAck
from multispin_models.records import SCHEMA_VERSION, AnyRecord, decode_line, encode_line

__all__ = ["OWN", "RecordStore", "StoreUnwritable"]

log = logging.getLogger(__name__)

OWN: Final = ""  # the coordinator itself, among the agents; no agent can have this name
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS records (
    agent TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    schema_version INTEGER NOT NULL,
    kind TEXT NOT NULL,
    run_id TEXT NOT NULL,
    line BLOB NOT NULL,
    UNIQUE (agent, boot_id, sequence)
);
CREATE INDEX IF NOT EXISTS of_a_kind ON records (kind, run_id);
"""
_INSERT: Final = "INSERT OR IGNORE INTO records VALUES (?, ?, ?, ?, ?, ?, ?)"


class StoreUnwritable(MultispinError):
    """The disk took nothing: full, or failing. Nothing is acknowledged, so the agents keep it and send it again."""


class RecordStore:
    """Keeps records. For one process, one thread at a time.

    Args:
        path: of the SQLite file, made if it is not there.

    Raises:
        ConfigError: the file cannot be opened, or is no store.
    """

    def __init__(self, path: Path) -> None:
        self.num_kept = 0
        self.num_repeated = 0
        self.num_conflicting = 0
        try:
            self._database = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("PRAGMA journal_size_limit = 8388608")
            self._database.executescript(_TABLES)
        except sqlite3.Error as error:
            raise ConfigError(f"store {path} cannot be used: {error}; give another path, or free the disk") from error

    def keep(self, agent: str, batch: Records) -> RecordsAck:
        """Put a batch on disk; return what may be acknowledged, which is all of it.

        Raises:
            RecordRefused: one of them is no record of its kind; none is kept.
            StoreUnwritable: the disk is full or failing; none is kept.
        """
        rows = [
            (
                agent,
                batch.boot_id,
                record.sequence,
                batch.schema_version,
                record.kind,
                decode_line(record.kind, record.line).run_id,
                record.line,
            )
            for record in batch.records
        ]
        self._write(rows)
        return RecordsAck(batch.boot_id, batch.records[0].sequence, batch.records[-1].sequence)

    def keep_own(self, boot_id: str, first_sequence: int, records: Iterable[AnyRecord]) -> None:
        """Put records of the coordinator itself on disk.

        Args:
            boot_id: of this machine.
            first_sequence: of the first, counted on; not used twice within a boot.
            records: any.

        Raises:
            StoreUnwritable: as above.
        """
        self._write(
            [
                (OWN, boot_id, sequence, SCHEMA_VERSION, type(record).__name__, record.run_id, encode_line(record))
                for sequence, record in enumerate(records, first_sequence)
            ]
        )

    def close(self) -> None:
        """Close the file. Closing twice is no error."""
        self._database.close()

    def _write(self, rows: list[tuple[str, str, int, int, str, str, bytes]]) -> None:
        repeated = conflicting = 0
        try:
            self._database.execute("BEGIN IMMEDIATE")
            for row in rows:
                if self._database.execute(_INSERT, row).rowcount == 0:
                    repeated += 1
                    conflicting += not self._holds(row)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise StoreUnwritable(f"store: {error}") from error
        self.num_kept += len(rows) - repeated
        self.num_repeated += repeated
        self.num_conflicting += conflicting
        if conflicting:
            log.error(
                "%d records of agent %r have the keys of other records and are not kept: was its disk copied?",
                conflicting,
                rows[0][0],
            )

    def _holds(self, row: tuple[str, str, int, int, str, str, bytes]) -> bool:
        """Return whether the key of a row stands for the same record."""
        [(line,)] = self._database.execute(
            "SELECT line FROM records WHERE agent = ? AND boot_id = ? AND sequence = ?", row[:3]
        )
        return bool(line == row[-1])
