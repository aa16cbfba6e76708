"""Passes of many shapes over the same texts, each row to be compared with the same row computed alone."""

import itertools
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from multispin_models.language_model import LanguageModel, Logits, Rows, prefill

BATCHES: Final = (2, 3, 5, 7, 9, 16)
TEXTS: Final = 3

Compared = Iterator[tuple[int, int, Logits]]  # (text, index of the first row, logits), before the shape goes on


class Reading(NamedTuple):
    """What all shapes compute: `texts` after one context, whose state is saved in `state`."""

    context: list[int]
    state: bytes
    texts: list[list[int]]
    expected: list[Logits]


def some_tokens(seed: int, count: int, n_vocab: int) -> list[int]:
    """Return token ids drawn evenly from a vocabulary, always the same for a seed."""
    return [int(token) for token in np.random.default_rng(seed).integers(0, n_vocab, count)]


def read_alone(model: LanguageModel, num_context: int, num_rows: int) -> Reading:
    """Return texts with the logits of each row computed in a pass of its own."""
    n_vocab = model.info.n_vocab
    context = some_tokens(99, num_context, n_vocab)
    texts = [some_tokens(text, num_rows, n_vocab) for text in range(TEXTS)]
    sequence = model.open_sequence()
    if context:
        prefill(model, sequence, context, 64)
    state = model.save(sequence)
    expected = []
    for text in texts:
        rows = [model.forward([Rows(sequence, [token], 1)])[0].copy() for token in text]
        expected.append(np.concatenate(rows))
        model.rewind(sequence, num_context)
    model.close_sequence(sequence)
    return Reading(context, state, texts, expected)


def alone(model: LanguageModel, reading: Reading) -> Compared:
    """A row at a time, as what it is compared with: differs only if the setting does."""
    yield from in_batches(model, reading, 1, text=0)


def in_batches(model: LanguageModel, reading: Reading, size: int, text: int = 1) -> Compared:
    """A text in passes of `size` rows, after a restored context."""
    sequence = model.open_sequence()
    model.restore(sequence, reading.state)
    for start in range(0, len(reading.texts[text]), size):
        chunk = reading.texts[text][start : start + size]
        yield text, start, model.forward([Rows(sequence, chunk, len(chunk))])[0]
    model.close_sequence(sequence)


def side_by_side(model: LanguageModel, reading: Reading) -> Compared:
    """All texts in one pass, 1 to 5 rows of each, so that their lengths drift apart; the last one joins late."""
    sequences = [model.open_sequence() for _ in reading.texts]
    for sequence in sequences:
        model.restore(sequence, reading.state)
    done = [0] * len(sequences)
    for step in itertools.count():
        sizes = [1 + (step + 2 * i) % 5 for i in range(len(sequences))]
        sizes[-1] *= step > 1
        chunks = [text[at : at + size] for text, at, size in zip(reading.texts, done, sizes, strict=True)]
        going = [i for i, chunk in enumerate(chunks) if chunk]
        if not going and step > 1:
            break
        batch = [Rows(sequences[i], chunks[i], len(chunks[i])) for i in going]
        for i, logits in zip(going, model.forward(batch), strict=True):
            yield i, done[i], logits
            done[i] += len(chunks[i])
    for sequence in sequences:
        model.close_sequence(sequence)


def after_chunked_prompt(model: LanguageModel, reading: Reading) -> Compared:
    """A text of which context and first third are read in chunks of 7 without logits, the rest in passes of 4."""
    text, stranger = reading.texts[2], model.open_sequence()
    sequence, start = model.open_sequence(), len(text) // 3
    prefill(model, sequence, reading.context + text[:start], 7)
    for first in range(start, len(text), 4):
        chunk = text[first : first + 4]
        yield 2, first, model.forward([Rows(stranger, chunk[:1], 0), Rows(sequence, chunk, len(chunk))])[1]
    model.close_sequence(sequence)
    model.close_sequence(stranger)


def with_rejected(model: LanguageModel, reading: Reading) -> Compared:
    """Two right rows before two wrong ones, which are taken back."""
    sequence, wrong = model.open_sequence(), some_tokens(7, 2, model.info.n_vocab)
    model.restore(sequence, reading.state)
    for start in range(0, len(reading.texts[0]), 2):
        right = reading.texts[0][start : start + 2]
        yield 0, start, model.forward([Rows(sequence, right + wrong, len(right) + 2)])[0][: len(right)]
        model.rewind(sequence, len(reading.context) + start + len(right))
    model.close_sequence(sequence)


def moved(model: LanguageModel, reading: Reading) -> Compared:
    """A text that changes its slot after every six rows, by a saved state; three rows a pass."""
    keeper, sequence = model.open_sequence(), model.open_sequence()
    model.restore(sequence, reading.state)
    for start in range(0, len(reading.texts[1]), 3):
        chunk = reading.texts[1][start : start + 3]
        yield 1, start, model.forward([Rows(sequence, chunk, len(chunk))])[0]
        if start % 2:
            state, new = model.save(sequence), model.open_sequence()
            model.close_sequence(sequence)
            sequence = new
            model.restore(sequence, state)
    model.close_sequence(sequence)
    model.close_sequence(keeper)


def all_shapes(model: LanguageModel, reading: Reading) -> Iterator[tuple[str, Compared]]:
    """Yield every shape with its name."""
    yield "alone", alone(model, reading)
    for size in BATCHES:
        yield f"batches of {size}", in_batches(model, reading, size)
    for shape in (side_by_side, after_chunked_prompt, with_rejected, moved):
        yield shape.__name__.replace("_", " "), shape(model, reading)
