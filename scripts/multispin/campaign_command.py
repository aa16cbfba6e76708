"""Field measurement campaigns: compare arms on real boxes, and keep what can be checked later.

multispin campaign plan loopback-smoke                      the schedule, how long it takes, what it can show
multispin campaign run plan.toml --out RUN --dry-run        all of it but the measuring
multispin campaign run plan.toml --out RUN                  from the start, or from where it was
multispin campaign collect RUN                              sign a folder whose run was cut short
multispin campaign merge ALL RUN RUN ...                    one folder of what several boxes have run
multispin campaign verify RUN                               whether its figures may be used, and why not
multispin campaign report RUN                               a page, pictures, tables
multispin campaign summary RUN                              figures of many rounds, quickly

The guide is scripts/multispin/campaign/README.md.
"""

import argparse
import importlib
from typing import Any, Final, NamedTuple

__all__ = ["add_arguments", "run"]


class _Command(NamedTuple):
    """A sub-command: `module` offers add_arguments(parser) and run(args) -> exit status."""

    name: str
    module: str
    summary: str


_COMMANDS: Final = (
    _Command("plan", "multispin.campaign.plan_command", "the schedule, how long it takes, what it can show"),
    _Command("run", "multispin.campaign.run_command", "measure; go on where it was"),
    _Command("collect", "multispin.campaign.collect_command", "sign a folder whose run was cut short"),
    _Command("merge", "multispin.campaign.merge_command", "one folder of what several boxes have run"),
    _Command("verify", "multispin.campaign.verify_command", "whether the figures may be used, and why not"),
    _Command("report", "multispin.campaign.report_command", "a page, pictures and tables"),
    _Command("summary", "multispin.campaign.summary_command", "figures of many rounds, quickly"),
)


class _LazyParser(argparse.ArgumentParser):
    """Takes its flags from a module that is loaded only when it is called: plots and tables are slow to load."""

    module = ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.module:
            try:
                module = importlib.import_module(self.module)
            except ImportError as error:
                self.exit(1, f"{self.prog} is not installed ({error}): pip install 'multispin[campaign]'\n")
            self.module = ""
            self.description = module.__doc__
            module.add_arguments(self)
            self.set_defaults(run_campaign=module.run)
        return super().parse_known_args(args, namespace)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of `multispin campaign` and their flags."""
    commands = parser.add_subparsers(dest="campaign_command", required=True, metavar="WHAT", parser_class=_LazyParser)
    for each in _COMMANDS:
        command = commands.add_parser(
            each.name, help=each.summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.module = each.module


def run(args: argparse.Namespace) -> int:
    """Run one sub-command and return the exit status."""
    return int(args.run_campaign(args))
