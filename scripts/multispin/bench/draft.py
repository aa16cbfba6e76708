"""What a draft is worth: how often it is believed, and what it costs beside its target.

A draft changes no token. So the target writes every text once, and the rounds of any draft are then replayed from the
texts, exactly: the draft proposes L tokens behind what is committed, those that stand in the text are accepted, and the
text's next token follows. The costs are single rows of target and draft in turn, so that what else the machine does
falls on both alike.
"""

import time
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from msgspec import Struct

from multispin_agent.drafter import ModelDrafter
from multispin_models.language_model import LanguageModel, Rows, prefill
from multispin_models.ngram import shared_length
from multispin_models.sampling import Sampling, choose

__all__ = [
    "Acceptance",
    "Cost",
    "KnownText",
    "Round",
    "acceptance_of",
    "best_length",
    "replay",
    "row_times",
    "write_texts",
]

WARM_UP_ROWS = 3


class KnownText(NamedTuple):
    """A text that the target wrote.

    Attributes:
        task: its prompt's, "" if it has none.
        sampling: with which it was drawn.
        prompt_ids: at least one token.
        token_ids: the text; the first of them comes with the prompt's pass, in no round.
    """

    task: str
    sampling: Sampling
    prompt_ids: list[int]
    token_ids: list[int]


class Round(NamedTuple):
    """Tokens drafted and accepted in a round."""

    num_draft_tokens: int
    num_accepted: int


class Acceptance(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rounds of several texts, summed up.

    Attributes:
        rounds: in all.
        acceptance_rate: accepted / drafted; null if nothing was drafted.
        tokens_per_round: 1 + accepted / rounds; null without a round.
        survival: S(l) for l from 1: of the rounds that drafted l tokens or more, those whose first l were accepted.
    """

    rounds: int
    acceptance_rate: float | None
    tokens_per_round: float | None
    survival: tuple[float, ...]


class Cost(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Times of single rows.

    Attributes:
        target_ms, draft_ms: medians of `rows` each.
        ratio: median of draft / target over pairs measured one after the other.
        rows: of each.
        context: tokens before them.
    """

    target_ms: float
    draft_ms: float
    ratio: float
    rows: int
    context: int


def write_texts(
    model: LanguageModel,
    prompts: Sequence[tuple[str, list[int]]],
    samplings: Sequence[Sampling],
    max_tokens: int,
    end_token_ids: frozenset[int],
) -> list[KnownText]:
    """Return what the target writes after some prompts, under each of some samplings, computed side by side.

    Args:
        model: the target, with a free sequence for each pair of prompt and sampling.
        prompts: task and tokens of each; a prompt is computed once.
        samplings: each gives a text for every prompt.
        max_tokens: of a text.
        end_token_ids: a text ends with one of these.
    """
    texts: list[KnownText] = []
    open_texts: list[tuple[int, KnownText]] = []
    for task, prompt_ids in prompts:
        first = model.open_sequence()
        logits = prefill(model, first, prompt_ids, model.info.max_rows)[-1].copy()
        state = model.save(first) if len(samplings) > 1 else b""
        for sampling in samplings:
            sequence = first
            if sampling is not samplings[0]:
                sequence = model.open_sequence()
                model.restore(sequence, state)
            texts.append(KnownText(task, sampling, prompt_ids, [choose(logits, len(prompt_ids), sampling)]))
            open_texts.append((sequence, texts[-1]))
    while open_texts:
        going = []
        for sequence, text in open_texts:
            if text.token_ids[-1] in end_token_ids or len(text.token_ids) >= max_tokens:
                model.close_sequence(sequence)
            else:
                going.append((sequence, text))
        open_texts = going
        if open_texts:
            rows = [Rows(sequence, text.token_ids[-1:], 1) for sequence, text in open_texts]
            for (_, text), [row] in zip(open_texts, model.forward(rows), strict=True):
                position = len(text.prompt_ids) + len(text.token_ids)
                text.token_ids.append(choose(row, position, text.sampling))
    return texts


def replay(
    model: LanguageModel, text: KnownText, max_tokens: int, num_draft_tokens: int, end_token_ids: frozenset[int]
) -> list[Round]:
    """Return the rounds in which a known text would have been written with a draft model.

    Args:
        model: the draft, with a free sequence.
        text: from `write_texts`.
        max_tokens: that could have been written; a draft leaves room for the target's own last token.
        num_draft_tokens: most of a round.
        end_token_ids: nothing is drafted after one of these.
    """
    drafter = ModelDrafter(model, text.sampling)
    rounds: list[Round] = []
    done = 1
    try:
        while done < len(text.token_ids):
            drafted: list[int] = []
            if (count := min(num_draft_tokens, max_tokens - done - 1)) > 0:
                tokens = [*text.prompt_ids, *text.token_ids[:done]]
                drafted = [guess.token_id for guess in drafter.draft(tokens, count, end_token_ids, lambda: False)]
            accepted = shared_length(drafted, text.token_ids[done : done + len(drafted)])
            rounds.append(Round(len(drafted), accepted))
            done += accepted + 1
    finally:
        drafter.close()
    return rounds


def acceptance_of(rounds: Iterable[Round]) -> Acceptance:
    """Return figures of rounds.

    >>> acceptance_of([Round(2, 2), Round(2, 1), Round(2, 0), Round(1, 1)])
    Acceptance(rounds=4, acceptance_rate=0.5714285714285714, tokens_per_round=2.0, survival=(0.75, 0.3333333333333333))
    """
    played = list(rounds)
    drafted, accepted = sum(r.num_draft_tokens for r in played), sum(r.num_accepted for r in played)
    survival = []
    for length in range(1, max((r.num_draft_tokens for r in played), default=0) + 1):
        long_enough = [r for r in played if r.num_draft_tokens >= length]
        survival.append(sum(r.num_accepted >= length for r in long_enough) / len(long_enough))
    return Acceptance(
        rounds=len(played),
        acceptance_rate=accepted / drafted if drafted else None,
        tokens_per_round=1 + accepted / len(played) if played else None,
        survival=tuple(survival),
    )


def best_length(survival: Sequence[float], draft_ms: float, round_ms: float) -> tuple[int, float]:
    """Return the draft length of the best goodput, 0 for none, and that goodput in tokens per second.

    A round takes the draft's tokens one after the other, then `round_ms`; nothing is drafted ahead. With l tokens it
    gives 1 + S(1) + ... + S(l) tokens. Modelled from measured times and survival.

    Args:
        survival: S(l) from l = 1.
        draft_ms: of a drafted token.
        round_ms: of everything else: the target's pass, and the link.

    >>> best_length([0.9, 0.5, 0.1], 2.0, 10.0)
    (2, 171.42857142857144)
    """
    best, best_rate, tokens = 0, 1e3 / round_ms, 1.0
    for length, share in enumerate(survival, start=1):
        tokens += share
        if (rate := 1e3 * tokens / (round_ms + length * draft_ms)) > best_rate:
            best, best_rate = length, rate
    return best, best_rate


def row_times(target: LanguageModel, draft: LanguageModel, prompt_ids: Sequence[int], rows: int) -> Cost:
    """Return the times of single rows behind a prompt, target and draft in turn.

    Args:
        target, draft: each with a free sequence.
        prompt_ids: the context; both have room for it and `rows` more.
        rows: to be timed, behind some that are not.
    """
    models = (target, draft)
    sequences = [model.open_sequence() for model in models]
    try:
        for model, sequence in zip(models, sequences, strict=True):
            prefill(model, sequence, prompt_ids, model.info.max_rows)
        times: list[list[float]] = [[], []]
        for row in range(WARM_UP_ROWS + rows):
            token = prompt_ids[row % len(prompt_ids)]
            for found, model, sequence in zip(times, models, sequences, strict=True):
                started_ns = time.perf_counter_ns()
                model.forward([Rows(sequence, [token], 1)])
                if row >= WARM_UP_ROWS:
                    found.append((time.perf_counter_ns() - started_ns) / 1e6)
    finally:
        for model, sequence in zip(models, sequences, strict=True):
            model.close_sequence(sequence)
    ratio = median(d / t for t, d in zip(*times, strict=True))
    return Cost(target_ms=median(times[0]), draft_ms=median(times[1]), ratio=ratio, rows=rows, context=len(prompt_ids))
