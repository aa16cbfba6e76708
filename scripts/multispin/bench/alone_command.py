"""Measure the target alone, batched over users, and beside it llama.cpp's own server if one is named.

    multispin bench alone --engine onnx,llamacpp --users 1,8 --prompts FILE.jsonl --cpu 0
    taskset -c 0 llama-server -m target-q8_0.gguf -t 1 -np 8 -c 16384 --port 8081 &
    multispin bench alone --engine onnx --users 1,8 --prompts FILE.jsonl --cpu 0 --rival http://127.0.0.1:8081
    multispin bench alone --draft none,lookup --num-draft-tokens 4,8 --prompts FILE.jsonl --cpu 0

With --draft lookup each user's drafts are looked up in its own text and verified in the same pass: what a box without a
draft model, or a target without agents, can do by itself. The text is the same.

Prompts are held before the clock starts, every user draws the same number of tokens greedily; rounds of all subjects
take turns, so that a drift of the machine hits all alike. Figures are medians over the rounds.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import product
from statistics import median

import msgspec

from multispin.bench.alone import Alone, HttpRival, measure_engine, measure_lookup, measure_rival
from multispin.flags import cores, machine_facts, numbers, parse_engines, positive
from multispin.local_run import RunSettings
from multispin.progress import counter_line, terminal_progress
from multispin_models.engines import DEFAULT_ENGINE, ENGINES, load_side
from multispin_models.errors import ConfigError
from multispin_models.language_model import LanguageModel
from multispin_models.ngram import MIN_NGRAM
from multispin_models.prompts import JobDefaults, encode_prompt, read_jobs

__all__ = ["add_arguments", "run"]

Measure = Callable[[list[list[int]]], Alone]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin bench alone`."""
    parser.add_argument("--engine", default=DEFAULT_ENGINE, metavar="LIST", help="ENGINE or ENGINE:RECIPE, ...")
    parser.add_argument("--draft", type=_drafts, default=["none"], metavar="LIST", help="none (default), lookup")
    parser.add_argument(
        "--num-draft-tokens", type=numbers, default=[4], metavar="LIST", help="looked up a pass (default 4)"
    )
    parser.add_argument(
        "--lookup-min-ngram", type=numbers, default=[MIN_NGRAM], metavar="LIST", help="shortest match (default 2)"
    )
    parser.add_argument("--pair", default=RunSettings().pair, help="default %(default)s")
    parser.add_argument("--prompts", required=True, metavar="FILE", help="the first prompts of it, one a user")
    parser.add_argument("--users", type=numbers, default=[1, 8], metavar="LIST", help="default 1,8")
    parser.add_argument("--max-tokens", type=positive, default=64, metavar="N", help="of each user (default 64)")
    parser.add_argument("--repeat", type=positive, default=3, metavar="N", help="rounds (default 3)")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="of a pass (default 1)")
    parser.add_argument("--max-context-tokens", type=positive, default=1024, metavar="N", help="default 1024")
    parser.add_argument("--cpu", type=cores, metavar="LIST", help="pin this process to cores")
    parser.add_argument("--rival", metavar="URL", help="a llama.cpp server with a slot for every user, pinned likewise")


def run(args: argparse.Namespace) -> int:
    """Run `multispin bench alone` and return the exit status."""
    if args.cpu is not None:
        os.sched_setaffinity(0, args.cpu)
    facts = machine_facts()
    most = max(args.users)
    jobs = read_jobs(args.prompts, JobDefaults(), most)
    if len(jobs) < most:
        raise ConfigError(f"--prompts {args.prompts} has {len(jobs)} prompts, --users asks for {most}")
    with ExitStack() as loaded:
        measures, prompts = _subjects(args, loaded, [job.prompt for job in jobs])
        show = counter_line("measured")
        found: dict[tuple[int, int], list[Alone]] = {}
        total = args.repeat * len(args.users) * len(measures)
        for _ in range(args.repeat):
            for users in args.users:
                for number, measure in enumerate(measures):
                    found.setdefault((number, users), []).append(measure(prompts[:users]))
                    show(sum(map(len, found.values())), total)
    results = [_median(rounds) for rounds in found.values()]
    if args.json:
        print(msgspec.json.encode({"results": results, "repeat": args.repeat, **facts}).decode())
        return 0
    print(f"{'subject':46} {'users':>5} {'decode tok/s':>13} {'prefill tok/s':>14} {'tok/round':>10}")
    for result in sorted(results, key=lambda result: (result.users, result.name)):
        decode, first = result.decode_tokens_per_s, result.prefill_tokens_per_s
        length = "-" if result.tokens_per_round is None else f"{result.tokens_per_round:.2f}"
        print(f"{result.name:46} {result.users:5} {decode:13.1f} {first:14.1f} {length:>10}")
    print(f"medians of {args.repeat} rounds; cores {facts['cpus']}, load before {facts['load_average_1min']:.2f}")
    return 0


def _subjects(args: argparse.Namespace, loaded: ExitStack, texts: list[str]) -> tuple[list[Measure], list[list[int]]]:
    """Return how each subject is measured, and the prompts as tokens."""
    measures: list[Measure] = []
    prompts: list[list[int]] = []
    for engine in parse_engines(args.engine, ENGINES):
        target = load_side(
            args.pair,
            "target",
            engine,
            n_ctx=args.max_context_tokens,
            max_sequences=max(args.users),
            max_rows=128,
            num_threads=args.threads,
            progress=terminal_progress(),
        )
        loaded.callback(target.model.close)
        prompts = [encode_prompt(target.tokenizer, text) for text in texts]
        measures += _arms(args, f"{engine} ({target.model.info.recipe})", target.model)
    if args.rival is not None:
        rival = HttpRival(args.rival)
        measures.append(lambda chosen: measure_rival(rival, chosen, args.max_tokens))
    return measures, prompts


def _arms(args: argparse.Namespace, name: str, model: LanguageModel) -> Iterator[Measure]:
    """Yield how one engine is measured, without drafts and with each kind of lookup, as asked."""
    if "none" in args.draft:
        yield lambda chosen: measure_engine(name, model, chosen, args.max_tokens)
    if "lookup" in args.draft:
        for length, ngram in product(args.num_draft_tokens, args.lookup_min_ngram):
            yield partial(
                measure_lookup,
                f"{name} lookup L={length} n>={ngram}",
                model,
                max_tokens=args.max_tokens,
                num_draft_tokens=length,
                min_ngram=ngram,
            )


def _drafts(text: str) -> list[str]:
    found = text.split(",")
    if len(set(found)) < len(found) or not {"none", "lookup"}.issuperset(found):
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are none, lookup, or both as none,lookup")
    return found


def _median(rounds: list[Alone]) -> Alone:
    return msgspec.structs.replace(
        rounds[0],
        decode_tokens_per_s=median(one.decode_tokens_per_s for one in rounds),
        prefill_tokens_per_s=median(one.prefill_tokens_per_s for one in rounds),
    )
