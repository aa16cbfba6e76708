"""The multispin command: sub-commands, each in a module that is loaded only when it is called."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import multispin_models
from multispin_models.errors import MultispinError

__all__ = ["main"]


class Command(NamedTuple):
    """A sub-command: `module` offers add_arguments(parser) and run(args) -> exit status."""

    name: str
    module: str
    summary: str


COMMANDS = (
    Command("local", "multispin.local_command", "run coordinator and agents on this machine over a file of prompts"),
    Command("up", "multispin.up_command", "run coordinator and agents on this machine for users, over HTTP"),
    Command("chat", "multispin.chat_command", "chat with an agent or a coordinator; drafted tokens have colours"),
    Command("top", "multispin.top_command", "watch daemons: a live table from their metrics"),
    Command("agent", "multispin_agent.daemon", "run an agent: draft for the requests of a file or of standard input"),
    Command("coordinator", "multispin_coordinator.daemon", "run a coordinator: verify the drafts of all its agents"),
    Command("settings", "multispin.settings_command", "the settings of agent and coordinator, each with its default"),
    Command("config", "multispin.config_command", "check the settings of daemons: files, drop-ins, what is allowed"),
    Command("keys", "multispin.keys_command", "make, enrol, list, change and revoke the keys of coordinator and boxes"),
    Command(
        "fleet", "multispin.fleet_command", "on a coordinator: its agents, with versions, models, disk, heat, clock"
    ),
    Command("models", "multispin.models_command", "list and fetch models, check a draft/target pair"),
    Command("plan", "multispin.plan_command", "solve a scenario: draft lengths and shares of the channel, by policy"),
    Command("meter", "multispin.meter_command", "list, read, watch and calibrate this machine's energy sensors"),
    Command("shape", "multispin.shape_command", "give coordinators' traffic its share of a link that this box owns"),
    Command("simulate", "multispin.simulate_command", "simulate agents, links and a coordinator, sound or failing"),
    Command("records", "multispin.records_command", "look into records: show, check, export, fields"),
    Command("campaign", "multispin.campaign_command", "plan, run, verify and report a measurement campaign"),
    Command("bench", "multispin.bench_command", "measure a verification, or the overhead of a round"),
    Command("doctor", "multispin.doctor", "say what is installed, what works, and what to do about what does not"),
)

DESCRIPTION = """\
Distributed speculative decoding: agents on edge boxes draft with a small model, one coordinator
verifies the drafts of all of them in one pass, and the text is the coordinator's own, token for token.

start here:
  multispin doctor                                        what this machine has
  multispin local --agents 3 --prompts FILE.jsonl --out runs/a --check-text
                                                          the whole path on one machine, with its figures
on several machines:
  multispin coordinator --config coordinator.toml         beside the target model
  multispin agent --config agent.toml                     on every box
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="multispin", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"multispin {multispin_models.__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = subparsers.add_parser(command.name, help=command.summary, description=command.summary.capitalize() + ".")
        if arguments[:1] == [command.name]:  # the others are not even imported
            module = importlib.import_module(command.module)
            sub.description = module.__doc__
            sub.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    try:
        return int(args.run(args))
    except MultispinError as error:
        print(f"multispin {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
