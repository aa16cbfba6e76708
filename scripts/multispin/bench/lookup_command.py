"""Measure how far a request's own text says how it goes on: coverage, acceptance, tokens a round.

    multispin bench lookup --prompts FILE.jsonl --temperature 0.8 --lookup-min-ngram 1,2,3,4

The target writes every text once. A draft changes no token, so the rounds under every setting are then replayed from
the texts, exactly. Tasks are the `category` of the prompts' lines. A round is one pass of the target for one user.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from multispin.bench.lookup import LookupFigures, lookup_figures, replay
from multispin.flags import machine_facts, numbers, positive
from multispin.local_run import RunSettings
from multispin.progress import counter_line, terminal_progress
from multispin_models.engines import DEFAULT_ENGINE, load_side
from multispin_models.lookup_alone import LookupBatch, LookupRound, LookupUser
from multispin_models.ngram import MAX_NGRAM
from multispin_models.prompts import Job, add_job_flags, encode_prompt, job_defaults, read_jobs

__all__ = ["add_arguments", "run"]

USERS = 4  # texts written together, to save passes; no figure depends on it


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one task, or of all; over all matches of `min_ngram` tokens and more, or of `num_matched` only.

    Attributes:
        task: "all", or a category.
        min_ngram: shortest match that drafts.
        num_matched: only the rounds whose match had so many tokens; null for all rounds.
        figures: of them; coverage is null with `num_matched`.
        share: of all rounds, those that are in `figures`.
    """

    task: str
    min_ngram: int
    num_matched: int | None
    figures: LookupFigures
    share: float


class _Text(NamedTuple):
    task: str
    prompt_ids: list[int]
    token_ids: list[int]
    max_tokens: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin bench lookup`."""
    parser.add_argument("--prompts", required=True, metavar="FILE", help="JSON lines; tasks are their `category`")
    parser.add_argument("--engine", default=DEFAULT_ENGINE, metavar="ENGINE[:RECIPE]", help="default %(default)s")
    parser.add_argument("--pair", default=RunSettings().pair, help="default %(default)s")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="of a pass (default 1)")
    parser.add_argument("--max-context-tokens", type=positive, default=2048, metavar="N", help="default 2048")
    parser.add_argument(
        "--num-draft-tokens", type=positive, default=4, metavar="L", help="looked up a round (default 4)"
    )
    parser.add_argument(
        "--lookup-min-ngram", type=numbers, default=[1, 2, 3, 4], metavar="LIST", help="shortest matches (1,2,3,4)"
    )
    add_job_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Run `multispin bench lookup` and return the exit status."""
    jobs = read_jobs(args.prompts, job_defaults(args), args.limit)
    texts = _write(args, jobs)
    lines = [line for ngram in args.lookup_min_ngram for line in _lines(texts, args.num_draft_tokens, ngram)]
    if args.json:
        tokens = sum(len(text.token_ids) for text in texts)
        found = {"lines": lines, "num_draft_tokens": args.num_draft_tokens, "texts": len(texts), "tokens": tokens}
        print(msgspec.json.encode({**found, **machine_facts()}).decode())
        return 0
    print(f"{'task':16} {'match':>7} {'rounds':>7} {'drafting':>9} {'accepted':>9} {'tokens/round':>13}")
    for line in lines:
        match = f">= {line.min_ngram}" if line.num_matched is None else f"= {line.num_matched}"
        cells = (line.share, line.figures.acceptance_rate)
        shown = " ".join(f"{'-' if cell is None else f'{cell:.1%}':>9}" for cell in cells)
        length = line.figures.tokens_per_round
        print(
            f"{line.task[:16]:16} {match:>7} {line.figures.rounds:7} {shown} "
            f"{'-' if length is None else f'{length:.2f}':>13}"
        )
    print(
        f"{len(texts)} texts, {sum(len(text.token_ids) for text in texts)} tokens, L = {args.num_draft_tokens}; "
        "match: tokens at the text's end that stood before; drafting: share of rounds; accepted: of drafted tokens"
    )
    return 0


def _write(args: argparse.Namespace, jobs: Sequence[Job]) -> list[_Text]:
    """Return what the target writes, in the order of the jobs."""
    target = load_side(
        args.pair,
        "target",
        args.engine,
        n_ctx=args.max_context_tokens,
        max_sequences=USERS,
        max_rows=64,
        num_threads=args.threads,
        progress=terminal_progress(),
    )
    show = counter_line("texts written")
    texts: list[_Text] = []
    try:
        for start in range(0, len(jobs), USERS):
            part = jobs[start : start + USERS]
            prompts = [encode_prompt(target.tokenizer, job.prompt) for job in part]
            ends = [frozenset[int]() if job.ignore_end else target.tokenizer.end_token_ids for job in part]
            batch = LookupBatch(
                target.model,
                [
                    LookupUser(prompt, job.sampling, job.max_tokens, end)
                    for prompt, job, end in zip(prompts, part, ends, strict=True)
                ],
                num_draft_tokens=args.num_draft_tokens,
            )
            try:
                batch.prefill()
                while batch.step():
                    pass
            finally:
                batch.close()
            texts += [
                _Text(job.task, prompt, text.token_ids, job.max_tokens)
                for job, prompt, text in zip(part, prompts, batch.texts, strict=True)
            ]
            show(len(texts), len(jobs))
    finally:
        target.model.close()
    return texts


def _lines(texts: Sequence[_Text], num_draft_tokens: int, min_ngram: int) -> list[Line]:
    """Return figures of all texts, of each length of a match for the shortest that drafts, and of each task."""
    rounds: dict[str, list[LookupRound]] = {"all": []}
    for text in texts:
        played = replay(
            text.prompt_ids,
            text.token_ids,
            text.max_tokens,
            num_draft_tokens=num_draft_tokens,
            min_ngram=min_ngram,
            max_ngram=max(MAX_NGRAM, min_ngram),
        )
        rounds["all"] += played
        if text.task:
            rounds.setdefault(text.task, []).extend(played)
    lines = [_line(task, min_ngram, None, found) for task, found in rounds.items()]
    by_length = [
        _line("all", min_ngram, length, rounds["all"]) for length in range(min_ngram, max(MAX_NGRAM, min_ngram) + 1)
    ]
    return [lines[0], *by_length, *lines[1:]]


def _line(task: str, min_ngram: int, num_matched: int | None, rounds: Sequence[LookupRound]) -> Line:
    chosen = [each for each in rounds if num_matched in (None, each.num_matched)]
    figures = lookup_figures(chosen)
    if num_matched is None:
        return Line(task=task, min_ngram=min_ngram, num_matched=None, figures=figures, share=figures.coverage or 0.0)
    share = len(chosen) / len(rounds) if rounds else 0.0
    figures = msgspec.structs.replace(figures, coverage=None)
    return Line(task=task, min_ngram=min_ngram, num_matched=num_matched, figures=figures, share=share)
