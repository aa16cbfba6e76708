"""Solve a scenario: how much each user should draft and which share of the channel it should have.

    multispin plan SCENARIO.toml --policy exact
    multispin plan SCENARIO.toml --policy fixed --num-draft-tokens 8 --json

The scenario's keys are in coordinator/README.md. Nothing is measured: the goodput is that of the scenario's own model.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from multispin.flags import positive
from multispin_coordinator.control.plan import POLICIES, Plan, make_plan
from multispin_coordinator.control.scenario import read_scenario
from multispin_models.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin plan`."""
    parser.add_argument("scenario", metavar="SCENARIO", help="TOML file")
    parser.add_argument("--policy", choices=POLICIES, default="exact", help="default %(default)s")
    parser.add_argument("--num-draft-tokens", type=positive, default=8, metavar="L", help='of "fixed" (default 8)')
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run `multispin plan` and return the exit status: 2 for a scenario that is not valid, like a wrong flag."""
    try:
        scenario = read_scenario(Path(args.scenario))
    except ConfigError as error:
        print(f"multispin plan: {error}", file=sys.stderr)
        return 2
    plan = make_plan(scenario, args.policy, args.num_draft_tokens)
    if args.json:
        print(msgspec.json.encode(plan).decode())
    else:
        _show(plan)
    return 0


def _show(plan: Plan) -> None:
    print(f"{'user':>5} {'draft tokens':>12} {'bandwidth kHz':>14}")
    for user, (length, share) in enumerate(zip(plan.num_draft_tokens, plan.bandwidth_hz, strict=True)):
        print(f"{user:5} {length:12} {share / 1e3:14.3f}")
    proof = {None: "", True: ", proven the most", False: ", not proven the most"}[plan.is_proven]
    print(f"{plan.policy}: round {plan.round_s:.4f} s, {plan.goodput_tokens_per_s:.2f} tokens/s (modelled){proof}")
