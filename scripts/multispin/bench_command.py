"""Measure a verification, the target alone, or the overhead of a round.

    multispin bench verify --rows 1,2,5,9 --context 256 --cpu 0      T_v = c0 + c1 * rows on this machine
    multispin bench verify --engine llamacpp,onnx --draft            engines side by side, and what drafting costs
    multispin bench alone --users 1,8 --prompts FILE                 the target alone, batched; beside it a rival server
    multispin bench lookup --prompts FILE                            drafts from the text itself, by match and task
    multispin bench cooperate --prompts FILE                         cooperation against the coordinator alone
    multispin bench step --prompts FILE                              how the control follows a step of the load
    multispin bench links --prompts FILE                             the rules of verification on slow links
    multispin bench overhead                                         how much of a round is not model time
    multispin bench meter --meter rapl                               what sampling a meter costs a drafting model
    multispin bench records --records 1000000                        no record is lost, none comes twice

Figures are of this machine as it is now: what else runs on it is in them.
"""

import argparse

from multispin.bench import (
    alone_command,
    cooperate_command,
    links_command,
    load_step_command,
    lookup_command,
    meter_command,
    overhead_command,
    records_command,
    verify_command,
)

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of `multispin bench` and their flags."""
    commands = parser.add_subparsers(dest="bench_command", required=True, metavar="WHAT")
    for name, module, summary in (
        ("verify", verify_command, "the time of one verification against rows, sequences and context"),
        ("alone", alone_command, "the target alone, batched over users, and a rival server beside it"),
        ("lookup", lookup_command, "what drafts looked up in the text itself are worth, by match and by task"),
        ("cooperate", cooperate_command, "goodput of cooperation by policy, against the coordinator alone and a bound"),
        ("step", load_step_command, "how the control follows a step of the load, with a picture"),
        (
            "links",
            links_command,
            "bytes a token and goodput by rule of verification, on slow or distant links",
        ),
        ("overhead", overhead_command, "how much of a round is not model time"),
        ("meter", meter_command, "what sampling a meter costs, alone and beside a drafting model"),
        ("records", records_command, "records through kills, a cut link and a full disk"),
    ):
        command = commands.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.add_argument("--json", action="store_true", help="print one JSON object")
        module.add_arguments(command)
        command.set_defaults(run_bench=module.run)


def run(args: argparse.Namespace) -> int:
    """Run one sub-command and return the exit status."""
    return int(args.run_bench(args))
