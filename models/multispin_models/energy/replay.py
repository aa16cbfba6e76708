"""A recorded file in place of a sensor: for tests, and to try the energy path where there is no sensor.

CSV with a heading, or JSON lines; times in seconds, rising; watts or joules counted. An empty cell or null is a moment
when the sensor did not answer. What was recorded can be said first, in a comment or in a line without time:

    # covers: module                        {"covers": "module"}
    t_s,power_w                             {"t_s": 0.0, "power_w": 4.2}
    0.0,4.2                                 {"t_s": 0.1, "power_w": null}
    0.1,

Time starts at the first row when the meter is opened. Values between rows are interpolated.
"""

import csv
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from multispin_models.clock import monotonic_ns
from multispin_models.energy.meter import Covers, Label, MeterInfo, Quantity, Rail, Reading
from multispin_models.errors import SensorError

__all__ = ["ReplayMeter"]

_COLUMNS: dict[str, Quantity] = {"power_w": "power", "energy_j": "energy"}


class _About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file may say of its recording."""

    covers: Covers = "module"
    label: Label = "measured"


class _Row(NamedTuple):
    t_s: float
    value: float | None


class ReplayMeter:
    """Plays a recording against the clock.

    Args:
        path: .csv, or .jsonl.
        loop: start again at its end, else reads fail there. A counter goes on counting; power jumps from the last
            row to the first.
        clock: monotonic nanoseconds.

    Raises:
        SensorError: the file cannot be read or has a bad line; says which.
    """

    def __init__(self, path: Path, *, loop: bool = False, clock: Callable[[], int] = monotonic_ns) -> None:
        about, quantity, self._rows = _load(path)
        self._path = path
        self._loop = loop
        self._clock = clock
        self._times = [row.t_s for row in self._rows]
        self._last_s = self._rows[-1].t_s
        self._start_ns = clock()
        self.info = MeterInfo(
            name=f"replay:{path}",
            quantity=quantity,
            covers=about.covers,
            label=about.label,
            rails=(Rail("recorded", in_total=True),),
            note=f"replayed from {path.name}: not the energy of this run",
        )

    def read(self) -> Reading:
        """Return the recorded value now.

        Raises:
            SensorError: the recording is over, or the sensor did not answer at this moment of it.
        """
        t_ns = self._clock()
        elapsed_s = (t_ns - self._start_ns) / 1e9
        rounds = 0
        if self._loop:
            rounds = int(elapsed_s // self._last_s)
            elapsed_s -= rounds * self._last_s
        if elapsed_s > self._last_s:
            raise SensorError(f"{self._path} is over after {self._last_s} s; record longer, or play it in a loop")
        value = self._at(elapsed_s)
        if self.info.quantity == "energy":
            value += rounds * ((self._rows[-1].value or 0.0) - (self._rows[0].value or 0.0))
        return Reading(t_ns, (value,))

    def close(self) -> None:
        """Do nothing: the file was read at open."""

    def _at(self, t_s: float) -> float:
        """Return the value at a time of the recording, between its rows on a line."""
        after = min(bisect_right(self._times, t_s), len(self._rows) - 1)
        a, b = self._rows[after - 1], self._rows[after]
        share = (t_s - a.t_s) / (b.t_s - a.t_s)
        if share in (0.0, 1.0):
            value = a.value if share == 0.0 else b.value
        else:
            value = None if a.value is None or b.value is None else a.value + (b.value - a.value) * share
        if value is None:
            raise SensorError(f"{self._path} has no value at {t_s:.3f} s: the sensor did not answer there")
        return value


def _load(path: Path) -> tuple[_About, Quantity, list[_Row]]:
    """Return what a file says of itself, its kind, and its rows in order of time, the first at 0."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SensorError(f"recording {path} cannot be read: {error}") from error
    about: dict[str, str] = {}
    rows: list[_Row] = []
    column = ""
    for number, fields in _lines_csv(text) if path.suffix == ".csv" else _lines_json(text, path):
        if "t_s" not in fields:
            about |= fields
            continue
        named = [name for name in _COLUMNS if name in fields]
        if len(named) != 1 or (column and named != [column]):
            raise SensorError(f"{path} line {number} has {sorted(fields)}, needed are t_s and one of {list(_COLUMNS)}")
        column = named[0]
        rows.append(_row(fields["t_s"], fields[column], f"{path} line {number}"))
    _check(rows, column, path)
    try:
        return msgspec.convert(about, _About), _COLUMNS[column], [_Row(t - rows[0].t_s, v) for t, v in rows]
    except msgspec.ValidationError as error:
        raise SensorError(f"{path} describes itself with {about}: {error}") from error


def _lines_csv(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    heading: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            key, colon, value = line[1:].partition(":")
            if colon:
                yield number, {key.strip(): value.strip()}
        elif line.strip():
            cells = [cell.strip() for cell in next(csv.reader([line]))]
            if heading:
                yield number, dict(zip(heading, cells, strict=False))
            heading = heading or cells


def _lines_json(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise SensorError(f"{path} line {number} is no JSON object: {line[:60]!r}")
        yield number, fields


def _row(t_s: Any, value: Any, where: str) -> _Row:
    try:
        row = _Row(float(t_s), None if value in ("", None) else float(value))
    except (TypeError, ValueError) as error:
        raise SensorError(f"{where}: {error}") from error
    if not math.isfinite(row.t_s) or (row.value is not None and not (math.isfinite(row.value) and row.value >= 0.0)):
        raise SensorError(f"{where} has {t_s}, {value}; allowed are finite numbers, values 0 or more")
    return row


def _check(rows: list[_Row], column: str, path: Path) -> None:
    if len(rows) < 2:
        raise SensorError(f"{path} has {len(rows)} rows, needed are 2 or more with t_s and one of {list(_COLUMNS)}")
    for a, b in pairwise(rows):
        if b.t_s <= a.t_s:
            raise SensorError(f"{path}: time goes from {a.t_s} to {b.t_s} s; it must rise")
    counts = [row.value for row in rows if row.value is not None]
    if column == "energy_j":
        if rows[0].value is None or rows[-1].value is None:
            raise SensorError(f"{path}: a counter needs a value in its first and its last row")
        if any(b < a for a, b in pairwise(counts)):
            raise SensorError(f"{path}: the counter falls; joules counted must rise")
