"""Put what several boxes have run of one plan into one folder.

multispin campaign merge ALL RUN RUN ...        ALL is new; every RUN must be what was signed
"""

import argparse
from pathlib import Path

from multispin.campaign.collect import merge
from multispin.campaign.collect_command import tell

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin campaign merge`."""
    parser.add_argument("out", type=Path, metavar="ALL", help="new folder")
    parser.add_argument("parts", type=Path, nargs="+", metavar="RUN", help="folders of runs of one plan")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--key", type=Path, metavar="FILE", help="signing key (default: your own)")


def run(args: argparse.Namespace) -> int:
    """Merge; return 1 if something does not fit together."""
    return tell(args.out, merge(args.parts, args.out, args.key), as_json=args.json)
