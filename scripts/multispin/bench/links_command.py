"""Measure bytes a token and goodput by the rule of verification, on links of a rate or a round trip, on real models.

    multispin bench links --prompts FILE --links 64kbit/s,1Mbit/s,20ms --rules coupled,rejection-lean,rejection

One agent drafts --num-draft-tokens a round and samples. A rate is that of each direction, by `tbf` in a network
namespace that the command makes and removes (root, `ip`, `tc`); a round trip is a relay's. Every rule serves the same
prompts. By `rejection` the distributions go up, entries that come to nothing at 16 bits left out: `--draft-entries` is
the most of them.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from multispin.bench.cooperate import window_of, yield_of
from multispin.flags import cores, machine_facts, positive
from multispin.links import Link, Reached, open_link, parse_link
from multispin.local_run import LocalRun, RunSettings, prepare_draft
from multispin.progress import counter_line, terminal_progress
from multispin_models.draft_distribution import payload_bits
from multispin_models.engines import prepare_side
from multispin_models.errors import ConfigError
from multispin_models.language_model import ModelInfo
from multispin_models.prompts import JobDefaults, read_jobs
from multispin_models.records import RequestRecord, RoundRecord, read_jsonl
from multispin_models.sampling import Sampling
from multispin_models.verification import RULES

__all__ = ["add_arguments", "run"]


class LinkYield(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rule on one link.

    Attributes:
        link, engine, rule: of the run.
        requests, rounds, tokens: served.
        payload_up_bytes_per_token, payload_down_bytes_per_token: frames of the protocol, over all tokens; the prompts
            are in them.
        draft_bytes_median: of a draft's frame.
        link_up_bytes_per_token, link_down_bytes_per_token: packets, all headers and acknowledgements in them, the
            handshake and pings too; null where nobody counted them.
        drafted_per_round: mean.
        acceptance_rate: accepted / drafted.
        goodput_tokens_per_s: as of `bench cooperate`.
        round_trip_ms_median, verify_ms_median: of a round with a draft.
        papers_bytes_per_drafted_token: if all `draft_entries` were sent, as the paper has it.
    """

    link: str
    engine: str
    rule: str
    requests: int
    rounds: int
    tokens: int
    payload_up_bytes_per_token: float
    payload_down_bytes_per_token: float
    draft_bytes_median: float
    link_up_bytes_per_token: float | None
    link_down_bytes_per_token: float | None
    drafted_per_round: float
    acceptance_rate: float | None
    goodput_tokens_per_s: float
    round_trip_ms_median: float
    verify_ms_median: float
    papers_bytes_per_drafted_token: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin bench links`."""
    default = RunSettings()
    parser.add_argument("--prompts", required=True, metavar="FILE", help='JSON lines: {"prompt"} or {"turns"}')
    parser.add_argument(
        "--links",
        default="64kbit/s,1Mbit/s,20ms",
        metavar="LIST",
        help="rates, round trips, or none (default %(default)s)",
    )
    parser.add_argument(
        "--rules", default=",".join(("coupled", "rejection-lean", "rejection")), metavar="LIST", help="default: all"
    )
    parser.add_argument("--requests", type=positive, default=3, metavar="N", help="of every cell (default 3)")
    parser.add_argument("--max-tokens", type=positive, default=64, metavar="N", help="of a request (default 64)")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="default %(default)s")
    parser.add_argument("--num-draft-tokens", type=positive, default=4, metavar="L", help="default %(default)s")
    parser.add_argument("--draft-entries", type=positive, default=1024, metavar="M", help="default %(default)s")
    parser.add_argument("--pair", default=default.pair, metavar="PAIR", help="default %(default)s")
    parser.add_argument("--engine", default=default.engine, metavar="LIST", help="ENGINE[:RECIPE], ... (%(default)s)")
    parser.add_argument("--coordinator-cpus", type=cores, metavar="LIST", help="pin the coordinator to cores, as 0")
    parser.add_argument("--agent-cpus", type=cores, metavar="LIST", help="pin the agent to cores, as 1")


def run(args: argparse.Namespace) -> int:
    """Run `multispin bench links` and return the exit status."""
    facts = machine_facts()
    links = [parse_link(text) for text in args.links.split(",")]
    rules = args.rules.split(",")
    if unknown := set(rules) - set(RULES):
        raise ConfigError(f"--rules has {', '.join(sorted(unknown))}, allowed are {', '.join(RULES)}")
    if not 0.0 < args.temperature <= 100.0:
        raise ConfigError(
            f"--temperature is {args.temperature}, allowed is above 0, at most 100: at 0 all rules are one"
        )
    yields: list[LinkYield] = []
    for engine in args.engine.split(","):
        prepared = _settings(args, engine, "coupled")
        prepare_side(prepared.pair, "target", engine, terminal_progress())
        prepare_draft(prepared, terminal_progress())
        for link in links:
            for rule in rules:
                with open_link(link) as reached:
                    yields.append(_measure(args, engine, link, rule, reached))
    if args.json:
        print(msgspec.json.encode({"yields": yields, **facts}).decode())
    else:
        _show(yields)
        print(f"cores {facts['cpus']}, load average before {facts['load_average_1min']:.2f}")
    return 0


def _settings(args: argparse.Namespace, engine: str, rule: str) -> RunSettings:
    values = {
        "policy": "fixed",
        "num_draft_tokens": args.num_draft_tokens,
        "verification": rule,
        "draft_entries": args.draft_entries,
        "pair": args.pair,
        "engine": engine,
        "draft_engine": engine,
        "coordinator_cpus": args.coordinator_cpus,
        "agent_cpus": args.agent_cpus,
    }
    try:
        return msgspec.convert(values, RunSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"flags: {error}") from error


def _measure(args: argparse.Namespace, engine: str, link: Link, rule: str, reached: Reached) -> LinkYield:
    prompts = Path(args.prompts).absolute()
    sampling = Sampling(args.temperature)
    defaults = JobDefaults(max_tokens=args.max_tokens, sampling=sampling, ignore_end=True)
    jobs = read_jobs(str(prompts), defaults, args.requests)
    flags = ["--max-tokens", str(args.max_tokens), "--temperature", str(args.temperature), "--ignore-end"]
    flags += ["--limit", str(args.requests)]
    with tempfile.TemporaryDirectory(prefix="multispin-bench-") as folder:
        out = Path(folder) / "run"
        settings = _settings(args, engine, rule)
        local = LocalRun(settings, prompts, flags, out, "bench", link=reached)
        local.execute(jobs, counter_line(f"{engine}, {link.name}, {rule}: done"))
        sent = reached.sent_bytes()
        assert local.target is not None
        return _yield(
            args,
            (link.name, engine, rule),
            read_jsonl(out / "requests.jsonl", RequestRecord).records,
            read_jsonl(out / "rounds.jsonl", RoundRecord).records,
            sent,
            local.target,
        )


def _yield(
    args: argparse.Namespace,
    names: tuple[str, str, str],
    requests: Sequence[RequestRecord],
    rounds: Sequence[RoundRecord],
    sent: tuple[int, int] | None,
    target: ModelInfo,
) -> LinkYield:
    link, engine, rule = names
    arm = f"{rule} over {link}"
    times_s = [each.tpot_s for each in requests if each.tpot_s is not None]
    common = yield_of(arm, 1, times_s, [window_of(arm, 1, requests, rounds)], 0)
    assert common.drafted_per_round is not None  # it has an agent
    drafts = [each for each in rounds if each.num_draft_tokens]
    tokens = sum(each.num_generated for each in requests)
    return LinkYield(
        link=link,
        engine=engine,
        rule=rule,
        requests=len(requests),
        rounds=len(drafts),
        tokens=tokens,
        payload_up_bytes_per_token=sum(each.payload_up_bytes for each in requests) / tokens,
        payload_down_bytes_per_token=sum(each.payload_down_bytes for each in requests) / tokens,
        draft_bytes_median=median(each.payload_up_bytes for each in drafts),
        link_up_bytes_per_token=None if sent is None else sent[0] / tokens,
        link_down_bytes_per_token=None if sent is None else sent[1] / tokens,
        drafted_per_round=common.drafted_per_round,
        acceptance_rate=common.acceptance_rate,
        goodput_tokens_per_s=common.goodput_tokens_per_s,
        round_trip_ms_median=1e3 * median(each.round_trip_s for each in drafts),
        verify_ms_median=1e3 * median(each.verify_s for each in drafts),
        papers_bytes_per_drafted_token=-(-payload_bits(args.draft_entries, target.n_vocab) // 8),
    )


def _show(yields: Sequence[LinkYield]) -> None:
    print(
        f"{'engine':9} {'link':9} {'rule':15} {'tok/s':>7} {'accept':>7} {'B/tok up':>9} {'down':>6} {'draft B':>8} "
        f"{'on link: up':>11} {'down':>7} {'round trip':>10} {'verify ms':>9} {'rounds':>6} {'tokens':>6}"
    )
    for each in yields:
        up, down = each.link_up_bytes_per_token, each.link_down_bytes_per_token
        accepted = "-" if each.acceptance_rate is None else f"{each.acceptance_rate:.3f}"
        print(
            f"{each.engine:9} {each.link:9} {each.rule:15} {each.goodput_tokens_per_s:7.1f} {accepted:>7} "
            f"{each.payload_up_bytes_per_token:9.1f} {each.payload_down_bytes_per_token:6.1f} "
            f"{each.draft_bytes_median:8.0f} {'-' if up is None else f'{up:.1f}':>11} "
            f"{'-' if down is None else f'{down:.1f}':>7} {each.round_trip_ms_median:10.1f} "
            f"{each.verify_ms_median:9.1f} {each.rounds:6} {each.tokens:6}"
        )
    print(f"all entries sent, as in the paper: {yields[0].papers_bytes_per_drafted_token} bytes a drafted token")
