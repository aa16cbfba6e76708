"""Measure the drafts of pairs beside their target: acceptance by task and temperature, cost, memory, best length.

    multispin models bench smollm2-135m my-pair.toml --prompts FILE.jsonl --per-task 8 --draft onnx,llamacpp:Q8_0
    multispin models tune smollm2-135m my-pair.toml --prompts FILE.jsonl        names the one to serve, and why

All pairs must have the same target. It writes every text once, in the engine that is to serve it; each draft's rounds
are replayed from these texts, exactly, since a draft changes no token. Tasks are the `category` of the prompts' lines.
Goodput is modelled from what was measured: a round takes the draft's rows, then one pass of the target and --link-ms.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec

from multispin.bench.draft import (
    Acceptance,
    Cost,
    KnownText,
    Round,
    acceptance_of,
    best_length,
    replay,
    row_times,
    write_texts,
)
from multispin.bench.draft_plot import Point, draw_drafts
from multispin.flags import machine_facts, parse_engines, positive
from multispin.progress import counter_line, terminal_progress
from multispin_models.engines import DEFAULT_ENGINE, ENGINES, Loaded, load_side
from multispin_models.errors import ConfigError
from multispin_models.manifest import DEFAULT_PAIR, load_pair
from multispin_models.prompts import Job, JobDefaults, encode_prompt, read_jobs
from multispin_models.sampling import Sampling

__all__ = ["DraftFigures", "add_arguments", "run", "run_tune"]

_SIDE_BY_SIDE = 8  # prompts whose texts are written together
_CONTEXT_ROWS = 256  # before the rows that are timed, where the prompts are as long
_MAX_ROWS = 64


class DraftFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one draft in one engine is worth.

    Attributes:
        pair, engine, recipe: which.
        memory_bytes: weights and caches.
        cost: against the target's single row.
        acceptance: "TASK at TEMPERATURE" -> figures, "all" over all tasks.
        length, tokens_per_s: the best draft length at temperature of the first texts and its goodput, modelled.
    """

    pair: str
    engine: str
    recipe: str
    memory_bytes: int
    cost: Cost
    acceptance: dict[str, Acceptance]
    length: int
    tokens_per_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin models bench` and `tune`."""
    parser.add_argument("pairs", nargs="*", default=[DEFAULT_PAIR], metavar="PAIR", help=f"default {DEFAULT_PAIR}")
    parser.add_argument("--prompts", required=True, metavar="FILE", help="JSON lines; tasks are their `category`")
    parser.add_argument("--limit", type=positive, metavar="N", help="take only the first N prompts of the file")
    parser.add_argument("--per-task", type=positive, metavar="N", help="take only the first N prompts of each task")
    parser.add_argument("--target", default=DEFAULT_ENGINE, metavar="ENGINE[:RECIPE]", help="default %(default)s")
    parser.add_argument("--draft", default=DEFAULT_ENGINE, metavar="LIST", help="engines, with :RECIPE or without")
    parser.add_argument("--temperature", type=_temperatures, default=(0.0, 0.8), metavar="LIST", help="default 0,0.8")
    parser.add_argument("--num-draft-tokens", type=positive, default=4, metavar="L", help="of a round (default 4)")
    parser.add_argument("--max-tokens", type=positive, default=64, metavar="N", help="of a text (default 64)")
    parser.add_argument("--max-context-tokens", type=positive, default=1536, metavar="N", help="default 1536")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="of a pass (default 1)")
    parser.add_argument("--rows", type=positive, default=40, metavar="N", help="timed of each model (default 40)")
    parser.add_argument("--link-ms", type=float, default=0.0, metavar="MS", help="of a round, both ways (default 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the noise (default 0)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write an SVG of acceptance against cost")


def run(args: argparse.Namespace) -> int:
    """Run `multispin models bench` and return the exit status."""
    found, texts = _measure(args)
    _plot(found, texts, args)
    if args.json:
        report = {"drafts": found, "texts": len(texts), "tokens": sum(len(t.token_ids) for t in texts)}
        print(msgspec.json.encode({**report, **machine_facts()}).decode())
        return 0
    _print_table(found, texts, args)
    return 0


def run_tune(args: argparse.Namespace) -> int:
    """Run `multispin models tune` and return the exit status."""
    found, texts = _measure(args)
    _plot(found, texts, args)
    best = max(found, key=lambda figures: figures.tokens_per_s)
    alone = 1e3 / (best.cost.target_ms + args.link_ms)
    drafts = best.length > 0
    if args.json:
        choice = {"pair": best.pair, "engine": best.engine, "num_draft_tokens": best.length} if drafts else None
        print(msgspec.json.encode({"choice": choice, "alone_tokens_per_s": alone, "drafts": found}).decode())
        return 0
    _print_table(found, texts, args)
    if drafts:
        print(
            f"serve pair {best.pair} with --engine {best.engine} and --num-draft-tokens {best.length}: "
            f"{best.tokens_per_s:.0f} tokens/s of one user, {alone:.0f} without a draft (modelled from the above)"
        )
    else:
        print(f"serve no draft: none is faster than the target alone, {alone:.0f} tokens/s (modelled from the above)")
    return 0


def _measure(args: argparse.Namespace) -> tuple[list[DraftFigures], list[KnownText]]:
    engines = parse_engines(args.draft, ENGINES)
    targets = {(pair.target.source or pair.target.file) for pair in map(load_pair, args.pairs)}
    if len(targets) > 1:
        raise ConfigError(f"the pairs have {len(targets)} targets: texts of one cannot be replayed for another")
    if args.link_ms < 0:
        raise ConfigError(f"--link-ms is {args.link_ms}, it must not be negative")
    samplings = [Sampling(temperature=temperature, seed=args.seed) for temperature in args.temperature]
    jobs = _chosen(read_jobs(args.prompts, JobDefaults(), args.limit), args.per_task)
    target = _load(args.pairs[0], "target", args.target, args, _SIDE_BY_SIDE * len(samplings))
    try:
        texts = _texts(target, jobs, samplings, args)
        return [
            _figures(pair, engine, target, texts, args, name)
            for name in args.pairs
            for pair in [load_pair(name).name]
            for engine in engines
        ], texts
    finally:
        target.model.close()


def _texts(
    target: Loaded, jobs: Sequence[Job], samplings: Sequence[Sampling], args: argparse.Namespace
) -> list[KnownText]:
    prompts = [(job.task, encode_prompt(target.tokenizer, job.prompt)) for job in jobs]
    room = args.max_context_tokens - args.max_tokens
    short = [prompt for prompt in prompts if len(prompt[1]) <= room]
    if not short:
        raise ConfigError(f"no prompt has {room} tokens or less: give more --max-context-tokens")
    show = counter_line("texts written")
    texts: list[KnownText] = []
    for start in range(0, len(short), _SIDE_BY_SIDE):
        part = short[start : start + _SIDE_BY_SIDE]
        texts += write_texts(target.model, part, samplings, args.max_tokens, target.tokenizer.end_token_ids)
        show(len(texts), len(short) * len(samplings))
    return texts


def _figures(
    pair: str, engine: str, target: Loaded, texts: Sequence[KnownText], args: argparse.Namespace, name: str
) -> DraftFigures:
    draft = _load(name, "draft", engine, args, 1)
    try:
        if draft.tokenizer.vocabulary_hash != target.tokenizer.vocabulary_hash:
            raise ConfigError(f"pair {pair}: draft and target have other vocabularies; see multispin models check")
        room = min(args.max_context_tokens - args.rows - 4, _CONTEXT_ROWS)
        context = max((text.prompt_ids for text in texts), key=len)[:room]
        cost = row_times(target.model, draft.model, context, args.rows)
        rounds: dict[str, list[Round]] = {}
        show = counter_line(f"texts replayed with {pair}, {engine}")
        for done, text in enumerate(texts, start=1):
            ends = draft.tokenizer.end_token_ids
            played = replay(draft.model, text, args.max_tokens, args.num_draft_tokens, ends)
            for task in ("all", text.task) if text.task else ("all",):
                rounds.setdefault(f"{task} at {text.sampling.temperature:g}", []).extend(played)
            show(done, len(texts))
        acceptance = {key: acceptance_of(played) for key, played in rounds.items()}
        first = acceptance[f"all at {args.temperature[0]:g}"]
        length, rate = best_length(first.survival, cost.draft_ms, cost.target_ms + args.link_ms)
        info = draft.model.info
        return DraftFigures(
            pair=pair,
            engine=engine,
            recipe=info.recipe,
            memory_bytes=info.memory_bytes,
            cost=cost,
            acceptance=acceptance,
            length=length,
            tokens_per_s=rate,
        )
    finally:
        draft.model.close()


def _load(pair: str, side: str, engine: str, args: argparse.Namespace, sequences: int) -> Loaded:
    return load_side(
        pair,
        "target" if side == "target" else "draft",
        engine,
        n_ctx=args.max_context_tokens,
        max_sequences=sequences,
        max_rows=_MAX_ROWS,
        num_threads=args.threads,
        progress=terminal_progress(),
    )


def _chosen(jobs: Sequence[Job], per_task: int | None) -> list[Job]:
    """Return the first prompts of each task, in the file's order."""
    taken: dict[str, int] = {}
    chosen = []
    for job in jobs:
        taken[job.task] = taken.get(job.task, 0) + 1
        if per_task is None or taken[job.task] <= per_task:
            chosen.append(job)
    return chosen


def _plot(found: Sequence[DraftFigures], texts: Sequence[KnownText], args: argparse.Namespace) -> None:
    if args.plot is None:
        return
    keys = [f"all at {temperature:g}" for temperature in args.temperature]
    points = [
        Point(f"{f.pair}, {f.engine}", f.cost.ratio, [f.acceptance[key].acceptance_rate for key in keys]) for f in found
    ]
    tokens = sum(len(text.token_ids) for text in texts)
    note = f"n = {tokens} tokens of {len(texts)} texts"
    args.plot.write_text(draw_drafts(points, args.temperature, args.num_draft_tokens, note), encoding="utf-8")


def _print_table(found: Sequence[DraftFigures], texts: Sequence[KnownText], args: argparse.Namespace) -> None:
    keys = list(found[0].acceptance)
    print(f"{'draft':44} {'MB':>5} {'ms/row':>7} {'cost':>5} {'L':>2} {'tokens/s':>9}")
    for f in found:
        name = f"{f.pair} {f.engine} ({f.recipe})"
        print(
            f"{name[:44]:44} {f.memory_bytes / 1e6:5.0f} {f.cost.draft_ms:7.2f} {f.cost.ratio:5.2f} {f.length:2} "
            f"{f.tokens_per_s:9.1f}"
        )
    print(
        f"\n{'accepted of drafted tokens':36} {'rounds':>7} "
        + " ".join(f"{f'draft {i + 1}':>9}" for i in range(len(found)))
    )
    for key in keys:
        rates = [f.acceptance[key].acceptance_rate for f in found]
        shown = " ".join(f"{'-' if rate is None else f'{rate:.3f}':>9}" for rate in rates)
        print(f"{key[:36]:36} {found[0].acceptance[key].rounds:7} {shown}")
    tokens = sum(len(text.token_ids) for text in texts)
    print(
        f"{len(texts)} texts, {tokens} tokens, up to {args.num_draft_tokens} drafted a round; target "
        f"{found[0].cost.target_ms:.2f} ms a row; cost: draft / target; rounds: of draft 1; L and tokens/s modelled"
    )


def _temperatures(text: str) -> tuple[float, ...]:
    """Return different temperatures, written as 0,0.8."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or len(set(found)) < len(found) or not all(0.0 <= value <= 100.0 for value in found):
        raise argparse.ArgumentTypeError(f"{text!r}: give different temperatures from 0 to 100, as 0,0.8")
    return found
