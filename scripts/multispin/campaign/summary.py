"""Runs of any size to the figures of every arm and setting: DuckDB over Parquet, out of core.

Three kinds of aggregation over the tables, each reading only its own columns: sums by cell; histograms of latencies,
from which means and quantiles come; counts by drafted and accepted length, from which the survival by position comes.
What a histogram gives does not depend on order or threads, unlike the sketches of most engines, and those of boxes can
be added.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import pyarrow as pa

from multispin.campaign.folder import REQUESTS, ROUNDS
from multispin.campaign.stores import Store, cells_of, connect, open_store
from multispin_models.errors import ConfigError

__all__ = ["PARTS", "QUANTILES", "QUANTILE_ERROR", "Summary", "summarise"]

PARTS: Final = (
    *("round_s", "draft_wait_s", "rewind_s", "agent_queue_s", "uplink_s", "coordinator_queue_s", "verify_s"),
    "downlink_s",
)
QUANTILES: Final = (0.1, 0.5, 0.9, 0.99)
_BINS_PER_E: Final = 50
QUANTILE_ERROR: Final = math.exp(0.5 / _BINS_PER_E) - 1.0  # relative, 1 %
_ZERO_BIN: Final = -(1 << 30)
_ROUND_SUMS: Final = {
    "rounds": "count(*) FILTER (NOT is_open)",
    "drafted": "sum(num_draft_tokens)::BIGINT",
    "accepted": "sum(num_accepted)::BIGINT",
    "tokens": "(sum(num_accepted) + count(next_token_id))::BIGINT",
    "up_bytes": "sum(payload_up_bytes)::BIGINT",
    "down_bytes": "sum(payload_down_bytes)::BIGINT",
    "energy_agent_j": "sum(energy_agent_j)",
    "energy_coordinator_j": "sum(energy_coordinator_j)",
    "clock_events": "count(clock_event)",
}
_REQUEST_SUMS: Final = {"requests": "count(*)", "generated": "sum(num_generated)::BIGINT"}
_SOUND: Final = "NOT is_open AND clock_event IS NULL"
_CELL: Final = "campaign_id, cell_id"
_BIN: Final = f"CASE WHEN value > 0 THEN floor(ln(value) * {_BINS_PER_E})::INTEGER ELSE {_ZERO_BIN} END"
Row = dict[str, Any]
Key = tuple[str, ...]


class Summary(NamedTuple):
    """The figures of many runs.

    Attributes:
        keys: columns that name a row: "arm", and the factors that have more than one level.
        arms: a row an arm and setting; a figure that cannot be had is not in it.
        positions: survival by position: keys, "position", "rounds" (drafts that long), "survived" (share of them whose
            tokens up to there were all accepted).
        rounds: counted.
        excluded: cells left out, by their journals.
    """

    keys: tuple[str, ...]
    arms: list[Row]
    positions: list[Row]
    rounds: int
    excluded: int


def summarise(sources: Sequence[str], *, memory: str = "3GB", threads: int | None = None) -> Summary:
    """Return the figures of all runs at some addresses.

    Args:
        sources: folders or addresses, of one run or of many (`stores.py`).
        memory: of DuckDB; the process takes about 200 MB besides.
        threads: of DuckDB; null takes all cores.

    Raises:
        ConfigError: nothing is there, or tables that are none.
    """
    stores = [open_store(source) for source in sources]
    cells, excluded = cells_of(stores)
    if not cells:
        raise ConfigError(
            f"no run with a cell that counts below {', '.join(sources)}: give its folder, or one above it"
        )
    names = sorted({name for cell in cells.values() for name in cell.factors})
    levels = {name: {cell.factors[name] for cell in cells.values() if name in cell.factors} for name in names}
    varied = [name for name in names if len(levels[name]) > 1]
    keys = ("arm", *varied)
    key_of = {each: (cell.arm, *(_level(cell.factors.get(name)) for name in varied)) for each, cell in cells.items()}
    arms: dict[Key, Row] = defaultdict(dict)
    survival: list[Row] = []
    with TemporaryDirectory(prefix="multispin-spill-") as spill, connect(stores, memory, threads, spill) as connection:
        places = {key: place for place, key in enumerate(dict.fromkeys(key_of.values()))}
        rows = [{"campaign_id": own, "cell_id": cell, "place": places[key_of[own, cell]]} for own, cell in cells]
        counted = _Counted(connection, stores, pa.Table.from_pylist(rows), list(places))
        for sums, table in ((_ROUND_SUMS, ROUNDS), (_REQUEST_SUMS, REQUESTS)):
            counted.add_sums(arms, table, sums)
        counted.add_quantiles(arms, ROUNDS, PARTS, _SOUND)
        counted.add_quantiles(arms, REQUESTS, ("ttft_s", "tpot_s"), "")
        survival = _survival(counted.lengths(), keys)
    named = [dict(zip(keys, key, strict=True)) | arms[key] | _derived(arms[key]) for key in sorted(arms)]
    rounds = sum(int(row.get("rounds", 0)) for row in arms.values())
    return Summary(keys, named, survival, rounds, excluded)


class _Counted:
    """Aggregations over all tables of a name, by arm and setting.

    Args:
        connection: of DuckDB.
        stores: where the tables are.
        cells: campaign_id, cell_id and place of those that count.
        keys: by place.
    """

    def __init__(self, connection: Any, stores: Sequence[Store], cells: pa.Table, keys: Sequence[Key]) -> None:
        self._connection = connection
        self._cells = connection.from_arrow(cells)
        self._keys = keys
        self._paths = {
            name: [store.address(path) for store in stores for path in store.find(name)] for name in (ROUNDS, REQUESTS)
        }
        if not self._paths[ROUNDS] and not self._paths[REQUESTS]:
            raise ConfigError(f"neither {ROUNDS} nor {REQUESTS} is there: nothing was run, or not yet collected")

    def add_sums(self, arms: dict[Key, Row], table: str, sums: dict[str, str]) -> None:
        """Add sums over the rows, and the number of cells, to the rows of their arms."""
        figures = ", ".join(f"{expression} AS {name}" for name, expression in sums.items())
        if (source := self._read(table)) is None:
            return
        for place, *values in self._by_key(source, [], figures, ["count(*)", *(f"sum({name})" for name in sums)]):
            row = arms[self._keys[place]]
            row |= {name: value for name, value in zip(("cells", *sums), values, strict=True) if value is not None}

    def add_quantiles(self, arms: dict[Key, Row], table: str, columns: Sequence[str], condition: str) -> None:
        """Add count, mean and quantiles of some columns, which are read once."""
        names = ", ".join(columns)
        long = f"SELECT * FROM (UNPIVOT wide ON {names} INTO NAME part VALUE value)"  # noqa: S608 - names are ours
        histograms: dict[tuple[Key, str], list[tuple[int, int]]] = defaultdict(list)
        totals: dict[tuple[Key, str], list[float]] = defaultdict(list)
        if (source := self._read(table, condition)) is None:
            return
        source = source.project(f"{_CELL}, {names}").query("wide", long)
        groups = [("part", "part"), (_BIN, "bin")]
        figures = "count(*) AS n, sum(value) AS total"
        for place, part, number, n, total in self._by_key(source, groups, figures, ["sum(n)", "sum(total)"]):
            histograms[self._keys[place], part].append((number, int(n)))
            totals[self._keys[place], part].append(total)
        for (key, part), histogram in histograms.items():
            name, n = part.removesuffix("_s"), sum(count for _, count in histogram)
            arms[key] |= {f"{name}_n": n, f"{name}_s_mean": math.fsum(totals[key, part]) / n}
            arms[key] |= {
                f"{name}_s_p{100 * share:g}": value
                for share, value in zip(QUANTILES, quantiles(histogram), strict=True)
            }

    def lengths(self) -> dict[Key, list[tuple[int, int, int]]]:
        """Return (drafted, accepted, rounds) by key."""
        found: dict[Key, list[tuple[int, int, int]]] = defaultdict(list)
        if (source := self._read(ROUNDS, "num_draft_tokens > 0")) is None:
            return found
        groups = [("num_draft_tokens", "drafted"), ("num_accepted", "accepted")]
        for place, drafted, accepted, n in self._by_key(source, groups, "count(*) AS n", ["sum(n)"]):
            found[self._keys[place]].append((drafted, accepted, int(n)))
        return found

    def _read(self, table: str, condition: str = "") -> Any | None:
        """Return the rows of all tables of a name; null if there is none."""
        if not self._paths[table]:
            return None
        source = self._connection.read_parquet(self._paths[table], union_by_name=True)
        return source.filter(condition) if condition else source

    def _by_key(
        self, source: Any, groups: Sequence[tuple[str, str]], figures: str, again: Sequence[str]
    ) -> list[tuple[Any, ...]]:
        """Return (place, groups..., figures...): first by cell, where the rows are many, then by key."""
        names = "".join(f", {name}" for _, name in groups)
        chosen = "".join(f", {expression} AS {name}" for expression, name in groups)
        by_cell = source.aggregate(f"{_CELL}{chosen}, {figures}", f"{_CELL}{names}")
        by_key = by_cell.join(self._cells, _CELL.replace(" ", ""))
        rows: list[tuple[Any, ...]] = by_key.aggregate(f"place{names}, {', '.join(again)}", f"place{names}").fetchall()
        return rows


def quantiles(histogram: Iterable[tuple[int, int]]) -> list[float]:
    """Return the quantiles of (bin, count) pairs, within `QUANTILE_ERROR`.

    >>> [round(value, 3) for value in quantiles([(-100, 98), (0, 2)])]
    [0.137, 0.137, 0.137, 1.01]
    """
    ordered = sorted(histogram)
    total = sum(count for _, count in ordered)
    found, seen, place = [], 0, 0
    for share in QUANTILES:
        while seen + ordered[place][1] < share * total:
            seen += ordered[place][1]
            place += 1
        number = ordered[place][0]
        found.append(0.0 if number == _ZERO_BIN else math.exp((number + 0.5) / _BINS_PER_E))
    return found


def _survival(lengths: dict[Key, list[tuple[int, int, int]]], keys: Sequence[str]) -> list[Row]:
    """Return, by position, how many drafts reach it and the share whose tokens up to it were all accepted."""
    rows = []
    for key in sorted(lengths):
        for position in range(1, max(drafted for drafted, _, _ in lengths[key]) + 1):
            n = sum(count for drafted, _, count in lengths[key] if drafted >= position)
            survived = sum(count for _, accepted, count in lengths[key] if accepted >= position)
            rows.append(
                dict(zip(keys, key, strict=True)) | {"position": position, "rounds": n, "survived": survived / n}
            )
    return rows


def _derived(row: Row) -> Row:
    figures: Row = {}
    if row.get("drafted"):
        figures["acceptance_rate"] = row["accepted"] / row["drafted"]
    if row.get("rounds"):
        figures["mean_acceptance_length"] = 1.0 + row["accepted"] / row["rounds"]
    for name in ("up_bytes", "down_bytes", "energy_agent_j", "energy_coordinator_j"):
        if row.get("tokens") and name in row:
            figures[f"{name}_per_token"] = row[name] / row["tokens"]
    return figures


def _level(value: object) -> str:
    return "" if value is None else str(value)
