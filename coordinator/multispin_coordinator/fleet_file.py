"""The table of agents on the coordinator's disk, for `multispin fleet status`, and for the next start."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

import multispin_models
from multispin_coordinator.fleet import Fleet, FleetTable
from multispin_models.errors import ConfigError

__all__ = ["keep_fleet_file", "kept_fleet_file", "read_fleet_file"]

log = logging.getLogger(__name__)

LEAST_S, MOST_S = 2.0, 30.0  # between two writings: after a change, and without one


def read_fleet_file(path: Path) -> FleetTable:
    """Return the table in a file.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=FleetTable)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"table of agents {path} cannot be read: {error}") from error


@asynccontextmanager
async def kept_fleet_file(path: Path, fleet: Fleet, now_ns: Callable[[], int]) -> AsyncIterator[None]:
    """Keep the table in a file meanwhile; see `keep_fleet_file`."""
    keeping = asyncio.create_task(keep_fleet_file(path, fleet, now_ns))
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def keep_fleet_file(path: Path, fleet: Fleet, now_ns: Callable[[], int]) -> None:
    """Write the table down soon after every change and now and then, until cancelled; then once more.

    A disk that takes nothing is told once in the log and tried again.
    """
    if await asyncio.to_thread(path.exists):
        try:
            fleet.restore(await asyncio.to_thread(read_fleet_file, path))
        except ConfigError as error:
            log.warning("%s: it is written anew", error)
    written, written_s, failed = -1, 0.0, False
    try:
        while True:
            if fleet.num_changes != written or time.monotonic() - written_s >= MOST_S:
                written, written_s = fleet.num_changes, time.monotonic()
                table = fleet.table(multispin_models.__version__, now_ns())
                try:
                    await asyncio.to_thread(_write, path, table)
                    failed = False
                except OSError as error:
                    if not failed:
                        log.warning("table of agents %s cannot be written: %s", path, error)
                    written, failed = -1, True
            await asyncio.sleep(LEAST_S)
    finally:
        try:
            _write(path, fleet.table(multispin_models.__version__, now_ns()))
        except OSError as error:
            log.warning("table of agents %s cannot be written: %s", path, error)


def _write(path: Path, table: FleetTable) -> None:
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(table))
    new.replace(path)
