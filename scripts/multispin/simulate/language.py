"""Texts that are known beforehand, and models that write them: the target always, the draft as often as it is said to.

Whether a draft agrees with the target at a position, given the text before it, is a property of (draft, target, text):
the noise is shared. So a text carries one bit a position, drawn with the request's alpha or taken from the records of a
real run, and every draft length, schedule and policy meets the same bits. The concession: what a draft guesses after a
wrong token is never looked at, so nothing is modelled there.

The number of a text stands in the first two tokens of its prompt, so that any engine that is fed the prompt knows it.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multispin.simulate.virtual_time import spend
from multispin_models.errors import ConfigError, LimitError
from multispin_models.language_model import ChatMessage, Logits, ModelInfo, Rows
from multispin_models.records import RoundRecord, read_jsonl

__all__ = ["Agreement", "KnownText", "KnownTokenizer", "ModelledModel", "PassCost", "Texts", "read_trace"]

N_VOCAB = 49_152
FIRST_TOKEN, NUM_TOKENS = 256, 64  # tokens of texts: three bytes on the wire, a letter each
NUMBER_BASE = 40_000
CONFIDENT = 12.0  # logit of the token that a model is for; the others have 0
_ONE_HOT: Logits = np.eye(FIRST_TOKEN + NUM_TOKENS, dtype=np.float32) * np.float32(CONFIDENT)
_FILLER = FIRST_TOKEN

Agreement = list[bool | None]  # by position of a text; null where a run did not ask
PassCost = Callable[[int, int], float]  # (rows, sequences) -> seconds


class KnownText:
    """What the target writes after one prompt, and where the draft agrees.

    Attributes:
        prompt_ids: the prompt.
        token_ids: the text, exactly `max_tokens` long.
        drafted_ids: what the draft guesses at each position after a right beginning.
    """

    def __init__(self, number: int, num_prompt: int, agreement: Sequence[bool], rng: random.Random) -> None:
        self.prompt_ids = [number // NUMBER_BASE, number % NUMBER_BASE] + [_FILLER] * (num_prompt - 2)
        drawn = rng.choices(range(NUM_TOKENS), k=len(agreement))
        self.token_ids = [FIRST_TOKEN + token for token in drawn]
        self.drafted_ids = [
            FIRST_TOKEN + (token if agrees else (token + 1) % NUM_TOKENS)
            for token, agrees in zip(drawn, agreement, strict=True)
        ]


class Texts:
    """All texts of a simulation, by number."""

    def __init__(self) -> None:
        self._texts: list[KnownText] = []

    def add(self, num_prompt: int, agreement: Sequence[bool], rng: random.Random) -> KnownText:
        """Return a new text."""
        text = KnownText(len(self._texts), num_prompt, agreement, rng)
        self._texts.append(text)
        return text

    def of_prompt(self, prompt_ids: Sequence[int]) -> KnownText:
        """Return the text that follows a prompt."""
        return self._texts[prompt_ids[0] * NUMBER_BASE + prompt_ids[1]]


class ModelledModel:
    """`LanguageModel` that knows the texts, and spends virtual time.

    Args:
        texts: of the simulation.
        cost: of a pass.
        is_draft: it guesses; else it is the target.
        max_sequences, max_rows, n_ctx: limits.
    """

    def __init__(
        self, texts: Texts, cost: PassCost, *, is_draft: bool, max_sequences: int, max_rows: int, n_ctx: int
    ) -> None:
        self._texts = texts
        self._cost = cost
        self._is_draft = is_draft
        self._free = list(range(max_sequences - 1, -1, -1))
        self._sequences: dict[int, tuple[KnownText | None, int]] = {}  # text, length
        self.busy_s = 0.0
        self.num_passes = 0
        self.num_rows = 0
        self.info = ModelInfo(
            name="modelled",
            fingerprint="modelled",
            vocabulary_hash="modelled",
            engine="simulated",
            engine_version="1",
            recipe="modelled",
            n_vocab=N_VOCAB,
            n_ctx=n_ctx,
            max_sequences=max_sequences,
            max_rows=max_rows,
            num_threads=1,
            exact=True,
            memory_bytes=0,
        )

    @property
    def num_open(self) -> int:
        """Sequences that are open."""
        return len(self._sequences)

    def open_sequence(self) -> int:
        """Return a free number."""
        if not self._free:
            raise LimitError(f"all {self.info.max_sequences} sequences are open")
        sequence = self._free.pop()
        self._sequences[sequence] = (None, 0)
        return sequence

    def close_sequence(self, sequence: int) -> None:
        """Free a sequence."""
        del self._sequences[sequence]
        self._free.append(sequence)

    def length(self, sequence: int) -> int:
        """Return its number of tokens."""
        return self._sequences[sequence][1]

    def forward(self, batch: Sequence[Rows]) -> list[Logits]:
        """Spend the time of a pass, then score each row with what its text has next."""
        rows = sum(len(part.token_ids) for part in batch)
        if rows > self.info.max_rows:
            raise LimitError(f"{rows} rows, allowed are {self.info.max_rows}")
        cost_s = self._cost(rows, len(batch))
        self.busy_s += cost_s
        self.num_passes += 1
        self.num_rows += rows
        spend(cost_s)
        return [self._part(part) for part in batch]

    def _part(self, part: Rows) -> Logits:
        text, length = self._sequences[part.sequence]
        if text is None:
            text = self._texts.of_prompt(part.token_ids)
        length += len(part.token_ids)
        self._sequences[part.sequence] = (text, length)
        following = text.drafted_ids if self._is_draft else text.token_ids
        first = length - part.num_logits + 1 - len(text.prompt_ids)
        tokens = following[first : first + part.num_logits]
        tokens += [_FILLER] * (part.num_logits - len(tokens))  # beyond the text's end: never committed
        scored: Logits = _ONE_HOT[tokens]
        return scored

    def rewind(self, sequence: int, length: int) -> None:
        """Cut a sequence back."""
        text, held = self._sequences[sequence]
        assert 0 <= length <= held
        self._sequences[sequence] = (text if length else None, length)

    def save(self, sequence: int) -> bytes:
        """Not used: a simulated cache has no state to be kept."""
        raise NotImplementedError(f"sequence {sequence} of a modelled model cannot be saved")

    def restore(self, sequence: int, state: bytes) -> None:
        """Not used, as `save`."""
        raise NotImplementedError(f"sequence {sequence} of a modelled model cannot be restored ({len(state)} bytes)")

    def close(self) -> None:
        """Free nothing."""


class KnownTokenizer:
    """A letter a token, and no end of text."""

    vocabulary_hash = "modelled"
    n_vocab = N_VOCAB
    end_token_ids: frozenset[int] = frozenset()

    def encode(self, text: str, *, parse_special: bool = False, add_special: bool = False) -> list[int]:  # noqa: ARG002
        """Return the tokens of letters."""
        return [ord(letter) - ord("0") + FIRST_TOKEN for letter in text]

    def token_bytes(self, token_id: int) -> bytes:
        """Return a letter."""
        return _LETTERS[token_id - FIRST_TOKEN]

    def apply_chat_template(self, messages: Sequence[ChatMessage], **variables: Any) -> str:  # noqa: ARG002
        """Return the messages as they are."""
        return "".join(message.content for message in messages)


_LETTERS = [bytes([ord("0") + token]) for token in range(NUM_TOKENS)]


def read_trace(folder: Path) -> list[Agreement]:
    """Return where the drafts of a real run agreed with the target, a list for each of its requests.

    An accepted token agreed, a recovered one did not; before a bonus token and the first of an opening nothing had
    been drafted, so it is not known.

    Raises:
        ConfigError: no rounds there.
    """
    path = folder / "rounds.jsonl"
    if not path.exists():
        raise ConfigError(f"trace {folder} has no rounds.jsonl: give the --out folder of a run")
    rounds: dict[int, list[RoundRecord]] = defaultdict(list)
    for record in read_jsonl(path, RoundRecord).records:
        rounds[record.wire_request_id].append(record)
    traces: list[Agreement] = []
    for records in rounds.values():
        agreement: Agreement = []
        for record in sorted(records, key=lambda each: each.round):
            agreement += [True] * record.num_accepted
            agreement.append(False if record.num_accepted < record.num_draft_tokens else None)
        traces.append(agreement)
    if not any(bit is not None for agreement in traces for bit in agreement):
        raise ConfigError(f"trace {path} has no drafted token")
    return traces
