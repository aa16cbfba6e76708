"""The records that were seen on a disk, and where they must be at the end.

A record in an agent's spool is acknowledged: the agent may be killed at any time from there on, and it must come to the
coordinator's store, once. A record in the store is acknowledged to the agent, which forgets it: it must stay there.
Both are read while the daemons run and after every kill, before the next start.
"""

import hashlib
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from multispin_models.records import RequestRecord, RoundRecord

__all__ = ["Books", "RecordsFound"]

_Key = tuple[str, str, int]  # agent, boot, sequence
_REQUEST, _ROUND = RequestRecord.__name__, RoundRecord.__name__


class RecordsFound(msgspec.Struct, frozen=True):
    """What became of the records.

    Attributes:
        num_seen: on an agent's disk or the coordinator's, at any time.
        num_stored: on the coordinator's at the end.
        num_missing: seen, and not there: must be 0.
        num_changed: there, and not as they were seen: must be 0.
        num_twice: of rounds, the same one under two keys: must be 0.
        num_left: still in a spool at the end: must be 0.
        num_unrecorded: requests that were served by an agent that was never killed, and have no record: must be 0.
        num_untold: the same of agents that were killed: a kill may take a record before it is on a disk.
        num_tokens: in the records of requests.
        num_different: of them, not the target's: must be 0.
    """

    num_seen: int
    num_stored: int
    num_missing: int
    num_changed: int
    num_twice: int
    num_left: int
    num_unrecorded: int
    num_untold: int
    num_tokens: int
    num_different: int


class Books:
    """What was seen.

    Args:
        spools: by agent.
        store: of the coordinator.
    """

    def __init__(self, spools: Mapping[str, Path], store: Path) -> None:
        self._spools = spools
        self._store = store
        self._seen: dict[_Key, bytes] = {}
        self._last_row = 0

    def look(self) -> None:
        """Read what is on all disks now; a database that cannot be read now is read the next time."""
        for agent, path in self._spools.items():
            with suppress(sqlite3.Error), _reading(path) as database:
                rows = database.execute("SELECT boot_id, sequence, line FROM records").fetchall()
                self._seen.update({(agent, boot, sequence): _digest(line) for boot, sequence, line in rows})
        with suppress(sqlite3.Error), _reading(self._store) as database:
            rows = database.execute(
                "SELECT rowid, agent, boot_id, sequence, line FROM records WHERE rowid > ?", (self._last_row,)
            ).fetchall()
            for row, agent, boot, sequence, line in rows:
                self._last_row = max(self._last_row, row)
                self._seen[agent, boot, sequence] = _digest(line)

    def num_left(self) -> int | None:
        """Return the records that are still in a spool; null where one cannot be read."""
        total = 0
        for path in self._spools.values():
            try:
                with _reading(path) as database:
                    total += int(database.execute("SELECT count(*) FROM records").fetchone()[0])
            except sqlite3.Error:
                return None
        return total

    def close(self, expected: Mapping[str, Sequence[int]], safe: Collection[str]) -> RecordsFound:
        """Compare what was seen with what is there, when nothing runs any more.

        Args:
            expected: tokens of each request that was served, by the request's id in hex.
            safe: of these, those that were served by agents that were never killed.
        """
        stored: dict[_Key, bytes] = {}
        told: set[str] = set()
        rounds: set[tuple[int, int]] = set()
        num_rounds = num_tokens = num_different = 0
        with _reading(self._store) as database:
            for agent, boot, sequence, kind, line in database.execute(
                "SELECT agent, boot_id, sequence, kind, line FROM records"
            ):
                stored[agent, boot, sequence] = _digest(line)
                if kind == _ROUND:
                    record = msgspec.json.decode(line, type=RoundRecord)
                    rounds.add((record.wire_request_id, record.round))
                    num_rounds += 1
                elif kind == _REQUEST:
                    request = msgspec.json.decode(line, type=RequestRecord)
                    if request.id in expected and request.finish != "error":
                        told.add(request.id)
                        num_tokens += len(request.token_ids)
                        num_different += _num_different(request.token_ids, expected[request.id])
        return RecordsFound(
            num_seen=len(self._seen),
            num_stored=len(stored),
            num_missing=sum(key not in stored for key in self._seen),
            num_changed=sum(stored.get(key, digest) != digest for key, digest in self._seen.items()),
            num_twice=num_rounds - len(rounds),
            num_left=self.num_left() or 0,
            num_unrecorded=len(set(safe) - told),
            num_untold=len(expected.keys() - told - set(safe)),
            num_tokens=num_tokens,
            num_different=num_different,
        )


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    # Not "immutable": what is still in the log that SQLite writes first counts.
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.5)
    try:
        yield database
    finally:
        database.close()


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=16).digest()


def _num_different(got: Sequence[int], wanted: Sequence[int]) -> int:
    return sum(a != b for a, b in zip(got, wanted, strict=False)) + abs(len(got) - len(wanted))
