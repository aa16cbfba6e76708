"""Records to lines of a file, and back: JSON, one object a line, each ended by a newline.

A line is written by one call, so a process that is killed leaves at most its last line torn. Such a line is reported
and left out; a bad line anywhere else is an error that names file and line.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

import msgspec

from multispin_models.errors import MultispinError

__all__ = ["JsonlContent", "JsonlWriter", "RecordError", "read_jsonl", "write_jsonl"]

Record = TypeVar("Record", bound=msgspec.Struct)
_log = logging.getLogger(__name__)
_encoder = msgspec.json.Encoder()


class RecordError(MultispinError):
    """A file of records that cannot be read."""


class JsonlContent(NamedTuple, Generic[Record]):
    """What a file holds.

    Attributes:
        records: in the order of the file.
        torn: what is said of a last line that was cut off in writing; null if there is none.
    """

    records: list[Record]
    torn: str | None


def write_jsonl(path: Path, records: Iterable[msgspec.Struct]) -> None:
    """Write a file of records in place of what was there: all of it or nothing."""
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.writelines(_encoder.encode(record) + b"\n" for record in records)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


class JsonlWriter:
    """Appends records to a file, each on disk (or in the kernel's hands) when `append` returns.

    Args:
        path: made if it is not there. A torn last line in it is cut off: it would spoil the next.

    Not for two processes on one file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        size = self._file.seek(0, os.SEEK_END)
        end = _end_of_last_line(path, size)
        if end < size:
            _log.warning("%s: cut off a torn last line of %d bytes", path, size - end)
            self._file.truncate(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, record: msgspec.Struct) -> None:
        """Write one line."""
        line = _encoder.encode(record) + b"\n"
        while line:  # a full disk or a signal may take a part
            line = line[self._file.write(line) or 0 :]

    def sync(self) -> None:
        """Return when all lines are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file. Closing twice is no error."""
        self._file.close()


def read_jsonl(path: Path, record_type: type[Record]) -> JsonlContent[Record]:
    """Return the records of a file.

    Args:
        path: of the file.
        record_type: of every line.

    Raises:
        RecordError: the file cannot be read, or a line that was written to its end is no such record.
    """
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RecordError(f"records {path} cannot be read: {error.strerror}") from error
    decoder = msgspec.json.Decoder(record_type)
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RecordError(f"{path} line {number} is no {record_type.__name__}: {error}") from error
    torn = None
    if rest:
        torn = (
            f"{path} line {len(lines) + 1} was cut off after {len(rest)} bytes (killed while writing?) and is left out"
        )
    return JsonlContent(records, torn)


def _end_of_last_line(path: Path, size: int) -> int:
    """Return the size of a file without its torn last line."""
    block = 1 << 16
    with path.open("rb") as file:
        for begin in range((size - 1) // block * block, -1, -block):
            file.seek(begin)
            newline = file.read(min(block, size - begin)).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
    return 0
