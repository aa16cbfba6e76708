"""Check the folder of a run against its journal, list the hashes of its files and sign them.

multispin campaign collect RUN          `campaign run` does so at its end; this is for one that was cut short
"""

import argparse
import sys
from pathlib import Path

import msgspec

from multispin.campaign.collect import Collected, collect

__all__ = ["add_arguments", "run", "tell"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin campaign collect`."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--key", type=Path, metavar="FILE", help="signing key (default: your own)")


def run(args: argparse.Namespace) -> int:
    """Collect; return 1 if something does not fit together."""
    return tell(args.run_folder, collect(args.run_folder, args.key), as_json=args.json)


def tell(folder: Path, found: Collected, *, as_json: bool) -> int:
    """Say what a folder holds; return 1 if something in it does not fit together."""
    if as_json:
        print(msgspec.json.encode(found._asdict()).decode())
        return int(bool(found.faults))
    for fault in found.faults:
        print(fault, file=sys.stderr)
    missing = ", ".join(found.missing[:5]) + (", ..." if len(found.missing) > 5 else "")
    print(
        f"{folder}: {found.completed} of {found.planned} cells"
        + (f", missing {missing}" if found.missing else "")
        + (f"; not signed, {len(found.faults)} faults" if found.faults else "; signed")
    )
    return int(bool(found.faults))
