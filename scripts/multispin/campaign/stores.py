"""Where runs lie: a folder of this machine or of a cluster's file system, or a bucket by its address.

    runs/office                       a folder, mounted from wherever
    s3://bucket/runs/office           Amazon's protocol; ?endpoint_override=HOST:PORT&scheme=http for others' servers
    gs://..., abfs://..., hdfs://...  what pyarrow.fs knows

DuckDB reads a bucket through Arrow's file systems, which come with pyarrow; its own extension would have to be fetched
from its maker's host on every machine.

Source: Apache Arrow, pyarrow.fs.FileSystem.from_uri; DuckDB, Python API, "fsspec filesystems".
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import duckdb
import fsspec
import msgspec
import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs as arrow_fs

from multispin.campaign.folder import CAMPAIGN, JOURNAL, SCHEDULE, Campaign, Cell, Event, Schedule
from multispin_models.errors import ConfigError

__all__ = ["Store", "cells_of", "connect", "open_store"]

CellKey = tuple[str, str]


class Store(NamedTuple):
    """A tree of files.

    Attributes:
        files: fsspec's view of it.
        root: path in `files`, without the scheme.
        scheme: "" for a folder, else as "s3".
    """

    files: Any
    root: str
    scheme: str

    def find(self, name: str) -> list[str]:
        """Return the paths of all files of a name below the root, sorted; hidden folders are left out."""
        found = [path for path in self.files.find(self.root) if path.rsplit("/", 1)[-1] == name]
        hidden = len(self.root)
        return sorted(path for path in found if "/." not in path[hidden:])

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""
        content: bytes = self.files.cat_file(path)
        return content

    def address(self, path: str) -> str:
        """Return what DuckDB calls a path."""
        return f"{self.scheme}://{path}" if self.scheme else path


def open_store(source: str) -> Store:
    """Return the tree at a folder or an address.

    Raises:
        ConfigError: it is not there, or its scheme is not known.
    """
    if "://" not in source:
        files = fsspec.filesystem("file")
        root, scheme = source.rstrip("/") or "/", ""
    else:
        try:
            inner, root = arrow_fs.FileSystem.from_uri(source)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ConfigError(f"{source} cannot be opened: {error}; s3, gs, abfs and hdfs are known") from error
        files, scheme = ArrowFSWrapper(inner), str(inner.type_name)
    try:
        is_there = files.exists(root)
    except OSError as error:
        raise ConfigError(f"{source} cannot be reached: {error}") from error
    if not is_there:
        raise ConfigError(f"{source} is not there: give the folder of a run, or of many, or its address in a bucket")
    return Store(files, root, scheme)


def cells_of(stores: Iterable[Store]) -> tuple[dict[CellKey, Cell], int]:
    """Return what the schedules of all runs say of their cells, by (campaign, cell), and how many journals exclude.

    Raises:
        ConfigError: a file of a run is none.
    """
    cells: dict[CellKey, Cell] = {}
    excluded: set[CellKey] = set()
    for store in stores:
        for path in store.find(CAMPAIGN):
            run = path.rsplit("/", 1)[0]
            try:
                campaign = msgspec.json.decode(store.read(path), type=Campaign).campaign_id
                schedule = msgspec.json.decode(store.read(f"{run}/{SCHEDULE}"), type=Schedule)
                lines = store.read(f"{run}/{JOURNAL}").split(b"\n")[:-1]
                events = [msgspec.json.decode(line, type=Event) for line in lines]
            except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ConfigError(f"{store.address(run)} is no run: {error}") from error
            cells |= {(campaign, cell.cell_id): cell for cell in schedule.cells}
            excluded |= {(campaign, each.cell_id) for each in events if each.event == "cell-excluded" and each.cell_id}
    return {key: cell for key, cell in cells.items() if key not in excluded}, len(excluded)


def connect(stores: Sequence[Store], memory: str, threads: int | None, spill: str) -> Any:
    """Return a DuckDB that reads these stores, within a memory limit; what does not fit goes to the folder `spill`."""
    connection = duckdb.connect()
    for files in {store.scheme: store.files for store in stores if store.scheme}.values():
        connection.register_filesystem(files)
    settings: dict[str, object] = {
        "memory_limit": memory,
        "temp_directory": spill,
        "preserve_insertion_order": False,
        **({} if threads is None else {"threads": threads}),
    }
    for name, value in settings.items():
        try:
            connection.execute(f"SET {name} = {_literal(value)}")
        except duckdb.Error as error:
            raise ConfigError(f"DuckDB refuses {name} = {value!r}: {error}") from error
    return connection


def _literal(value: object) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)
