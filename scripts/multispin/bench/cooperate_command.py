"""Measure cooperation against what the target does without it and against every fixed draft length, in one run.

    multispin bench cooperate --users 1,2,4,8 --prompts FILE --coordinator-cpus 0 --agent-cpus 1

Each user has an agent of its own; all agents share the cores that they are given, as their drafting would not on boxes
of their own. Arms:

    alone        the target, batched over the users, its tokens streamed to them
    lookup       likewise, with drafts that the coordinator looks up in each text
    core L       the target with drafts of the draft model on its own core, by itself: ordinary speculative decoding
    fixed L      cooperation, every draft of L tokens
    price, ...   cooperation, by policy

One coordinator and its agents serve all arms (`cooperate_site.py`), which take turns in blocks of one request a user,
in another order each time, so that what else happens on the machine meets all of them. A block in which one user was
done before the others had settled, with any arm, is left out of all arms.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from multispin.bench.cooperate import (
    Bound,
    NeverAllServed,
    Window,
    Yield,
    bound_of,
    pass_line,
    survival_of,
    window_of,
    yield_of,
)
from multispin.bench.cooperate_site import Arm, Site
from multispin.flags import add_draft_flags, cores, machine_facts, numbers, positive
from multispin.local_run import RunSettings, prepare_draft
from multispin.progress import counter_line, terminal_progress
from multispin_models.engines import load_tokenizer, prepare_side
from multispin_models.errors import ConfigError
from multispin_models.prompts import Job, JobDefaults, encode_prompt, read_jobs
from multispin_models.records import RoundRecord
from multispin_models.target_alone import count_differences

__all__ = ["add_arguments", "jobs_of", "run", "settings_of"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin bench cooperate`."""
    default = RunSettings()
    parser.add_argument("--prompts", required=True, metavar="FILE", help='JSON lines: {"prompt"} or {"turns"}')
    parser.add_argument("--users", type=numbers, default=[1, 2, 4, 8], metavar="LIST", help="default 1,2,4,8")
    parser.add_argument(
        "--lengths", type=numbers, default=[1, 2, 4, 8], metavar="LIST", help="fixed L, default 1,2,4,8"
    )
    parser.add_argument("--core-lengths", type=numbers, default=[], metavar="LIST", help="L of core (default: not run)")
    parser.add_argument(
        "--policies",
        default="lookup,price",
        metavar="LIST",
        help="besides alone and fixed (default lookup,price)",
    )
    parser.add_argument("--blocks", type=positive, default=3, metavar="N", help="of every arm (default 3)")
    parser.add_argument(
        "--within", type=float, metavar="S", help="begin no blocks later than this; what is done counts"
    )
    parser.add_argument("--max-tokens", type=positive, default=64, metavar="N", help="of a request (default 64)")
    parser.add_argument(
        "--settle-tokens",
        type=positive,
        default=1,
        metavar="N",
        help="of a user on average, before a block's time begins, in every arm: what an arm learns anew in each block "
        "weighs less the longer texts are (default 1: the time begins with the first)",
    )
    parser.add_argument(
        "--max-prompt-tokens", type=positive, default=160, metavar="N", help="longer prompts are passed over (160)"
    )
    parser.add_argument("--pair", default=default.pair, metavar="PAIR", help="default %(default)s")
    parser.add_argument("--engine", default=default.engine, metavar="ENGINE[:RECIPE]", help="default %(default)s")
    parser.add_argument("--draft-engine", metavar="ENGINE[:RECIPE]", help="of the agents (default: as --engine)")
    add_draft_flags(parser)
    parser.add_argument("--coordinator-cpus", type=cores, metavar="LIST", help="pin the coordinator to cores, as 0")
    parser.add_argument("--agent-cpus", type=cores, metavar="LIST", help="pin the agents to cores, as 1")


@dataclass
class _Found:
    """What one arm gave with so many users."""

    windows: list[Window] = field(default_factory=list)
    tpot_s: list[float] = field(default_factory=list)
    differences: int = 0  # of all its texts, those of blocks that are left out among them


def run(args: argparse.Namespace) -> int:
    """Run `multispin bench cooperate` and return the exit status."""
    facts = machine_facts()
    if args.settle_tokens >= args.max_tokens:
        raise ConfigError(
            f"--settle-tokens is {args.settle_tokens}, a text has --max-tokens {args.max_tokens}: leave some to count"
        )
    settings = settings_of(args, max(args.users))
    prepare_side(settings.pair, "target", settings.engine, terminal_progress())
    prepare_draft(settings, terminal_progress())
    jobs = jobs_of(args, max(args.users) * args.blocks)
    if args.coordinator_cpus is not None:
        os.sched_setaffinity(0, args.coordinator_cpus)  # this process is the coordinator
    found, rounds = asyncio.run(_measure(args, settings, _arms(args), jobs))
    yields = [_yield(arm, users, each) for (users, arm), each in found.items() if each.windows]
    if not yields:
        raise ConfigError("no block was measured: longer texts (--max-tokens), fewer --settle-tokens, or more time")
    bounds = []
    for users in args.users:
        line = pass_line(rounds[users])
        if line is not None:
            bounds.append(bound_of(users, line, survival_of(rounds[users])))
    if args.json:
        print(msgspec.json.encode({"yields": yields, "bounds": bounds, **facts}).decode())
    else:
        _show(yields, bounds)
        print(f"cores {facts['cpus']}, load average before {facts['load_average_1min']:.2f}")
    return int(any(each.text_differences for each in yields))


def _arms(args: argparse.Namespace) -> list[Arm]:
    arms = [Arm("alone"), *(Arm("core", length) for length in args.core_lengths)]
    return arms + [Arm("fixed", length) for length in args.lengths] + [Arm(name) for name in args.policies.split(",")]


def settings_of(args: argparse.Namespace, num_agents: int) -> RunSettings:
    """Return the settings of a site with so many agents."""
    values = {
        "num_agents": num_agents,
        "draft": args.draft,
        "lookup_min_ngram": args.lookup_min_ngram,
        "pair": args.pair,
        "engine": args.engine,
        "draft_engine": args.draft_engine or args.engine,
        "coordinator_cpus": args.coordinator_cpus,
        "agent_cpus": args.agent_cpus,
        "max_context_tokens": args.max_prompt_tokens + args.max_tokens + 1,
    }
    try:
        return msgspec.convert(values, RunSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"flags: {error}") from error


def jobs_of(args: argparse.Namespace, needed: int) -> list[Job]:
    """Return the prompts that are short enough, at least `needed`, in an order of its own that is always the same."""
    tokenizer = load_tokenizer(args.pair, "target", args.engine, terminal_progress())
    jobs = read_jobs(args.prompts, JobDefaults(max_tokens=args.max_tokens, ignore_end=True))
    short = [job for job in jobs if len(encode_prompt(tokenizer, job.prompt)) <= args.max_prompt_tokens]
    if len(short) < needed:
        raise ConfigError(
            f"{args.prompts} has {len(short)} prompts of at most {args.max_prompt_tokens} tokens, {needed} are needed: "
            "fewer users or blocks, or a larger --max-prompt-tokens"
        )
    random.Random(0).shuffle(short)  # noqa: S311 - a file is often sorted by task
    return short


async def _measure(
    args: argparse.Namespace, settings: RunSettings, arms: Sequence[Arm], jobs: Sequence[Job]
) -> tuple[dict[tuple[int, Arm], _Found], dict[int, list[RoundRecord]]]:
    """Serve all blocks; return what each arm gave, and all rounds by users."""
    found = {(users, arm): _Found() for users in args.users for arm in arms}
    rounds: dict[int, list[RoundRecord]] = {users: [] for users in args.users}
    texts: dict[str, tuple[int, ...]] = {}
    order = random.Random(1)  # noqa: S311
    show = counter_line("blocks")
    begun_s = time.monotonic()
    num_done = 0
    with tempfile.TemporaryDirectory(prefix="multispin-bench-") as folder:
        async with Site(settings, Path(folder)) as site:
            for block in range(args.blocks):
                for users in args.users:
                    own = jobs[block * users : (block + 1) * users]
                    windows: dict[Arm, tuple[Window, list[float]]] = {}
                    try:
                        for arm in order.sample(arms, len(arms)):
                            if args.within is not None and time.monotonic() - begun_s > args.within:
                                break
                            windows[arm] = await _one(
                                site, arm, own, found[users, arm], rounds[users], texts, args.settle_tokens
                            )
                            num_done += 1
                            show(num_done, args.blocks * len(found))
                    except NeverAllServed as error:
                        print(f"block {block + 1} with {users} users is left out of all arms: {error}", file=sys.stderr)
                        continue
                    for arm, (window, tpot_s) in windows.items():
                        found[users, arm].windows.append(window)
                        found[users, arm].tpot_s += tpot_s
    return found, rounds


async def _one(
    site: Site,
    arm: Arm,
    jobs: Sequence[Job],
    found: _Found,
    rounds: list[RoundRecord],
    texts: dict[str, tuple[int, ...]],
    settle_tokens: int,
) -> tuple[Window, list[float]]:
    """Serve one block; return it and each request's TPOT. Its texts are compared with those of the first arm.

    Raises:
        NeverAllServed: it says nothing; its texts are compared nevertheless.
    """
    if arm.has_agents:
        served = await site.serve(arm, jobs)
        rounds += served.rounds
        written = {record.id: record.token_ids for record in served.requests}
    else:
        by_itself = await site.write(arm, jobs)
        written = by_itself.texts
    for name, token_ids in written.items():
        found.differences += count_differences(token_ids, texts.setdefault(name, token_ids))
    if not arm.has_agents:
        return Window(by_itself.tokens, by_itself.seconds, []), by_itself.tpot_s
    window = window_of(str(arm), len(jobs), served.requests, served.rounds, settle_tokens)
    return window, [record.tpot_s for record in served.requests if record.tpot_s is not None]


def _yield(arm: Arm, users: int, found: _Found) -> Yield:
    return yield_of(str(arm), users, found.tpot_s, found.windows, found.differences, has_agents=arm.has_agents)


def _show(yields: Sequence[Yield], bounds: Sequence[Bound]) -> None:
    most = {bound.users: bound for bound in bounds}
    alone = {each.users: each.goodput_tokens_per_s for each in yields if each.arm == "alone"}
    print(
        f"{'users':>5} {'arm':14} {'tok/s':>8} {'x alone':>8} {'of bound':>8} {'TPOT ms':>8} {'drafted':>8} "
        f"{'accept':>7} {'undrafted':>9} {'tokens':>7} {'blocks':>6} {'differ':>6}"
    )
    for each in yields:
        rate, bound = each.goodput_tokens_per_s, most.get(each.users)
        of_bound = "-" if bound is None else f"{rate / bound.goodput_tokens_per_s:.2f}"
        drafted = "-" if each.drafted_per_round is None else f"{each.drafted_per_round:.2f}"
        accepted = "-" if each.acceptance_rate is None else f"{each.acceptance_rate:.3f}"
        undrafted = "-" if each.alone_share is None else f"{each.alone_share:.1%}"
        print(
            f"{each.users:5} {each.arm:14} {rate:8.1f} {rate / alone[each.users]:8.2f} {of_bound:>8} "
            f"{each.tpot_ms_median:8.1f} {drafted:>8} {accepted:>7} {undrafted:>9} "
            f"{each.tokens:7} {each.blocks:6} {each.text_differences:6}"
        )
    for bound in bounds:
        print(
            f"bound with {bound.users} user(s): {bound.goodput_tokens_per_s:.1f} tokens/s at L = "
            f"{bound.num_draft_tokens}, drafting and network for nothing"
        )
