"""Speculation on the coordinator alone: the target and the draft model on the same cores, several users at once."""

import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from multispin_agent.drafter import ModelDrafter
from multispin_models.engines import Loaded
from multispin_models.language_model import LanguageModel
from multispin_models.lookup_alone import LookupBatch, LookupUser
from multispin_models.onnx.quality import score_texts
from multispin_models.prompts import Job, encode_prompt

__all__ = ["ByItself", "mean_nll", "write_by_itself"]

NEVER_END: frozenset[int] = frozenset()


class ByItself(NamedTuple):
    """A block that the target wrote by itself.

    Attributes:
        texts: token ids by job.
        tokens, seconds: that were drawn while all were being written.
        tpot_s: of each.
        prefill_s: of all prompts, one after the other: the first tokens are there then.
        written_s: after that until a text was complete, by job.
        rounds, drafted, accepted: of each text.
        num_prompt_tokens: of each.
    """

    texts: dict[str, tuple[int, ...]]
    tokens: int
    seconds: float
    tpot_s: list[float]
    prefill_s: float
    written_s: dict[str, float]
    rounds: dict[str, int]
    drafted: dict[str, int]
    accepted: dict[str, int]
    num_prompt_tokens: dict[str, int]


def write_by_itself(target: Loaded, draft: LanguageModel, jobs: Sequence[Job], num_draft_tokens: int) -> ByItself:
    """Return the texts of jobs that all begin now; blocks.

    Args:
        target: with a free sequence for each.
        draft: likewise.
        jobs: a user each.
        num_draft_tokens: L of every pass.
    """
    tokenizer = target.tokenizer
    users = [
        LookupUser(
            encode_prompt(tokenizer, job.prompt),
            job.sampling,
            job.max_tokens,
            NEVER_END if job.ignore_end else tokenizer.end_token_ids,
        )
        for job in jobs
    ]
    drafters = [ModelDrafter(draft, job.sampling) for job in jobs]
    guesses = [partial(_guess, drafter) for drafter in drafters]
    batch = LookupBatch(target.model, users, num_draft_tokens=num_draft_tokens, guesses=guesses)
    try:
        begun_s = time.perf_counter()
        batch.prefill()
        prefill_s = time.perf_counter() - begun_s
        for user, drafter in zip(users, drafters, strict=True):
            _guess(drafter, user.prompt_ids, 1)
        lengths = [len(text.token_ids) for text in batch.texts]
        written_s = dict.fromkeys(range(len(jobs)), 0.0)
        tokens, seconds = 0, 0.0
        started_s = time.perf_counter()
        while batch.step():
            now_s = time.perf_counter() - started_s
            new = [len(text.token_ids) for text in batch.texts]
            written_s |= {index: now_s for index, length in enumerate(new) if length > lengths[index]}
            if all(length > before for length, before in zip(new, lengths, strict=True)):
                tokens, seconds = sum(new) - len(new), now_s
            lengths = new
    finally:
        batch.close()
        for drafter in drafters:
            drafter.close()
    named = {job.job_id: text for job, text in zip(jobs, batch.texts, strict=True)}
    return ByItself(
        texts={name: tuple(text.token_ids) for name, text in named.items()},
        tokens=tokens,
        seconds=seconds,
        tpot_s=[written_s[i] / (length - 1) for i, length in enumerate(lengths) if length > 1],
        prefill_s=prefill_s,
        written_s={job.job_id: written_s[index] for index, job in enumerate(jobs)},
        rounds={name: len(text.rounds) for name, text in named.items()},
        drafted={name: sum(each.num_draft_tokens for each in text.rounds) for name, text in named.items()},
        accepted={name: sum(each.num_accepted for each in text.rounds) for name, text in named.items()},
        num_prompt_tokens={job.job_id: len(user.prompt_ids) for job, user in zip(jobs, users, strict=True)},
    )


def mean_nll(model: LanguageModel, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float | None]:
    """Return the mean negative log-likelihood of a token of each text, in nats; null without a token.

    Args:
        model: the target.
        texts: (prompt, text) in tokens.
    """
    scores = [score_texts(model, [[*prompt, *text]]).nll[len(prompt) - 1 :] for prompt, text in texts]
    return [float(each.mean()) if len(each) else None for each in scores]


def _guess(drafter: ModelDrafter, tokens: Sequence[int], count: int) -> list[int]:
    if count < 1:
        return []
    return [each.token_id for each in drafter.draft(tokens, count, NEVER_END, lambda: False)]
