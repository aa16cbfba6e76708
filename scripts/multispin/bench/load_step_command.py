"""Measure how the control follows a step of the load: one user, then several, then one, in one run on real models.

    multispin bench step --prompts FILE --users 8 --coordinator-cpus 0 --agent-cpus 1 --plot step.svg

Each user has an agent of its own. Exit status 1 if the control was not settled within --settled-s of a step.
"""

import argparse
import asyncio
import os
import tempfile
from pathlib import Path

import msgspec

from multispin.bench.cooperate_command import jobs_of, settings_of
from multispin.bench.cooperate_site import Arm, Site
from multispin.bench.load_step import Phase, arrived_s, draw, look_at
from multispin.flags import add_draft_flags, cores, machine_facts, positive
from multispin.local_run import RunSettings
from multispin_models.records import RoundRecord

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin bench step`."""
    default = RunSettings()
    parser.add_argument("--prompts", required=True, metavar="FILE", help='JSON lines: {"prompt"} or {"turns"}')
    parser.add_argument("--users", type=positive, default=8, metavar="N", help="in the middle (default 8)")
    parser.add_argument("--calm-s", type=float, default=8.0, metavar="S", help="before and after (default 8)")
    parser.add_argument("--max-tokens", type=positive, default=96, metavar="N", help="of those that come (default 96)")
    parser.add_argument("--settled-s", type=float, default=2.0, metavar="S", help="allowed after a step (default 2)")
    parser.add_argument("--max-prompt-tokens", type=positive, default=80, metavar="N", help="default 80")
    parser.add_argument("--policy", default="price", metavar="NAME", help="default price")
    parser.add_argument("--plot", metavar="FILE", help="write an SVG")
    parser.add_argument("--pair", default=default.pair, metavar="PAIR", help="default %(default)s")
    parser.add_argument("--engine", default=default.engine, metavar="ENGINE[:RECIPE]", help="default %(default)s")
    parser.add_argument("--draft-engine", metavar="ENGINE[:RECIPE]", help="of the agents (default: as --engine)")
    add_draft_flags(parser)
    parser.add_argument("--coordinator-cpus", type=cores, metavar="LIST", help="pin the coordinator to cores, as 0")
    parser.add_argument("--agent-cpus", type=cores, metavar="LIST", help="pin the agents to cores, as 1")


def run(args: argparse.Namespace) -> int:
    """Run `multispin bench step` and return the exit status."""
    facts = machine_facts()
    if args.coordinator_cpus is not None:
        os.sched_setaffinity(0, args.coordinator_cpus)  # this process is the coordinator
    rounds, edges_s = asyncio.run(_measure(args))
    users = (1, args.users, 1)
    phases = [look_at(rounds, a, b, n) for a, b, n in zip(edges_s, edges_s[1:], users, strict=False)]
    if args.plot is not None:
        title = f"{args.engine}, 1 to {args.users} to 1 users, {args.policy}"
        Path(args.plot).write_text(draw(rounds, edges_s, title), encoding="utf-8")
    if args.json:
        print(msgspec.json.encode({"phases": phases, **facts}).decode())
    else:
        _show(phases)
    return int(any(phase.settled_s > args.settled_s for phase in phases[1:]))


async def _measure(args: argparse.Namespace) -> tuple[list[RoundRecord], list[float]]:
    """Return all rounds, and when the phases began and the last one ended, by the monotonic clock."""
    jobs = jobs_of(args, args.users + 3)
    arm = Arm(args.policy)
    with tempfile.TemporaryDirectory(prefix="multispin-bench-") as folder:
        async with Site(settings_of(args, args.users), Path(folder)) as site:
            await site.serve(arm, jobs[:1])  # what an agent that has just come does is not asked here
            loop = asyncio.get_running_loop()
            begun_s = loop.time()
            served: list[RoundRecord] = []
            others: asyncio.Task[object] | None = None
            gone_s = None
            number = 0

            async def crowd() -> None:
                nonlocal gone_s
                found = await site.serve(arm, jobs[3 : args.users + 2], first_agent=1)
                served.extend(found.rounds)
                gone_s = loop.time()

            while gone_s is None or loop.time() < gone_s + args.calm_s:
                found = await site.serve(arm, [jobs[1 + number % 2]])
                served += found.rounds
                number += 1
                if others is None and loop.time() > begun_s + args.calm_s:
                    others = asyncio.create_task(crowd())
    first = min(map(arrived_s, served))
    crowd_rounds = [arrived_s(record) for record in served if record.agent_id != "agent-0"]
    return served, [first, min(crowd_rounds), max(crowd_rounds), max(map(arrived_s, served))]


def _show(phases: list[Phase]) -> None:
    print(f"{'users':>5} {'seconds':>8} {'settled s':>9} {'changes':>8} {'alone':>6} {'tok/s':>8}")
    for phase in phases:
        alone = "-" if phase.alone_share is None else f"{phase.alone_share:.0%}"
        rate = "-" if phase.goodput_tokens_per_s is None else f"{phase.goodput_tokens_per_s:.1f}"
        print(f"{phase.users:5} {phase.seconds:8.1f} {phase.settled_s:9.2f} {phase.changes:8} {alone:>6} {rate:>8}")
