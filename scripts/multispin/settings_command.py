"""The settings of a daemon: every key with its type, bounds, default, flag and meaning.

multispin settings agent                   the reference, in Markdown
multispin settings coordinator --toml      the file with every key at its default
multispin settings agent --json            one object: key, or table.key, to default
"""

import argparse

import msgspec

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin settings`."""
    parser.add_argument("daemon", choices=("agent", "coordinator"), help="whose")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--toml", action="store_true", help="print the file with every key at its default")
    form.add_argument("--json", action="store_true", help="print the defaults as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run `multispin settings`; return 0."""
    from multispin.settings_document import DAEMONS, settings_document, settings_toml  # noqa: PLC0415 - imports daemons

    if args.json:
        print(msgspec.json.encode(DAEMONS[args.daemon].settings()).decode())
    else:
        print((settings_toml if args.toml else settings_document)(args.daemon), end="")
    return 0
