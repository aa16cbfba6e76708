"""Compares, bit for bit, rows that the ONNX engine computes alone with the same rows in passes of other shapes.

    python tests/hardware/arm64_exactness.py [--rows 24] [--contexts 0 250] [--threads 1 2] EXPORT...

EXPORT is a folder that `multispin models export` wrote. Runs on whatever machine it is started on; made for arm64, where
kernels are others than on x86-64 (README.md beside this file: how to do it without such a machine). Prints a table and
exits 1 if a row differed, here or in the start-up probe; a difference that the probe did not see is pointed out.

With `--greedy 32 --out FILE` on one machine and `--against FILE` on another it also says whether both choose the same
tokens; between different processors that is reported, not required.
"""

import argparse
import itertools
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from multispin_models.gguf_tokenizer import load_gguf_tokenizer
from multispin_models.language_model import LanguageModel, Logits, Rows, prefill
from multispin_models.onnx.engine import load_onnx
from multispin_models.onnx.exported import VOCABULARY_FILE
from multispin_models.probes import ExactnessReport, probe_exactness

BATCHES: Final = (2, 3, 5, 7, 9, 16)
TEXTS: Final = 3
PROMPT: Final = "The river rises in the hills north of the town and"

Compared = Iterator[tuple[int, int, Logits]]  # (text, index of the first row, logits), before the shape goes on


class Result(msgspec.Struct, frozen=True):
    """One export in one setting.

    Attributes:
        export, recipe, fingerprint: which model; the recipe with the form of its cache.
        num_threads, attention: which setting.
        compared, different: rows, by the name of the shape.
        largest: absolute difference of a logit.
        probe: what the start-up probe says of the same setting.
        greedy: tokens chosen after PROMPT, empty if not asked.
    """

    export: str
    recipe: str
    fingerprint: str
    num_threads: int
    attention: str
    compared: dict[str, int]
    different: dict[str, int]
    largest: float
    probe: ExactnessReport
    greedy: list[int]

    @property
    def passed(self) -> bool:
        """Whether nothing differed."""
        return not any(self.different.values()) and self.probe.exact


class Reading(NamedTuple):
    """What all shapes compute: `texts` after one context, whose state is saved in `state`."""

    context: list[int]
    state: bytes
    texts: list[list[int]]
    expected: list[Logits]


def some_tokens(seed: int, count: int, n_vocab: int) -> list[int]:
    """Return token ids drawn evenly from a vocabulary, always the same for a seed."""
    return np.random.default_rng(seed).integers(0, n_vocab, count).tolist()


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


def choose_greedily(model: LanguageModel, vocabulary: Path, count: int) -> list[int]:
    """Return the first choice after PROMPT, `count` times."""
    if not count:
        return []
    sequence = model.open_sequence()
    logits = prefill(model, sequence, load_gguf_tokenizer(vocabulary).encode(PROMPT), 64)
    chosen = [int(np.argmax(logits))]
    while len(chosen) < count:
        chosen.append(int(np.argmax(model.forward([Rows(sequence, chosen[-1:], 1)])[0])))
    model.close_sequence(sequence)
    return chosen


def compare(
    directory: Path,
    *,
    num_rows: int = 24,
    contexts: Sequence[int] = (0,),
    threads: Sequence[int] = (1, 2),
    attention: Sequence[str] = ("folded",),
    cache: Any = None,
    greedy: int = 0,
) -> Iterator[Result]:
    """Yield how an export compares in each setting with rows computed alone, on one thread, in the first setting."""
    readings: list[Reading] = []
    for form, num_threads in itertools.product(attention, threads):
        model = load_onnx(
            directory,
            n_ctx=max(contexts) + num_rows + 80,  # the probe takes a context of 72 and 8 rows at least
            max_sequences=TEXTS + 1,
            max_rows=64,
            num_threads=num_threads,
            attention=form,  # type: ignore[arg-type]
            cache=cache,
        )
        readings = readings or [read_alone(model, count, num_rows) for count in contexts]
        compared: dict[str, int] = {}
        different: dict[str, int] = {}
        largest = 0.0
        for reading in readings:
            for name, shape in all_shapes(model, reading):
                for text, first, logits in shape:
                    wanted = reading.expected[text][first : first + len(logits)]
                    differs = (wanted.view(np.int32) != np.ascontiguousarray(logits).view(np.int32)).any(axis=1)
                    compared[name] = compared.get(name, 0) + len(logits)
                    different[name] = different.get(name, 0) + int(differs.sum())
                    largest = max(largest, float(np.abs(wanted - logits).max()))
        probe, chosen = probe_exactness(model), choose_greedily(model, directory / VOCABULARY_FILE, greedy)
        info = model.info
        yield Result(
            directory.name,
            info.recipe,
            info.fingerprint,
            num_threads,
            form,
            compared,
            different,
            largest,
            probe,
            chosen,
        )
        model.close()


def describe(result: Result) -> str:
    """Return a line, and one more for each shape that differed."""
    rows, different = sum(result.compared.values()), sum(result.different.values())
    line = (
        f"{result.export:24} {result.recipe:30} {result.attention:7} {result.num_threads:7} {rows:6} {different:9} "
        f"{result.largest:9.2g} {result.probe.rows_different:4} of {result.probe.rows_compared}"
    )
    blind = "\n    the start-up probe does NOT see it" if different and result.probe.exact else ""
    shapes = [f"{n} of {result.compared[name]} in {name}" for name, n in result.different.items() if n]
    return line + (f"\n    differ: {', '.join(shapes)}" if shapes else "") + blind


def describe_choices(result: Result, others: Sequence[Result]) -> str:
    """Return how many tokens two machines chose alike, or nothing where there is nothing to compare."""
    for other in others:
        if other.fingerprint == result.fingerprint and other.greedy and result.greedy:
            pairs = list(zip(result.greedy, other.greedy, strict=False))
            alike = next((i for i, (mine, theirs) in enumerate(pairs) if mine != theirs), len(pairs))
            return f"    greedy: the first {alike} of {len(pairs)} tokens as on the other machine"
    return ""


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("exports", metavar="EXPORT", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=24, help="of each text")
    parser.add_argument("--contexts", type=int, nargs="+", default=[0, 250], help="tokens before the rows")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--attention", nargs="+", default=["folded"], choices=["folded", "plain"])
    parser.add_argument("--cache", choices=["float16", "float32"], help="if not given, the engine chooses")
    parser.add_argument("--greedy", type=int, default=0, metavar="N", help="also choose N tokens")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write results as JSON")
    parser.add_argument(
        "--against", type=Path, metavar="FILE", help="results of another machine, for the chosen tokens"
    )
    args = parser.parse_args()
    others = msgspec.json.decode(args.against.read_bytes(), type=list[Result]) if args.against else []
    print(f"{platform.machine()}, {os.environ.get('QEMU_CPU', 'processor not emulated, or not said')}")
    print(f"{'export':24} {'recipe':30} {'attend':7} threads   rows different   largest probe")
    results = []
    for directory in args.exports:
        for result in compare(
            directory,
            num_rows=args.rows,
            contexts=args.contexts,
            threads=args.threads,
            attention=args.attention,
            cache=args.cache,
            greedy=args.greedy,
        ):
            results.append(result)
            print("\n".join(filter(None, (describe(result), describe_choices(result, others)))), flush=True)
    if args.out:
        args.out.write_bytes(msgspec.json.encode(results))
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
