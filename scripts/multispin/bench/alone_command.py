"""Measure the target alone, batched over users, and beside it llama.cpp's own server if one is named.

    multispin bench alone --engine onnx,llamacpp --users 1,8 --prompts FILE.jsonl --cpu 0
    taskset -c 0 llama-server -m target-q8_0.gguf -t 1 -np 8 -c 16384 --port 8081 &
    multispin bench alone --engine onnx --users 1,8 --prompts FILE.jsonl --cpu 0 --rival http://127.0.0.1:8081

Prompts are held before the clock starts, every user draws the same number of tokens greedily; rounds of all subjects
take turns, so that a drift of the machine hits all alike. Figures are medians over the rounds.
"""

import argparse
import os
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median

import msgspec

from multispin.bench.alone import Alone, HttpRival, measure_engine, measure_rival
from multispin.flags import cores, machine_facts, numbers, parse_engines, positive
from multispin.local_run import RunSettings
from multispin.progress import counter_line, terminal_progress
from multispin_models.engines import DEFAULT_ENGINE, ENGINES, load_side
from multispin_models.errors import ConfigError
from multispin_models.prompts import JobDefaults, encode_prompt, read_jobs

__all__ = ["add_arguments", "run"]

Measure = Callable[[list[list[int]]], Alone]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin bench alone`."""
    parser.add_argument("--engine", default=DEFAULT_ENGINE, metavar="LIST", help="ENGINE or ENGINE:RECIPE, ...")
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
    print(f"{'subject':34} {'users':>5} {'decode tok/s':>13} {'prefill tok/s':>14}")
    for result in sorted(results, key=lambda result: (result.users, result.name)):
        decode, first = result.decode_tokens_per_s, result.prefill_tokens_per_s
        print(f"{result.name:34} {result.users:5} {decode:13.1f} {first:14.1f}")
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
        measures.append(
            lambda chosen, engine=engine, model=target.model: measure_engine(  # type: ignore[misc]
                f"{engine} ({model.info.recipe})", model, chosen, args.max_tokens
            )
        )
    if args.rival is not None:
        rival = HttpRival(args.rival)
        measures.append(lambda chosen: measure_rival(rival, chosen, args.max_tokens))
    return measures, prompts


def _median(rounds: list[Alone]) -> Alone:
    return msgspec.structs.replace(
        rounds[0],
        decode_tokens_per_s=median(one.decode_tokens_per_s for one in rounds),
        prefill_tokens_per_s=median(one.prefill_tokens_per_s for one in rounds),
    )
