"""Look into records: a coordinator's store, or the folder of a run.

multispin records show STORE                                  what is there, by run, agent and kind
multispin records check STORE                                 whether it fits together; the exit status says so
multispin records export STORE --format parquet --out DIR     a file a kind; jsonl needs no extra
multispin records fields                                      every field with its type and unit, in Markdown
"""

import argparse
import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from multispin.progress import counter_line
from multispin_models.errors import ConfigError
from multispin_models.records import KINDS, GapRecord, decode_line, read_jsonl
from multispin_models.records.checking import check_records
from multispin_models.records.fields import records_document

__all__ = ["add_arguments", "run"]

_SHOWN_EVERY = 1000  # records
_FILES = {"run.jsonl": "RunHeader", "requests.jsonl": "RequestRecord", "rounds.jsonl": "RoundRecord"}
_FILES |= {"energy.jsonl": "EnergyRecord", "conditions.jsonl": "ConditionsRecord", "end.jsonl": "EndRecord"}


class _Row(NamedTuple):
    """A record with its key; agent, boot and sequence are empty in the folder of a run."""

    agent: str
    boot_id: str
    sequence: int
    kind: str
    run_id: str
    line: bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of `multispin records` and their flags."""
    commands = parser.add_subparsers(dest="records_command", required=True, metavar="WHAT")
    for name, summary in (
        ("show", "what is there, by run, agent and kind"),
        ("check", "whether records fit together"),
        ("export", "to JSON lines or Parquet, a file a kind"),
        ("fields", "every field with its type and unit"),
    ):
        command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if name != "fields":
            command.add_argument("source", metavar="STORE", help="SQLite file of a coordinator, or folder of a run")
            command.add_argument("--run-id", metavar="ID", help="of this run alone")
        if name != "fields":
            command.add_argument("--json", action="store_true", help="print one JSON object")
        if name == "export":
            command.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl", help="default %(default)s")
            command.add_argument("--out", required=True, metavar="DIR", help="folder for the files")


def run(args: argparse.Namespace) -> int:
    """Run `multispin records`; return the exit status."""
    if args.records_command == "fields":
        print(records_document(), end="")
        return 0
    rows = _counted(_rows(Path(args.source), args.run_id), Path(args.source))
    if args.records_command == "show":
        return _show(rows, as_json=args.json)
    if args.records_command == "check":
        return _check(rows, as_json=args.json)
    return _export(rows, Path(args.out), args.format, as_json=args.json)


def _counted(rows: Iterator[_Row], source: Path) -> Iterator[_Row]:
    """Yield rows, and say of a store how many have been read."""
    if not source.is_file():
        yield from rows
        return
    show, total = counter_line("records read"), 0
    for number, row in enumerate(rows, 1):
        if number == 1:  # it could be opened: it is a store
            with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as database:
                [(total,)] = database.execute("SELECT COUNT(*) FROM records")
        if number % _SHOWN_EVERY == 0:
            show(number, total)
        yield row


def _rows(source: Path, run_id: str | None) -> Iterator[_Row]:
    """Yield the records of a store or of a run's folder."""
    if source.is_dir():
        for name, kind in _FILES.items():
            if (source / name).exists():
                read_jsonl(source / name, KINDS[kind])  # a bad line is told with its number
                for line in (source / name).read_bytes().splitlines():
                    row_run_id = decode_line(kind, line).run_id
                    if run_id in {None, row_run_id}:
                        yield _Row("", "", 0, kind, row_run_id, line)
        return
    if not source.exists():
        raise ConfigError(f"{source} is not there: give the store of a coordinator, or the folder of a run")
    try:
        database = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)
        query = "SELECT agent, boot_id, sequence, kind, run_id, line FROM records WHERE ? IN ('', run_id)"
        for row in database.execute(f"{query} ORDER BY agent, boot_id, sequence", (run_id or "",)):
            yield _Row(*row)
        database.close()
    except sqlite3.Error as error:
        raise ConfigError(f"{source} is no store of records: {error}") from error


def _show(rows: Iterator[_Row], *, as_json: bool) -> int:
    counts: Counter[tuple[str, str, str]] = Counter()
    dropped: Counter[tuple[str, str]] = Counter()
    for row in rows:
        counts[row.run_id, row.agent, row.kind] += 1
        if row.kind == GapRecord.__name__:
            gap = decode_line(row.kind, row.line)
            assert isinstance(gap, GapRecord)
            dropped[row.run_id, row.agent] += gap.num_dropped
    found = [
        {"run_id": run_id, "agent": agent, "kind": kind, "records": count, "dropped": dropped[run_id, agent]}
        for (run_id, agent, kind), count in sorted(counts.items())
    ]
    if as_json:
        print(json.dumps({"records": found}))
        return 0
    print(f"{'run':<18} {'agent':<16} {'kind':<14} {'records':>9}  dropped rounds")
    for each in found:
        of_rounds = str(each["dropped"]) if each["kind"] == "RoundRecord" else ""
        print(f"{each['run_id']:<18} {each['agent']:<16} {each['kind']:<14} {each['records']:>9}  {of_rounds}".rstrip())
    return 0


def _check(rows: Iterator[_Row], *, as_json: bool) -> int:
    count = 0
    problems: list[str] = []

    def decoded() -> Iterator[Any]:
        nonlocal count
        for row in rows:
            count += 1
            yield decode_line(row.kind, row.line)

    for problem in check_records(decoded()):
        problems.append(problem)
        if not as_json:
            print(problem, file=sys.stderr)
    if as_json:
        print(json.dumps({"records": count, "problems": problems}))
    else:
        print(f"{count} records, {len(problems)} problems")
    return int(bool(problems))


def _export(rows: Iterator[_Row], out: Path, file_format: str, *, as_json: bool) -> int:
    out.mkdir(parents=True, exist_ok=True)
    by_kind: dict[str, list[_Row]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(row)
    for kind, own in by_kind.items():
        path = out / f"{kind}.{file_format}"
        if file_format == "jsonl":
            path.write_bytes(b"".join(row.line + b"\n" for row in own))
        else:
            _write_parquet(path, own)
        if not as_json:
            print(f"{path}: {len(own)} records")
    if as_json:
        files = [
            {"file": str(out / f"{kind}.{file_format}"), "kind": kind, "records": len(own)}
            for kind, own in by_kind.items()
        ]
        print(json.dumps({"files": files}))
    return 0


def _write_parquet(path: Path, rows: list[_Row]) -> None:
    """Write a table of a kind: a column a field, and the key; what is no number, text or list of numbers is JSON."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"Parquet is not installed ({error}): install the extra parquet, or use jsonl") from error
    keys = ({"agent": row.agent, "boot_id": row.boot_id, "sequence": row.sequence} for row in rows)
    records = [key | json.loads(row.line) for key, row in zip(keys, rows, strict=True)]
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name) for record in records] for name in names}
    arrays = {name: pa.array(*_typed(pa, values)) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), path)


def _typed(pa: Any, values: list[Any]) -> tuple[list[Any], Any]:
    """Return values and the Arrow type that holds them all."""
    known = [value for value in values if value is not None]
    inner = [item for value in known if isinstance(value, list) for item in value]
    if known and all(isinstance(value, list) for value in known) and all(isinstance(x, int | float) for x in inner):
        return values, pa.list_(_typed(pa, inner)[1])
    plain = (((bool,), pa.bool_()), ((int,), pa.int64()), ((int, float), pa.float64()), ((str,), pa.string()))
    for kinds, arrow in plain:
        if all(type(value) in kinds for value in known):
            large = arrow == pa.int64() and any(value >= 1 << 63 for value in known)
            return values, pa.uint64() if large else arrow
    return [None if value is None else json.dumps(value) for value in values], pa.string()
