"""Measure how much of a round is not model time: Python, wire, scheduling, on both ends together.

    multispin bench overhead                          the models with one agent, the null engine with one and with eight
    multispin bench overhead --engine null --json     without models: a pass sleeps, and says that it does

Each daemon is a process of its own and they speak over TCP on loopback; draft-ahead is off, so that the parts of a
round follow each other and none hides another.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from multispin.bench.overhead_run import NULL, OverheadRun, run_overhead
from multispin.bench.tables import overhead_lines
from multispin.flags import cores, machine_facts, numbers, parse_engines, positive
from multispin.local_run import RunSettings
from multispin.progress import counter_line, terminal_progress
from multispin_models.engines import ENGINES, prepare_side
from multispin_models.errors import ConfigError

__all__ = ["add_arguments", "run"]

LIMIT_MS = 1.5  # of a median round with one agent, both ends together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin bench overhead`."""
    default = RunSettings()
    engines = f"{default.engine},{NULL}"
    parser.add_argument(
        "--engine", default=engines, metavar="LIST", help=f"ENGINE or ENGINE:RECIPE, or {NULL} (default %(default)s)"
    )
    parser.add_argument("--pair", default=default.pair, metavar="PAIR", help="default %(default)s")
    parser.add_argument("--agents", type=numbers, default=[1, 8], metavar="LIST", help="default 1,8")
    parser.add_argument("--rounds", type=positive, default=200, metavar="N", help="of every agent (default 200)")
    parser.add_argument("--num-draft-tokens", type=positive, default=4, metavar="L", help="default 4")
    parser.add_argument("--coordinator-cpus", type=cores, metavar="LIST", help="pin the coordinator to cores, as 0")
    parser.add_argument("--agent-cpus", type=cores, metavar="LIST", help="pin the agents to cores, as 1")
    parser.add_argument("--out", metavar="DIR", help="keep records and logs in this new folder")


def run(args: argparse.Namespace) -> int:
    """Run `multispin bench overhead` and return the exit status; the limit is reported, not enforced."""
    engines = parse_engines(args.engine, (*ENGINES, NULL))
    facts = machine_facts()
    num_cores = len(os.sched_getaffinity(0))
    runs: list[OverheadRun] = []
    left_out: list[str] = []
    with tempfile.TemporaryDirectory(prefix="multispin-bench-") as temporary:
        out = Path(temporary) if args.out is None else _new_folder(Path(args.out))
        for engine in engines:
            for agents in args.agents:
                # One agent and the coordinator take turns; more of them share cores, and their model times stretch.
                if engine != NULL and agents > 1 and agents + 1 > num_cores:
                    left_out.append(
                        f"{engine} with {agents} agents: {agents + 1} models on {num_cores} cores would wait for each "
                        f"other; see {NULL}"
                    )
                else:
                    runs.append(_run(args, engine, agents, out))
    _show(args, runs, left_out, facts)
    return 0


def _run(args: argparse.Namespace, engine: str, agents: int, out: Path) -> OverheadRun:
    values = {
        "num_agents": agents,
        "policy": "fixed",
        "num_draft_tokens": args.num_draft_tokens,
        "draft_ahead": False,
        "pair": args.pair,
        "engine": engine,
        "draft_engine": engine,
        "coordinator_cpus": args.coordinator_cpus,
        "agent_cpus": args.agent_cpus,
    }
    try:
        settings = msgspec.convert(values, RunSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"flags: {error}") from error
    if engine != NULL:
        for side in ("target", "draft"):
            prepare_side(args.pair, side, engine, terminal_progress())
    folder = out / f"{engine.replace(':', '-')}-{agents}"
    folder.mkdir()
    return run_overhead(settings, args.rounds, folder, counter_line(f"{engine}, {agents} agent(s): done"))


def _show(
    args: argparse.Namespace, runs: Sequence[OverheadRun], left_out: Sequence[str], facts: dict[str, object]
) -> None:
    medians = {(run.engine, run.agents): run.overhead.overhead_ms.median for run in runs}
    met = {engine: value < LIMIT_MS for (engine, agents), value in medians.items() if agents == 1}
    growth_ms = {
        f"{engine}, 1 to {agents} agents": value - medians[engine, 1]
        for (engine, agents), value in medians.items()
        if agents > 1 and (engine, 1) in medians
    }
    if args.json:
        result = {"runs": runs, "limit_ms": LIMIT_MS, "limit_met": met, "growth_ms": growth_ms, "left_out": left_out}
        print(msgspec.json.encode({**result, **facts}).decode())
        return
    for line in overhead_lines(runs):
        print(line)
    for engine, below in met.items():
        print(f"{engine}: median overhead with one agent is {'below' if below else 'NOT below'} {LIMIT_MS} ms")
    for what, growth in growth_ms.items():
        print(f"{what}: median overhead {growth:+.2f} ms")
    for line in left_out:
        print(f"left out: {line}")
    print(f"cores {facts['cpus']}, load average before {facts['load_average_1min']:.2f}")


def _new_folder(out: Path) -> Path:
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out} is not empty: choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    return out
