"""The text that a box's draft model writes by itself: no network, and not the target's text."""

import hashlib

from multispin_models.clock import monotonic_ns
from multispin_models.language_model import LanguageModel, Rows, Tokenizer, prefill
from multispin_models.prompts import Job, encode_prompt
from multispin_models.records import RequestRecord
from multispin_models.sampling import choose

__all__ = ["write_alone"]


def write_alone(model: LanguageModel, tokenizer: Tokenizer, job: Job, *, run_id: str, agent_id: str) -> RequestRecord:
    """Return the record of a text that begins now, one token a pass; blocks.

    Args:
        model: the draft, with a free sequence.
        tokenizer: of it.
        job: what is asked.
        run_id, agent_id: in the record.
    """
    started_ns = monotonic_ns()
    prompt_ids = encode_prompt(tokenizer, job.prompt)
    ends = frozenset[int]() if job.ignore_end else tokenizer.end_token_ids
    tokens = list(prompt_ids)
    length = min(len(tokens) + job.max_tokens, model.info.n_ctx)
    first_ns = 0
    sequence = model.open_sequence()
    try:
        logits = prefill(model, sequence, tokens, model.info.max_rows)
        while True:
            tokens.append(choose(logits[-1], len(tokens), job.sampling))
            first_ns = first_ns or monotonic_ns()
            if tokens[-1] in ends or len(tokens) >= length:
                break
            [logits] = model.forward([Rows(sequence, tokens[-1:], 1)])
    finally:
        model.close_sequence(sequence)
    ended_ns = monotonic_ns()
    written = tokens[len(prompt_ids) :]
    return RequestRecord(
        run_id=run_id,
        id=job.job_id,
        wire_request_id=0,
        agent_id=agent_id,
        prompt_sha256=hashlib.sha256(job.prompt.encode()).hexdigest(),
        num_prompt_tokens=len(prompt_ids),
        token_ids=tuple(written),
        text=b"".join(map(tokenizer.token_bytes, written)).decode("utf-8", "replace"),
        finish="end" if written[-1] in ends else "length",
        num_rounds=0,
        num_drafted=0,
        num_accepted=0,
        num_generated=len(written),
        started_ns=started_ns,
        ended_ns=ended_ns,
        ttft_s=(first_ns - started_ns) / 1e9,
        tpot_s=(ended_ns - first_ns) / 1e9 / (len(written) - 1) if len(written) > 1 else None,
        e2e_s=(ended_ns - started_ns) / 1e9,
        payload_up_bytes=0,
        payload_down_bytes=0,
        energy_reason="its joules are those of the window",
    )
