"""Text that the target writes for training: many conversations side by side, one row each a pass.

What is given (a passage, a prompt) is not written but read, many rows of one conversation a pass: a row of 64 took 0.77
ms behind 256 tokens and 0.88 behind 512, one of 96 conversations 1.7 and 2.5 (one core of a Zen 5, `w8a8-rotated`).

Every conversation is a pure function of (target, seed, number): opening, temperature and noise are drawn from the
number, so that an interrupted run goes on as if nothing had been, whatever ran beside it. At each position behind the
template's beginning the target's likeliest tokens are kept, so that training needs no second pass of the target.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from multispin_models.distillation.corpus import Conversation, CorpusSettings, open_corpus, write_shard
from multispin_models.distillation.openings import QUESTION_TOKENS, Opening, Passages, draw_opening
from multispin_models.language_model import ChatMessage, LanguageModel, Rows, Tokenizer, prefill
from multispin_models.sampling import Sampling, choose

__all__ = ["READ_ROWS", "generate_corpus", "top_of"]

_MARK: Final = "\x02user\x02"  # stands for the user's turn while the template is cut
_USER_TEMPERATURE: Final = 0.9
_ANSWER_TEMPERATURES: Final = (0.0, 0.0, 0.6, 0.8, 0.8, 1.0)
_SHARD_CONVERSATIONS: Final = 48
READ_ROWS: Final = 64  # most of one pass
_READ_FROM: Final = 16  # given tokens on; fewer are added a pass at a time, beside what the others write


class _Template(NamedTuple):
    before: list[int]
    behind: list[int]


class _Writing:
    """One conversation that is being written in a sequence."""

    def __init__(
        self,
        number: int,
        sequence: int,
        settings: CorpusSettings,
        template: _Template,
        tokenizer: Tokenizer,
        prompts: Sequence[str],
        passages: Passages | None,
        n_ctx: int,
    ) -> None:
        drawn = random.Random(f"{settings.seed}/{number}")  # noqa: S311 - to be repeated
        self.number, self.sequence = number, sequence
        self.opening = Opening("prompts", drawn.choice(prompts), True, 0) if prompts else draw_opening(drawn, passages)
        self.temperature = drawn.choice(_ANSWER_TEMPERATURES)
        noise_seed = drawn.getrandbits(64)
        self._user = Sampling(temperature=_USER_TEMPERATURE, seed=noise_seed)
        self._answer = Sampling(temperature=self.temperature, seed=noise_seed)
        self._template, self._ends = template, tokenizer.end_token_ids
        self._max_answer = settings.max_answer_tokens
        self.tokens = list(template.before)
        self.first_scored = len(self.tokens)
        room = n_ctx - len(self.tokens) - len(template.behind) - settings.max_answer_tokens  # for the user's turn
        to_add = 0 if self.opening.complete else QUESTION_TOKENS
        self._forced = tokenizer.encode(self.opening.text)[: max(1, room - to_add)]
        wanted = max(self.opening.max_tokens, len(self._forced) + to_add)
        self._user_end = self.first_scored + min(room, wanted)
        self.answer_start = 0
        if self.opening.complete:
            self._begin_answer()
        self.top: list[tuple[npt.NDArray[np.uint32], npt.NDArray[np.float16]]] = []

    def _begin_answer(self) -> None:
        self._forced += self._template.behind
        self.answer_start = len(self.tokens) + len(self._forced)

    def to_read(self, most: int) -> list[int]:
        """Return the last token and those given behind it, where there are enough for passes of their own."""
        given = self._forced[: most - 1]
        return self.tokens[-1:] + given if len(given) >= _READ_FROM else []

    def add(self, logits: npt.NDArray[np.float32], top: int) -> bool:
        """Add the next token by the logits of its position; return whether the text goes on."""
        self.top.append(top_of(logits, top))
        position = len(self.tokens)
        if not self._forced and not self.answer_start:
            token = choose(logits, position, self._user)
            if token not in self._ends and position < self._user_end:
                self.tokens.append(token)
                return True
            self._begin_answer()
        if self._forced:
            self.tokens.append(self._forced.pop(0))
            return True
        token = choose(logits, position, self._answer)
        self.tokens.append(token)
        return token not in self._ends and len(self.tokens) - self.answer_start < self._max_answer

    def finished(self) -> Conversation:
        return Conversation(
            number=self.number,
            task=self.opening.task,
            temperature=self.temperature,
            tokens=np.array(self.tokens, np.int32),
            first_scored=self.first_scored,
            answer_start=self.answer_start,
            top_ids=np.stack([ids for ids, _ in self.top]),
            top_log_probabilities=np.stack([values for _, values in self.top]),
        )


def generate_corpus(
    model: LanguageModel,
    tokenizer: Tokenizer,
    folder: Path,
    settings: CorpusSettings,
    num_conversations: int,
    show: Callable[[int, int], None],
    prompts: Sequence[str] = (),
    first_number: int = 0,
    passages: Passages | None = None,
) -> None:
    """Write conversations into a corpus, `first_number` and those after it; those there already are passed over.

    Args:
        model: the target; as many conversations are written side by side as it has sequences.
        tokenizer: of its vocabulary, with a chat template.
        folder: of the corpus, made if it is not there.
        settings: see CorpusSettings.
        num_conversations: how many, from the first.
        show: told (tokens written by this call, conversations that the corpus has) after every pass.
        prompts: complete user turns to draw from in place of openings; those that leave no room are cut short.
        first_number: of the conversations; corpora of several processes or machines, each with numbers of its own, are
            one corpus once their shards lie in one folder.
        passages: real texts that a share of the openings is about; none beside prompts, which have no openings.

    Raises:
        ModelError: the corpus has other settings, or the model no chat template.
    """
    have = open_corpus(folder, settings)
    wanted = range(first_number, first_number + num_conversations)
    left = iter([number for number in wanted if number not in have])
    template = _cut_template(tokenizer)
    pending: list[Conversation] = []
    num_tokens, num_done = 0, len(have)
    for written in _write_all(model, tokenizer, settings, template, left, prompts, passages):
        if isinstance(written, int):
            num_tokens += written
            show(num_tokens, num_done)
            continue
        pending.append(written)
        num_done += 1
        if len(pending) >= _SHARD_CONVERSATIONS:
            write_shard(folder, pending)
            pending = []
    if pending:
        write_shard(folder, pending)


def _write_all(
    model: LanguageModel,
    tokenizer: Tokenizer,
    settings: CorpusSettings,
    template: _Template,
    left: Iterator[int],
    prompts: Sequence[str],
    passages: Passages | None,
) -> Iterator[Conversation | int]:
    """Yield conversations as they end, and after each pass the number of its rows."""
    first = model.open_sequence()
    beginning = prefill(model, first, template.before, min(model.info.max_rows, 32))[0].copy()
    state = model.save(first)
    model.close_sequence(first)
    active: list[_Writing] = []
    try:
        while True:
            while len(active) < model.info.max_sequences and (number := next(left, None)) is not None:
                sequence = model.open_sequence()
                model.restore(sequence, state)
                writing = _Writing(number, sequence, settings, template, tokenizer, prompts, passages, model.info.n_ctx)
                active.append(writing)
                writing.add(beginning, settings.top)
                yield from _read(model, writing, settings.top)
            if not active:
                return
            logits = model.forward([Rows(writing.sequence, writing.tokens[-1:], 1) for writing in active])
            going = []
            for writing, [row] in zip(active, logits, strict=True):
                if writing.add(row, settings.top):
                    going.append(writing)
                else:
                    model.close_sequence(writing.sequence)
                    yield writing.finished()
            yield len(active)
            active = going
    finally:
        for writing in active:
            model.close_sequence(writing.sequence)


def _read(model: LanguageModel, writing: _Writing, top: int) -> Iterator[int]:
    """Let a conversation read what it is given, in passes of its own; yield the number of rows of each."""
    while rows := writing.to_read(min(READ_ROWS, model.info.max_rows)):
        for row in model.forward([Rows(writing.sequence, rows, len(rows))])[0]:
            writing.add(row, top)
        yield len(rows)


def top_of(logits: npt.NDArray[np.float32], top: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float16]]:
    """Return the likeliest ids, likeliest first, and their log-probabilities.

    Args:
        logits: [n_vocab]
        top: how many, at most n_vocab.
    """
    ids = np.argpartition(logits, -top)[-top:]
    ids = ids[np.argsort(-logits[ids], kind="stable")]
    largest = logits[ids[0]]
    log_sum = largest + np.log(np.exp(logits - largest).sum(dtype=np.float64))
    return ids.astype(np.uint32), (logits[ids] - log_sum).astype(np.float16)


def _cut_template(tokenizer: Tokenizer) -> _Template:
    """Return the template's tokens before and behind the user's turn."""
    text = tokenizer.apply_chat_template([ChatMessage("user", _MARK)])
    before, _, behind = text.partition(_MARK)
    return _Template(
        tokenizer.encode(before, parse_special=True, add_special=True), tokenizer.encode(behind, parse_special=True)
    )
