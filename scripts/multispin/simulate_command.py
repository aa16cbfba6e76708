"""Simulate agents, links and a coordinator in virtual time: the daemons' own code, without models, sockets or waiting.

    multispin simulate SCENARIO.toml [--json]         a scenario's goodput, waiting times, load and bytes (modelled)
    multispin simulate --faulty-runs 10000            runs in which everything fails; each text must still be right
    multispin simulate --fault-seed 4711 --log        one of them again, with what both ends say
    multispin simulate --paper 10                     the Multi-SPIN paper's setting, ten realisations (modelled)

The scenario's keys are in coordinator/docs/simulation.md. The same seed gives the same run. Exit status 1 if a text is
not the target's own, or a request is stuck.
"""

import argparse
import logging
import sys
from pathlib import Path

from multispin.flags import positive
from multispin_models.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin simulate`."""
    parser.add_argument("scenario", metavar="SCENARIO", nargs="?", help="TOML file")
    parser.add_argument("--seed", type=int, help="in place of the scenario's")
    parser.add_argument("--json", action="store_true", help="print one JSON object (faulty runs: one a line)")
    parser.add_argument("--faulty-runs", type=positive, metavar="N", help="run so many faulty seeds")
    parser.add_argument("--first-seed", type=int, default=0, metavar="S", help="of the faulty runs (default 0)")
    parser.add_argument("--fault-seed", type=int, metavar="S", help="run one faulty seed and show what it drew")
    parser.add_argument("--paper", type=positive, metavar="N", help="the paper's setting: N realisations of each point")
    parser.add_argument("--alpha-std", type=float, help="with --paper: of the users' acceptance around their task's")
    parser.add_argument("--log", action="store_true", help="with --fault-seed: what both ends log, by virtual time")


def run(args: argparse.Namespace) -> int:
    """Run `multispin simulate` and return the exit status: 2 for a scenario that is not valid, like a wrong flag."""
    asked = [args.scenario is not None, args.faulty_runs is not None, args.fault_seed is not None]
    asked.append(args.paper is not None)
    if sum(asked) != 1:
        print("multispin simulate: give one of SCENARIO, --faulty-runs N, --fault-seed S, --paper N", file=sys.stderr)
        return 2
    try:
        from multispin.simulate import runs  # noqa: PLC0415 - needs an extra
    except ImportError as error:
        raise ConfigError(f"the simulator is not installed ({error}): run scripts/setup") from error
    logging.getLogger().addHandler(logging.NullHandler())  # thousands of planted faults are no news
    if args.scenario is not None:
        return runs.simulate_scenario(Path(args.scenario), args.seed, as_json=args.json)
    if args.faulty_runs is not None:
        return runs.run_faulty_seeds(args.first_seed, args.faulty_runs, as_json=args.json)
    if args.paper is not None:
        return runs.show_paper_setting(args.paper, args.alpha_std, as_json=args.json)
    return runs.replay(args.fault_seed, as_json=args.json, log=args.log)
