"""Compares, bit for bit, rows that the ONNX engine computes alone with the same rows in passes of other shapes.

    python -m tests.hardware.arm64_exactness EXPORT... [--rows 24] [--contexts 0 250] [--threads 1 2]

EXPORT is a folder that `multispin models export` wrote. Runs on whatever machine it is started on, made for arm64,
whose kernels are not those of x86-64 (README.md beside this file: how to do without such a machine). Prints a table and
exits 1 if a row differed, here or in the start-up probe; a difference that the probe did not see is pointed out.

With `--greedy 24 --out FILE` on one machine and `--greedy 24 --against FILE` on another it also says how many of the
tokens that both choose are the same; between different processors that is reported, not required.
"""

import argparse
import itertools
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from tests.hardware.shapes import TEXTS, Reading, all_shapes, read_alone

from multispin_models.gguf_tokenizer import load_gguf_tokenizer
from multispin_models.language_model import LanguageModel, Rows, prefill
from multispin_models.onnx.engine import load_onnx
from multispin_models.onnx.exported import VOCABULARY_FILE
from multispin_models.probes import ExactnessReport, probe_exactness

PROMPT: Final = "The river rises in the hills north of the town and"


class Result(msgspec.Struct, frozen=True):
    """One export in one setting.

    Attributes:
        export, recipe, fingerprint: which model; the recipe with the form of its cache.
        num_threads, attention: which setting.
        compared, different: rows, by the name of the shape.
        largest: absolute difference of a logit.
        probe: what the start-up probe says of the same setting, if it was asked.
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
    probe: ExactnessReport | None
    greedy: list[int]

    @property
    def passed(self) -> bool:
        """Whether nothing differed."""
        return not any(self.different.values()) and (self.probe is None or self.probe.exact)


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
    with_probe: bool = True,
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
        probe = probe_exactness(model) if with_probe else None
        chosen = choose_greedily(model, directory / VOCABULARY_FILE, greedy)
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
    probe = result.probe
    seen = f"{probe.rows_different:4} of {probe.rows_compared}" if probe else "    -"
    line = (
        f"{result.export:24} {result.recipe:30} {result.attention:7} {result.num_threads:7} {rows:6} {different:9} "
        f"{result.largest:9.2g} {seen}"
    )
    blind = "\n    the start-up probe does NOT see it" if different and probe and probe.exact else ""
    shapes = [f"{n} of {result.compared[name]} in {name}" for name, n in result.different.items() if n]
    return line + (f"\n    differ: {', '.join(shapes)}" if shapes else "") + blind


def describe_choices(result: Result, others: Sequence[Result]) -> str:
    """Return how many tokens two machines chose alike, or nothing where there is nothing to compare."""
    for other in others:
        if other.fingerprint == result.fingerprint and other.greedy and result.greedy:
            pairs = list(zip(result.greedy, other.greedy, strict=False))
            alike = next((i for i, (mine, theirs) in enumerate(pairs) if mine != theirs), len(pairs))
            return f"    greedy: the first {alike} of {len(pairs)} tokens as there with {other.recipe}"
    return ""


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exports", metavar="EXPORT", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=24, help="of each text")
    parser.add_argument("--contexts", type=int, nargs="+", default=[0, 250], help="tokens before the rows")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--attention", nargs="+", default=["folded"], choices=["folded", "plain"])
    parser.add_argument("--cache", choices=["float16", "float32"], help="if not given, the engine chooses")
    parser.add_argument("--greedy", type=int, default=0, metavar="N", help="also choose N tokens")
    parser.add_argument(
        "--no-probe", action="store_true", help="leave out the start-up probe, which takes about 250 rows"
    )
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
            with_probe=not args.no_probe,
        ):
            results.append(result)
            print("\n".join(filter(None, (describe(result), describe_choices(result, others)))), flush=True)
            if args.out:
                args.out.write_bytes(msgspec.json.encode(results))
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
