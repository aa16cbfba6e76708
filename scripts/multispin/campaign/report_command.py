"""Make a page of a run: one file of HTML for any browser, its figures as SVG and PNG, its numbers as CSV.

multispin campaign report DIR                   to DIR-report, beside it: nothing is added to a folder that is signed
multispin campaign report DIR --out OUT

The run is verified first; a run that does not count is reported all the same, and the page says so on top.
"""

import argparse
import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

from multispin_models.errors import ConfigError

__all__ = ["add_arguments", "run", "write_report"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin campaign report`."""
    parser.add_argument("run_folder", type=Path, metavar="DIR", help="of a run")
    parser.add_argument("--out", type=Path, metavar="OUT", help="folder for the page and its files; default DIR-report")
    parser.add_argument(
        "--min-blocks", type=int, default=5, metavar="N", help="as of `campaign verify`; default %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object: the page, and the number of faults")


def run(args: argparse.Namespace) -> int:
    """Run it; return the exit status."""
    if not args.run_folder.is_dir():
        raise ConfigError(f"{args.run_folder} is no folder: give that of a run")
    path = args.run_folder.resolve()
    out = path.with_name(f"{path.name}-report") if args.out is None else args.out.resolve()
    if out == path or path in out.parents:
        raise ConfigError(f"--out {args.out} lies in the folder of the run, which is signed: choose another")
    try:
        written, num_faults = write_report(path, out, args.min_blocks)
    except ImportError as error:
        raise ConfigError(f"what reports need is not installed ({error}): pip install 'multispin[campaign]'") from error
    if args.json:
        print(json.dumps({"page": str(written), "num_faults": num_faults}))
        return 0
    if num_faults:
        print(f"{num_faults} faults: the run does not count, and the page says so", file=sys.stderr)
    print(f"{written} and its figures and numbers beside it")
    return 0


def write_report(path: Path, out: Path, min_blocks: int) -> tuple[Path, int]:
    """Write the report of a run; return its page, and how many faults the rules found.

    Raises:
        MultispinError: a file of the run is not there or is none.
    """
    from multispin.campaign.conclusions import conclusions  # noqa: PLC0415 - extras
    from multispin.campaign.effects import effects  # noqa: PLC0415
    from multispin.campaign.measured import measure  # noqa: PLC0415
    from multispin.campaign.report_page import report_page  # noqa: PLC0415
    from multispin.campaign.report_tables import drawings_of, tables_of  # noqa: PLC0415
    from multispin.campaign.rules import check_run  # noqa: PLC0415
    from multispin.campaign.rules.evidence import Thresholds  # noqa: PLC0415

    verdict = check_run(path, Thresholds(min_blocks=min_blocks))
    measured = measure(path)
    found = effects(measured)
    drawings = drawings_of(measured, found)
    tables = tables_of(measured, found, verdict)
    out.mkdir(parents=True, exist_ok=True)
    for drawing in drawings:
        if drawing.svg:
            (out / f"{drawing.name}.svg").write_bytes(drawing.svg)
            (out / f"{drawing.name}.png").write_bytes(drawing.png)
    named = {drawing.name: drawing.table for drawing in drawings} | {name: table for name, _, table in tables}
    for name, table in named.items():
        (out / f"{name}.csv").write_text(_csv(table.columns, table.rows), encoding="utf-8", newline="")
    page = out / "index.html"
    shown = [(title, table) for name, title, table in tables if name != "cells"]
    page.write_text(
        report_page(measured, conclusions(measured, found), drawings, shown, verdict), encoding="utf-8", newline="\n"
    )
    return page, len(verdict.faults)


def _csv(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180
    writer.writerow(columns)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    return text.getvalue()
