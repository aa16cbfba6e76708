"""Sum up runs of any size, wherever they lie: figures of every arm and setting, by DuckDB over their tables.

multispin campaign summary DIR [DIR ...]                  folders of runs, or folders above them
multispin campaign summary s3://bucket/runs --out OUT     arms.csv and positions.csv as well
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from multispin_models.errors import ConfigError

__all__ = ["add_arguments", "run"]

_SHOWN = ("cells", "rounds", "acceptance_rate", "mean_acceptance_length", "round_s_p50", "round_s_p99", "ttft_s_p50")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin campaign summary`."""
    parser.add_argument("sources", nargs="+", metavar="DIR", help="folder, or address in a bucket (s3, gs, abfs, hdfs)")
    parser.add_argument("--memory", default="3GB", metavar="SIZE", help="of DuckDB; default %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="of DuckDB; default all cores")
    parser.add_argument("--out", type=Path, metavar="OUT", help="folder for arms.csv and positions.csv")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run it; return the exit status."""
    try:
        from multispin.campaign.summary import QUANTILE_ERROR, summarise  # noqa: PLC0415 - extras
    except ImportError as error:
        raise ConfigError(
            f"what reads campaigns is not installed ({error}): pip install 'multispin[campaign]'"
        ) from error
    if args.threads is not None and args.threads < 1:
        raise ConfigError(f"--threads is {args.threads}, allowed is 1 or more")
    found = summarise(args.sources, memory=args.memory, threads=args.threads)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        _write(args.out / "arms.csv", found.arms)
        _write(args.out / "positions.csv", found.positions)
    if args.json:
        print(json.dumps(found._asdict()))
        return 0
    for row in found.arms:
        name = ", ".join(str(row[key]) for key in found.keys if row[key] != "")
        print(
            f"{name}: " + ", ".join(f"{figure} {row[figure]:.4g}" for figure in _SHOWN if row.get(figure) is not None)
        )
    print(
        f"{found.rounds} rounds, {found.excluded} cells excluded; quantiles within {QUANTILE_ERROR:.0%}, "
        "openings and rounds in which a clock jumped not in the times"
    )
    return 0


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
