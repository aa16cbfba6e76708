"""What a run measured, one set of figures a cell: where all of the report starts from. DuckDB reads the tables."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from msgspec import Struct

from multispin.campaign.folder import (
    CELLS,
    CONDITIONS,
    REQUESTS,
    ROUNDS,
    Campaign,
    Cell,
    CellEnergy,
    EnergyLabel,
    completed_cells,
    excluded_cells,
    read_campaign,
    read_energy,
    read_schedule,
)
from multispin.campaign.plan import Arm, Plan
from multispin.campaign.plan_file import read_plan
from multispin.campaign.stores import connect
from multispin.campaign.summary import PARTS
from multispin_models.errors import ConfigError

__all__ = ["CellFigures", "Measured", "measure"]


class CellFigures(Struct, frozen=True, kw_only=True):
    """Of a cell that counts; a figure that cannot be had is null.

    Attributes:
        cell: with its factors.
        requests, tokens: answered.
        ttft_s, tpot_s, e2e_s, waited_s: medians over requests.
        goodput_tokens_per_s: all tokens over the time from the first start to the last end.
        energy_j_per_token: joules of the run's windows, each domain once, idle power included, over tokens.
        energy_label: of it; null without it.
        energy_reason: why it is null; else null.
        idle_w: power of the idle windows; null without one.
        backhaul_bytes_per_token: payload, both ways.
        acceptance_rate, mean_acceptance_length: over requests.
        quality_nll: mean over requests, nats a token; of texts that are not the target's.
    """

    cell: Cell
    requests: int
    tokens: int
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    waited_s: float | None
    goodput_tokens_per_s: float | None
    energy_j_per_token: float | None
    energy_label: EnergyLabel | None
    energy_reason: str | None
    idle_w: float | None
    backhaul_bytes_per_token: float | None
    acceptance_rate: float | None
    mean_acceptance_length: float | None
    quality_nll: float | None


class Measured(NamedTuple):
    """A run's figures.

    Attributes:
        cells: that count, in their order.
        survival: (arm, task, position, drafts that long, share of them accepted up to there).
        parts: (arm, seconds by part of a round, mean over its rounds; tokens a round; rounds).
        thermal: (device, end, seconds since the run's first look, °C, cell counts).
        excluded: reason by cell.
        missing: cells that were scheduled and are not there.
    """

    path: Path
    plan: Plan
    campaign: Campaign
    arms: dict[str, Arm]
    cells: list[CellFigures]
    survival: list[tuple[str, str, int, int, float]]
    parts: list[tuple[str, dict[str, float], float, int]]
    thermal: list[tuple[str, str, float, float, bool]]
    excluded: dict[str, str]
    missing: list[str]

    @property
    def varied(self) -> list[str]:
        """Factors of more than one level."""
        names = dict.fromkeys(name for each in self.cells for name in each.cell.factors)
        return [name for name in names if len(self.levels(name)) > 1]

    def levels(self, factor: str) -> list[Any]:
        """Return the levels of a factor in the order of the plan; numbers by size."""
        found = list(dict.fromkeys(each.cell.factors[factor] for each in self.cells if factor in each.cell.factors))
        if all(isinstance(level, int | float) for level in found):
            return sorted(found)
        planned = list(getattr(self.plan.factors, factor, ()))
        return sorted(found, key=lambda level: planned.index(level) if level in planned else len(planned))


def measure(path: Path) -> Measured:
    """Return the figures of a run.

    Raises:
        MultispinError: a file of it is not there or is none.
    """
    plan, campaign, schedule = read_plan(path / "plan.toml", path).plan, read_campaign(path), read_schedule(path)
    excluded, there = excluded_cells(path), set(completed_cells(path))
    own = [cell for cell in schedule.cells if cell.device in campaign.devices]
    counted = {cell.cell_id: cell for cell in own if cell.cell_id in there - excluded.keys()}
    if not counted:
        raise ConfigError(f"{path} has no cell that counts: nothing was run, or all of it is excluded")
    with TemporaryDirectory(prefix="multispin-spill-") as spill, connect([], "3GB", None, spill) as connection:
        tables = _Tables(connection, path, there)
        requests = {row["cell_id"]: row for row in tables.requests()}
        cells = [_figures(cell, requests[name], read_energy(path, name)) for name, cell in counted.items()]
        return Measured(
            path=path,
            plan=plan,
            campaign=campaign,
            arms={arm.name: arm for arm in plan.arms},
            cells=cells,
            survival=tables.survival(counted),
            parts=tables.parts(counted),
            thermal=tables.thermal(counted),
            excluded=excluded,
            missing=[cell.cell_id for cell in own if cell.cell_id not in there | excluded.keys()],
        )


class _Tables:
    """The Parquet tables of a run's cells.

    Args:
        connection: of DuckDB.
        path: of the run.
        there: cells that have a folder.
    """

    def __init__(self, connection: Any, path: Path, there: set[str]) -> None:
        self._connection = connection
        self._paths = {
            name: [str(path / CELLS / cell / name) for cell in sorted(there) if (path / CELLS / cell / name).exists()]
            for name in (REQUESTS, ROUNDS, CONDITIONS)
        }

    def requests(self) -> list[dict[str, Any]]:
        """Return sums and medians of requests by cell."""
        begun = "arrival_s + waited_s"
        figures = {
            "requests": "count(*)",
            "tokens": "sum(num_generated)::BIGINT",
            "ttft_s": "median(ttft_s)",
            "tpot_s": "median(tpot_s)",
            "e2e_s": "median(e2e_s)",
            "waited_s": "median(waited_s)",
            "span_s": f"max({begun} + e2e_s) - min({begun})",  # of clocks of one machine each
            "bytes": "sum(payload_up_bytes + payload_down_bytes)::BIGINT",
            "drafted": "sum(num_drafted)::BIGINT",
            "accepted": "sum(num_accepted)::BIGINT",
            "rounds": "sum(num_rounds)::BIGINT",
            "quality_nll": "avg(quality_nll)",
        }
        return self._rows(REQUESTS, "", figures, ["cell_id"])

    def survival(self, counted: dict[str, Cell]) -> list[tuple[str, str, int, int, float]]:
        """Return survival by arm, task and position."""
        if not self._paths[ROUNDS]:
            return []
        tasks = self._read(REQUESTS).project("cell_id, wire_request_id, task")
        joined = self._read(ROUNDS).filter("num_draft_tokens > 0").join(tasks, "cell_id, wire_request_id")
        groups = "cell_id, task, num_draft_tokens, num_accepted"
        lengths: dict[tuple[str, str], list[tuple[int, int, int]]] = defaultdict(list)
        for cell_id, task, drafted, accepted, n in joined.aggregate(f"{groups}, count(*)", groups).fetchall():
            if cell_id in counted:
                lengths[counted[cell_id].arm, task or "other"].append((drafted, accepted, n))
        found = []
        for (arm, task), own in sorted(lengths.items()):
            for position in range(1, max(drafted for drafted, _, _ in own) + 1):
                n = sum(count for drafted, _, count in own if drafted >= position)
                survived = sum(count for _, accepted, count in own if accepted >= position)
                found.append((arm, task, position, n, survived / n))
        return found

    def parts(self, counted: dict[str, Cell]) -> list[tuple[str, dict[str, float], float, int]]:
        """Return where the time of a round goes, by arm, without rounds whose clocks jumped or are not known."""
        names = [name for name in PARTS if name != "round_s"]
        known = " AND ".join(f"{name} IS NOT NULL" for name in names)
        rows = self._rows(
            ROUNDS,
            f"NOT is_open AND clock_event IS NULL AND {known}",
            {
                "n": "count(*)",
                "tokens": "sum(num_accepted) + count(next_token_id)",
                **{name: f"sum({name})" for name in names},
            },
            ["cell_id"],
        )
        totals: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for row in rows:
            if row["cell_id"] in counted:
                for name in ("n", "tokens", *names):
                    totals[counted[row["cell_id"]].arm][name] += row[name]
        return [
            (arm, {name: own[name] / own["n"] for name in names}, own["tokens"] / own["n"], int(own["n"]))
            for arm, own in totals.items()
        ]

    def thermal(self, counted: dict[str, Cell]) -> list[tuple[str, str, float, float, bool]]:
        """Return temperatures over wall time by end, which goes on through restarts of a machine."""
        if not self._paths[CONDITIONS]:
            return []
        rows = self._read(CONDITIONS).filter("temperature_c IS NOT NULL").order("wall")
        first: dict[tuple[str, str], datetime] = {}
        found = []
        columns = 'device, "end", wall, temperature_c, cell_id'
        for device, end, wall, celsius, cell_id in rows.project(columns).fetchall():
            at = datetime.fromisoformat(wall)
            start = first.setdefault((device, end), at)
            found.append((device, end, (at - start).total_seconds(), celsius, cell_id in counted))
        return found

    def _read(self, name: str) -> Any:
        return self._connection.read_parquet(self._paths[name], union_by_name=True)

    def _rows(self, name: str, condition: str, figures: dict[str, str], groups: Sequence[str]) -> list[dict[str, Any]]:
        if not self._paths[name]:
            return []
        source = self._read(name).filter(condition) if condition else self._read(name)
        chosen = ", ".join([*groups, *(f"{expression} AS {name}" for name, expression in figures.items())])
        result = source.aggregate(chosen, ", ".join(groups))
        return [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]


def _figures(cell: Cell, row: dict[str, Any], energy: CellEnergy) -> CellFigures:
    tokens, drafted, rounds = row["tokens"], row["drafted"], row["rounds"]
    joules, label, reason = _joules(energy)
    return CellFigures(
        cell=cell,
        requests=row["requests"],
        tokens=tokens,
        ttft_s=row["ttft_s"],
        tpot_s=row["tpot_s"],
        e2e_s=row["e2e_s"],
        waited_s=row["waited_s"],
        goodput_tokens_per_s=tokens / row["span_s"] if row["span_s"] else None,
        energy_j_per_token=joules / tokens if joules is not None and tokens else None,
        energy_label=label if tokens else None,
        energy_reason=reason if tokens else "no token was generated",
        idle_w=_idle_power(energy),
        backhaul_bytes_per_token=row["bytes"] / tokens if tokens else None,
        acceptance_rate=row["accepted"] / drafted if drafted else None,
        mean_acceptance_length=1.0 + row["accepted"] / rounds if rounds else None,
        quality_nll=row["quality_nll"],
    )


def _joules(energy: CellEnergy) -> tuple[float | None, EnergyLabel | None, str | None]:
    """Return joules of the run, label, and why there are none; domains count once, labels are never mixed."""
    windows = {window.domain: window for window in energy.windows if window.kind == "run"}
    if not windows:
        return None, None, "no window of the run was recorded"
    for window in windows.values():
        if window.energy_j is None or window.label is None:
            return None, None, window.reason or f"{window.end} has no label"
    labels = {window.label for window in windows.values()}
    if len(labels) > 1:
        return None, None, f"of different labels, not added: {', '.join(sorted(map(str, labels)))}"
    return sum(window.energy_j or 0.0 for window in windows.values()), labels.pop(), None


def _idle_power(energy: CellEnergy) -> float | None:
    windows = {window.domain: window for window in energy.windows if window.kind == "idle"}
    known = [
        window.energy_j / ((window.ended_ns - window.started_ns) / 1e9)
        for window in windows.values()
        if window.energy_j is not None and window.ended_ns > window.started_ns
    ]
    return sum(known) if known and len(known) == len(windows) else None
