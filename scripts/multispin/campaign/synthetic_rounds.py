"""Writes a run of invented rounds, to see what a summary of very many costs.

    python -m multispin.campaign.synthetic_rounds --out DIR --rounds 100000000 --cells 500 [--first 0 --last 99]

The tables have every column of real ones, filled; the values come from one pool of a million, turned for every cell,
and mean nothing. `--first` and `--last` write a part of the cells, so that the rest can follow later.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from multispin.campaign.folder import CAMPAIGN, CELLS, JOURNAL, ROUNDS, SCHEDULE, Campaign, Cell, Schedule
from multispin.campaign.tables import write_table
from multispin_models.records import RoundRecord, describe_machine

__all__ = ["main", "write_cell", "write_run"]

_ID: Final = "synthetic-000000000000"
_POOL: Final = 1 << 20
_ARMS: Final = ("price", "fixed", "lookup", "target alone")
_LINKS: Final = ("none", "20ms", "64kbit/s")
_USERS: Final = (1, 4, 16)
_LONGEST: Final = 8
_SECONDS: Final = (
    *("draft_s", "draft_wait_s", "rewind_s", "agent_queue_s", "uplink_s", "coordinator_queue_s", "verify_s"),
    *("downlink_s", "round_trip_s", "residence_s", "network_s", "clock_bound_s"),
)


def write_run(out: Path, num_cells: int) -> tuple[Cell, ...]:
    """Write the files of a run but its cells; return these."""
    cells = tuple(
        Cell(
            cell_id=f"b{number // 36:03d}-{number:05d}",
            block=number // 36,
            device=f"box-{number % 4}",
            order=number,
            group=number,
            arm=_ARMS[number % len(_ARMS)],
            factors={"link": _LINKS[number // 4 % len(_LINKS)], "users": _USERS[number // 12 % len(_USERS)]},
            seed=number,
            text_key=f"b{number // 36:03d}",
            prompt_ids=(),
        )
        for number in range(num_cells)
    )
    campaign = Campaign(
        campaign_id=_ID,
        plan_sha256="0" * 64,
        prompts_sha256="0" * 64,
        started_at="1970-01-01T00:00:00Z",
        machine=describe_machine(),
        boot_id=None,
        governor=None,
        clock_sync=None,
        versions={},
        model_files={},
        configuration={"invented": True},
        devices=tuple(f"box-{number}" for number in range(4)),
    )
    schedule = Schedule(plan_sha256="0" * 64, seed=0, factors={"link": _LINKS, "users": _USERS}, cells=cells)
    out.mkdir(parents=True, exist_ok=True)
    (out / CAMPAIGN).write_bytes(msgspec.json.encode(campaign))
    (out / SCHEDULE).write_bytes(msgspec.json.encode(schedule))
    (out / JOURNAL).write_bytes(b"")
    return cells


def write_cell(out: Path, cell: Cell, num_rounds: int) -> None:
    """Write the rounds of one cell."""
    folder = out / CELLS / cell.cell_id
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ROUNDS
    keys: dict[str, str | int] = {
        "campaign_id": _ID,
        "cell_id": cell.cell_id,
        "block": cell.block,
        "device": cell.device,
        "arm": cell.arm,
    }
    write_table(path, RoundRecord, [], keys, factors=cell.factors)  # its types are those of a real one
    schema = pq.read_schema(path)
    given = _values(cell, num_rounds) | {name: _repeated(value, num_rounds) for name, value in keys.items()}
    given |= {f"factor_{name}": _repeated(value, num_rounds) for name, value in cell.factors.items()}
    columns = [
        given[field.name].cast(field.type) if field.name in given else pa.nulls(num_rounds, field.type)
        for field in schema
    ]
    texts = [field.name for field in schema if field.type == pa.string()]
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path, use_dictionary=texts)


def _values(cell: Cell, n: int) -> dict[str, Any]:
    pool, start = _pool(), 7919 * cell.order
    turned = {name: np.resize(np.roll(values, start + 101 * place), n) for place, (name, values) in enumerate(pool)}
    drafted = turned.pop("num_draft_tokens")
    accepted = np.minimum(turned.pop("survives"), drafted)
    number = np.arange(n)
    ends = np.concatenate([[0], np.cumsum(drafted)])
    seconds = {name: values * (1.0 + 0.1 * (cell.order % 7)) for name, values in turned.items() if name.endswith("_s")}
    parts = ("draft_wait_s", "rewind_s", "agent_queue_s", "uplink_s", "coordinator_queue_s", "verify_s", "downlink_s")
    seconds["round_s"] = np.sum([seconds[name] for name in parts], axis=0)
    columns = {
        "wire_request_id": (number // 20 + cell.order * 10_000_000).astype(np.uint64),
        "round": number % 20,
        "is_open": number % 20 == 0,
        "num_draft_tokens": drafted,
        "num_accepted": accepted,
        "next_token_id": turned["token"].astype(np.int64),
        "sent_ns": number * 50_000_000,
        "batch_rows": drafted + 1,
        "ahead_hit": accepted == drafted,
        "payload_up_bytes": 40 + 3 * drafted,
        "payload_down_bytes": 48 + accepted,
        "energy_coordinator_j": turned["joules"],
        "energy_agent_j": turned["joules"][::-1],
        "clock_offset_ns": (turned["joules"] * 1e6).astype(np.int64),
        "num_sends": np.ones(n, np.int64),
        **seconds,
    }
    arrays = {name: pa.array(values) for name, values in columns.items()}
    confidences = np.resize(np.roll(dict(pool)["confidence"], start), int(ends[-1]))
    arrays["confidences"] = pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(confidences))
    return arrays | {"run_id": _repeated(cell.cell_id, n), "agent_id": _repeated("agent-0", n)}


def _pool() -> list[tuple[str, Any]]:
    """Return a million values of every kind; made once."""
    if not _made:
        rng = np.random.default_rng(1)
        _made.extend((name, rng.gamma(2.0, 0.01, size=_POOL)) for name in _SECONDS)
        _made.append(("num_draft_tokens", rng.integers(1, _LONGEST + 1, size=_POOL)))
        _made.append(("survives", rng.geometric(0.3, size=_POOL) - 1))
        _made.append(("token", rng.integers(0, 49152, size=_POOL)))
        _made.append(("joules", rng.gamma(4.0, 0.05, size=_POOL)))
        _made.append(("confidence", np.round(rng.random(size=_POOL), 4)))
    return _made


_made: list[tuple[str, Any]] = []


def _repeated(value: object, n: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([value])).dictionary_decode()


def main(argv: Sequence[str] | None = None) -> int:
    """Write the run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=1_000_000, help="of all cells; default %(default)s")
    parser.add_argument("--cells", type=int, default=36, help="default %(default)s")
    parser.add_argument("--first", type=int, default=0, help="cell to begin with; default %(default)s")
    parser.add_argument("--last", type=int, help="cell to end with; default the last")
    args = parser.parse_args(argv)
    cells = write_run(args.out, args.cells)
    chosen = cells[args.first : None if args.last is None else args.last + 1]
    for cell in chosen:
        write_cell(args.out, cell, args.rounds // args.cells)
    print(f"{args.out}: {len(chosen)} cells of {args.rounds // args.cells} rounds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
