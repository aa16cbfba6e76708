"""Show the agents of a coordinator: versions, models, disk, temperature, throttling, clock, last seen.

  multispin fleet status                       on the coordinator: of its fleet_file, as its settings name it
  multispin fleet status --file FILE --json    of a copy of it, for programs

The coordinator writes the file within 2 s of a change and every 30 s; what it holds outlives restarts. An agent tells
of its box when it changes and once a minute. Exit status 1 if the file cannot be read; what is wrong with a box is in
the table, in the column "notes".
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from multispin_coordinator.config import Config
from multispin_coordinator.fleet import Box, FleetTable
from multispin_coordinator.fleet_file import read_fleet_file
from multispin_models.errors import ConfigError
from multispin_models.keys.registry import Registry
from multispin_models.settings import load_settings

__all__ = ["add_arguments", "fleet_table", "run"]

SETTINGS = Path("/etc/multispin/coordinator.toml")
COLUMNS = ("agent", "is", "seen", "version", "protocol", "draft", "disk free", "spool", "max C", "clock", "notes")
LATE_S = 90.0  # a box tells once a minute
OFF_S = 5.0  # of a wall clock; less may be the way of the message


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of `multispin fleet`."""
    parser.add_argument("action", choices=("status",), help="show all agents that were ever here")
    parser.add_argument("--coordinator", type=Path, metavar="FILE", help=f"settings that name the file ({SETTINGS})")
    parser.add_argument("--file", type=Path, metavar="FILE", help="the table itself")
    parser.add_argument("--json", action="store_true", help="print the table as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run `multispin fleet status`; return the exit status."""
    config = None if args.file is not None else load_settings(Config, args.coordinator or SETTINGS)
    if config is not None and config.fleet_file is None:
        raise ConfigError(
            f"{args.coordinator or SETTINGS} sets no fleet_file: set one, as /var/lib/multispin-coordinator/fleet.json"
        )
    table = read_fleet_file(args.file if config is None else Path(str(config.fleet_file)))
    seen = {box.agent_id for box in table.boxes}
    never = sorted(set(_enrolled(config)) - seen)
    if args.json:
        print(msgspec.json.encode({**msgspec.structs.asdict(table), "never_seen": never}).decode())
    else:
        print(fleet_table(table, time.time(), never))
    return 0


def _enrolled(config: Config | None) -> list[str]:
    """Return the devices that have keys here, none without a registry."""
    folder = None if config is None else config.security.authorized_keys_dir
    return [] if folder is None else [device.device_id for device in Registry(Path(folder)).devices()]


def fleet_table(table: FleetTable, now_s: float, never: Sequence[str] = ()) -> str:
    """Return the table for people.

    Args:
        table: as it was written.
        now_s: Unix time.
        never: devices that have keys and were never here.
    """
    age_s = now_s - table.written_unix_s
    here = sum(box.is_here for box in table.boxes)
    head = (
        f"coordinator {table.coordinator_version}, protocol {table.protocol_version}: {here} of {len(table.boxes)} "
        f"agents are here; written {_span(age_s)} ago"
    )
    if age_s > LATE_S:
        head += ": the coordinator does not run, or its disk takes nothing"
    rows = [COLUMNS, *(_row(box, table, now_s) for box in table.boxes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if never:
        lines.append(f"enrolled and never here: {', '.join(map(_shown, never))}")
    return "\n".join([head, *lines])


def _row(box: Box, table: FleetTable, now_s: float) -> tuple[str, ...]:
    status = box.status
    disk = "-"
    if status is not None and status.disk_free_mb is not None and status.disk_mb:
        disk = f"{status.disk_free_mb / 1e3:.1f} GB {100 * status.disk_free_mb // status.disk_mb} %"
    heat = None if status is None else status.temperature_millidegrees
    return (
        _shown(box.agent_id),
        "here" if box.is_here else "gone",
        _span(now_s - box.last_seen_unix_s),
        _shown(box.software_version),
        str(box.protocol_version),
        _shown(box.draft or box.draft_fingerprint[:12])[:40],
        disk,
        "-" if status is None or status.num_spooled is None else str(status.num_spooled),
        "-" if heat is None else f"{heat / 1e3:.0f}",
        _clock(box),
        "; ".join(_notes(box, table)) or "-",
    )


def _clock(box: Box) -> str:
    if box.status is not None and box.status.clock_bound_us is not None:
        return f"within {box.status.clock_bound_us / 1e3:.1f} ms"
    return "-" if box.clock_offset_s is None else f"{box.clock_offset_s:+.1f} s"


def _notes(box: Box, table: FleetTable) -> list[str]:
    """Return what somebody should look after."""
    notes = []
    if box.software_version != table.coordinator_version:
        notes.append(f"version is not the coordinator's {table.coordinator_version}")
    if box.protocol_version != table.protocol_version:
        notes.append(f"update it before the coordinator speaks protocol {table.protocol_version + 1}")
    status = box.status
    if status is None:
        return notes
    if status.degraded:
        notes.append(_shown(status.degraded))
    if status.throttled:
        notes.append(f"slowed: {_shown(status.throttled)}")
    if box.clock_offset_s is not None and abs(box.clock_offset_s) > OFF_S:
        notes.append(f"wall clock is {box.clock_offset_s:+.0f} s off the coordinator's")
    if status.disk_mb and status.disk_free_mb is not None and status.disk_free_mb * 20 < status.disk_mb:
        notes.append("disk nearly full")
    if box.is_here and box.status_unix_s is not None and box.last_seen_unix_s - box.status_unix_s > LATE_S:
        notes.append(f"told of itself {_span(box.last_seen_unix_s - box.status_unix_s)} before it was last heard")
    return notes


def _shown(text: str) -> str:
    """Return what an agent said of itself, without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _span(seconds: float) -> str:
    """Return a time span in its largest fitting unit.

    >>> _span(3.2), _span(600), _span(90_000)
    ('3 s', '10 min', '25 h')
    """
    for unit, length_s in (("d", 172_800), ("h", 7_200), ("min", 120)):
        if seconds >= length_s:
            return f"{seconds / {'d': 86_400, 'h': 3_600, 'min': 60}[unit]:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
