"""The target alone, many users at once, one row each a pass: what cooperation has to beat, and its rival by HTTP.

Both are measured alike: prompts are held (computed before the clock starts), then every user draws `max_tokens` tokens
greedily, end of text ignored; prefill is timed apart, on prompts that are not held.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from msgspec import Struct

from multispin_models.errors import ConfigError
from multispin_models.language_model import LanguageModel, Rows, prefill
from multispin_models.lookup_alone import LookupBatch, LookupUser
from multispin_models.sampling import Sampling

__all__ = ["Alone", "HttpRival", "measure_engine", "measure_lookup", "measure_rival"]

PREFILL_ROWS = 128
HTTP_TIMEOUT_S = 600.0


class Alone(Struct, frozen=True):
    """One measurement.

    Attributes:
        name: engine and recipe, or the rival's address.
        users: served at once.
        decode_tokens_per_s: of all users together.
        prefill_tokens_per_s: of one prompt after the other.
        tokens: drawn.
        tokens_per_round: of one user in one pass, 1 without drafts; null for a rival, which does not say.
    """

    name: str
    users: int
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    tokens: int
    tokens_per_round: float | None


def measure_lookup(
    name: str,
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    num_draft_tokens: int,
    min_ngram: int,
) -> Alone:
    """Return the rates of an engine that looks drafts up in each user's own text; as `measure_engine`.

    A user whose text is complete leaves the pass, and the clock stops with the last of them.

    Args:
        name, model, prompts, max_tokens: as in `measure_engine`.
        num_draft_tokens, min_ngram: as in `LookupBatch`.
    """
    users = [LookupUser(prompt, Sampling(), max_tokens + 1, frozenset()) for prompt in prompts]
    batch = LookupBatch(model, users, num_draft_tokens=num_draft_tokens, min_ngram=min_ngram)
    try:
        started_s = time.perf_counter()
        batch.prefill()
        prefill_s = time.perf_counter() - started_s
        started_s = time.perf_counter()
        while batch.step():
            pass
        decode_s = time.perf_counter() - started_s
    finally:
        batch.close()
    drawn = sum(len(text.token_ids) - 1 for text in batch.texts)
    return Alone(
        name=name,
        users=len(prompts),
        decode_tokens_per_s=drawn / decode_s,
        prefill_tokens_per_s=sum(map(len, prompts)) / prefill_s,
        tokens=drawn,
        tokens_per_round=drawn / sum(len(text.rounds) for text in batch.texts),
    )


def measure_engine(name: str, model: LanguageModel, prompts: Sequence[Sequence[int]], max_tokens: int) -> Alone:
    """Return the rates of an engine with one user a prompt.

    Args:
        name: as it is shown.
        model: with a free sequence for each prompt.
        prompts: token ids.
        max_tokens: of each user.
    """
    sequences = [model.open_sequence() for _ in prompts]
    try:
        rows = min(PREFILL_ROWS, model.info.max_rows)
        started_s = time.perf_counter()
        last = [
            int(np.argmax(prefill(model, sequence, prompt, rows)[-1]))
            for sequence, prompt in zip(sequences, prompts, strict=True)
        ]
        prefill_s = time.perf_counter() - started_s
        started_s = time.perf_counter()
        for _ in range(max_tokens):
            batch = [Rows(sequence, [token], 1) for sequence, token in zip(sequences, last, strict=True)]
            last = [int(np.argmax(logits[-1])) for logits in model.forward(batch)]
        decode_s = time.perf_counter() - started_s
    finally:
        for sequence in sequences:
            model.close_sequence(sequence)
    return Alone(
        name=name,
        users=len(prompts),
        decode_tokens_per_s=len(prompts) * max_tokens / decode_s,
        prefill_tokens_per_s=sum(map(len, prompts)) / prefill_s,
        tokens=len(prompts) * max_tokens,
        tokens_per_round=1.0,
    )


class HttpRival:
    """llama.cpp's own server, or one with the same /completion.

    Args:
        url: http://HOST:PORT.
    """

    def __init__(self, url: str) -> None:
        if urlsplit(url).scheme not in {"http", "https"}:
            raise ConfigError(f"--rival is {url!r}, allowed is http://HOST:PORT of a llama.cpp server")
        self.url = url.rstrip("/")

    def complete(self, prompt: Sequence[int], max_tokens: int, *, slot: int, held: bool) -> dict[str, Any]:
        """Return the server's answer.

        Raises:
            ConfigError: no such server, or it refuses.
        """
        asked = {
            "prompt": list(prompt),
            "n_predict": max_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "cache_prompt": held,
            "id_slot": slot,
        }
        request = urllib.request.Request(  # noqa: S310 - http or https, checked above
            f"{self.url}/completion", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as answer:  # noqa: S310
                done: dict[str, Any] = json.load(answer)
        except (urllib.error.URLError, TimeoutError, ValueError) as error:
            raise ConfigError(f"rival {self.url} does not answer as a llama.cpp server: {error}") from error
        return done


def measure_rival(rival: HttpRival, prompts: Sequence[Sequence[int]], max_tokens: int) -> Alone:
    """Return the rates of a server with one slot a prompt; as `measure_engine`, HTTP included."""
    started_s = time.perf_counter()
    for slot, prompt in enumerate(prompts):
        rival.complete(prompt, 0, slot=slot, held=False)  # what a slot holds of an earlier round must not count
    prefill_s = time.perf_counter() - started_s
    with ThreadPoolExecutor(max_workers=len(prompts)) as users:
        started_s = time.perf_counter()
        answers = list(
            users.map(
                lambda numbered: rival.complete(numbered[1], max_tokens, slot=numbered[0], held=True),
                enumerate(prompts),
            )
        )
        decode_s = time.perf_counter() - started_s
    drawn = sum(int(answer["tokens_predicted"]) for answer in answers)
    return Alone(
        name=rival.url,
        users=len(prompts),
        decode_tokens_per_s=drawn / decode_s,
        prefill_tokens_per_s=sum(map(len, prompts)) / prefill_s,
        tokens=drawn,
        tokens_per_round=None,
    )
