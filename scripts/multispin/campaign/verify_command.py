"""Say whether a run counts: every rule that it breaks, with its number, where and how.

multispin campaign verify DIR               the exit status is 1 if any rule finds a fault
multispin campaign verify --rules           all rules in words, in Markdown
"""

import argparse
import json
import sys
from pathlib import Path

import msgspec

from multispin.campaign.rules.evidence import Thresholds
from multispin_models.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin campaign verify`."""
    limits = Thresholds()
    parser.add_argument("run_folder", nargs="?", type=Path, metavar="DIR", help="of a run")
    parser.add_argument("--rules", action="store_true", help="print the rules in words, and look at nothing")
    parser.add_argument("--key", metavar="HEX", help="public key that must have signed; any without it")
    parser.add_argument(
        "--min-blocks",
        type=int,
        default=limits.min_blocks,
        metavar="N",
        help="of every arm and setting on every device; default %(default)s. With fewer no interval is stated",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run it; return the exit status."""
    try:
        from multispin.campaign.rules import check_run, rules_document  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            f"what reads campaigns is not installed ({error}): pip install 'multispin[campaign]'"
        ) from error
    if args.rules:
        print(rules_document(), end="")
        return 0
    if args.run_folder is None or not args.run_folder.is_dir():
        raise ConfigError(f"{args.run_folder} is no folder: give that of a run, or --rules")
    if args.min_blocks < 1:
        raise ConfigError(f"--min-blocks is {args.min_blocks}, allowed is 1 or more")
    verdict = check_run(args.run_folder, Thresholds(min_blocks=args.min_blocks, public_key=args.key))
    if args.json:
        print(json.dumps(msgspec.to_builtins(verdict)))
    else:
        for fault in verdict.faults:
            where = f"{fault.where}: " if fault.where else ""
            print(f"rule {fault.rule}: {where}{fault.what}", file=sys.stderr)
        outcome = "the run counts" if not verdict.faults else f"{len(verdict.faults)} faults: the run does not count"
        print(f"{len(verdict.rules)} rules over {verdict.cells} cells: {outcome}")
    return int(bool(verdict.faults))
