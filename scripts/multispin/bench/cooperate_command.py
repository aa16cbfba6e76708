"""Measure cooperation against the coordinator alone and against every fixed draft length, side by side in one run.

    multispin bench cooperate --users 1,2,4,8 --prompts FILE --coordinator-cpus 0 --agent-cpus 1

Each user has an agent of its own; all agents share the cores that they are given, as their drafting would not on boxes
of their own. Arms: the coordinator alone (batched over the users), fixed lengths, and the policies named. They take
turns, so that what else happens on the machine meets all of them.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from multispin.bench.cooperate import Bound, Yield, bound_of, pass_line, survival_of, yield_of
from multispin.flags import add_draft_flags, cores, machine_facts, numbers, positive
from multispin.local_run import LocalRun, RunSettings, prepare_draft
from multispin.progress import counter_line, terminal_progress
from multispin_models.engines import prepare_side
from multispin_models.errors import ConfigError
from multispin_models.prompts import JobDefaults, read_jobs
from multispin_models.records import RequestRecord, RoundRecord, read_jsonl
from multispin_models.target_alone import count_differences

__all__ = ["add_arguments", "run"]

Arm = tuple[str, int]  # policy and L
Texts = dict[str, tuple[int, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin bench cooperate`."""
    default = RunSettings()
    parser.add_argument("--prompts", required=True, metavar="FILE", help='JSON lines: {"prompt"} or {"turns"}')
    parser.add_argument("--users", type=numbers, default=[1, 2, 4, 8], metavar="LIST", help="default 1,2,4,8")
    parser.add_argument(
        "--lengths", type=numbers, default=[1, 2, 4, 8], metavar="LIST", help="fixed L, default 1,2,4,8"
    )
    parser.add_argument("--policies", default="price", metavar="LIST", help="besides alone and fixed (default price)")
    parser.add_argument("--requests", type=positive, default=3, metavar="N", help="of every user (default 3)")
    parser.add_argument("--max-tokens", type=positive, default=96, metavar="N", help="of a request (default 96)")
    parser.add_argument("--pair", default=default.pair, metavar="PAIR", help="default %(default)s")
    parser.add_argument("--engine", default=default.engine, metavar="ENGINE[:RECIPE]", help="default %(default)s")
    parser.add_argument("--draft-engine", metavar="ENGINE[:RECIPE]", help="of the agents (default: as --engine)")
    add_draft_flags(parser)
    parser.add_argument("--coordinator-cpus", type=cores, metavar="LIST", help="pin the coordinator to cores, as 0")
    parser.add_argument("--agent-cpus", type=cores, metavar="LIST", help="pin the agents to cores, as 1")


def run(args: argparse.Namespace) -> int:
    """Run `multispin bench cooperate` and return the exit status."""
    facts = machine_facts()
    arms: list[Arm] = [("alone", 0), *(("fixed", length) for length in args.lengths)]
    arms += [(name, 0) for name in args.policies.split(",")]
    prepared = _settings(args, arms[0], 1)
    prepare_side(prepared.pair, "target", prepared.engine, terminal_progress())
    prepare_draft(prepared, terminal_progress())
    yields: list[Yield] = []
    bounds: list[Bound] = []
    for users in args.users:
        rounds: list[RoundRecord] = []
        texts: Texts = {}
        yields += [_measure(args, arm, users, rounds, texts) for arm in arms]
        line = pass_line(rounds)
        if line is not None:
            bounds.append(bound_of(users, line, survival_of(rounds)))
    if args.json:
        print(msgspec.json.encode({"yields": yields, "bounds": bounds, **facts}).decode())
    else:
        _show(yields, bounds)
        print(f"cores {facts['cpus']}, load average before {facts['load_average_1min']:.2f}")
    return int(any(each.text_differences for each in yields))


def _settings(args: argparse.Namespace, arm: Arm, users: int) -> RunSettings:
    values = {
        "num_agents": users,
        "policy": arm[0],
        "num_draft_tokens": arm[1],
        "draft": args.draft,
        "lookup_min_ngram": args.lookup_min_ngram,
        "pair": args.pair,
        "engine": args.engine,
        "draft_engine": args.draft_engine or args.engine,
        "coordinator_cpus": args.coordinator_cpus,
        "agent_cpus": args.agent_cpus,
    }
    try:
        return msgspec.convert(values, RunSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"flags: {error}") from error


def _measure(args: argparse.Namespace, arm: Arm, users: int, rounds: list[RoundRecord], texts: Texts) -> Yield:
    """Serve the prompts in one arm; its rounds are added to `rounds`, its texts compared with those of the first."""
    name = f"fixed {arm[1]}" if arm[0] == "fixed" else arm[0]
    prompts = Path(args.prompts).absolute()
    limit = users * args.requests
    jobs = read_jobs(str(prompts), JobDefaults(max_tokens=args.max_tokens, ignore_end=True), limit)
    if len(jobs) < limit:
        raise ConfigError(f"{prompts} has {len(jobs)} prompts, {limit} are needed: fewer --users or --requests")
    flags = ["--max-tokens", str(args.max_tokens), "--ignore-end", "--limit", str(limit)]
    with tempfile.TemporaryDirectory(prefix="multispin-bench-") as folder:
        out = Path(folder) / "run"
        local = LocalRun(_settings(args, arm, users), prompts, flags, out, "bench")
        local.execute(jobs, counter_line(f"{name}, {users} user(s): done"))
        requests = read_jsonl(out / "requests.jsonl", RequestRecord).records
        own = read_jsonl(out / "rounds.jsonl", RoundRecord).records
    rounds += own
    differences = 0
    for record in requests:
        differences += count_differences(record.token_ids, texts.setdefault(record.id, record.token_ids))
    return yield_of(name, users, requests, own, differences)


def _show(yields: Sequence[Yield], bounds: Sequence[Bound]) -> None:
    most = {bound.users: bound for bound in bounds}
    alone = {each.users: each.goodput_tokens_per_s for each in yields if each.arm == "alone"}
    print(
        f"{'users':>5} {'arm':14} {'tok/s':>8} {'x alone':>8} {'of bound':>8} {'TPOT ms':>8} {'drafted':>8} "
        f"{'accept':>7} {'undrafted':>9} {'tokens':>7} {'differ':>6}"
    )
    for each in yields:
        rate, bound = each.goodput_tokens_per_s, most.get(each.users)
        of_bound = "-" if bound is None else f"{rate / bound.goodput_tokens_per_s:.2f}"
        accepted = "-" if each.acceptance_rate is None else f"{each.acceptance_rate:.3f}"
        print(
            f"{each.users:5} {each.arm:14} {rate:8.1f} {rate / alone[each.users]:8.2f} {of_bound:>8} "
            f"{each.tpot_ms_median:8.1f} {each.drafted_per_round:8.2f} {accepted:>7} {each.alone_share:9.1%} "
            f"{each.tokens:7} {each.text_differences:6}"
        )
    for bound in bounds:
        print(
            f"bound with {bound.users} user(s): {bound.goodput_tokens_per_s:.1f} tokens/s at L = "
            f"{bound.num_draft_tokens}, drafting and network for nothing"
        )
