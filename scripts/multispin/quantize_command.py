"""`multispin models quantize`: a sibling of a model, to draft for it: fewer bits, a finer embedding, layers left out.

    multispin models quantize target.gguf draft.gguf --recipe Q4_0 --embedding Q8_0
    multispin models quantize target.gguf draft.gguf --recipe Q4_0 --embedding Q8_0 --tensor ffn_down=Q8_0
    multispin models quantize target.gguf draft.gguf --recipe Q8_0 --drop-layers 11,15,20

Written by llama.cpp's own quantizer. Start from the finest file there is: bits that were lost do not come back. A type
that does not fit a tensor's width is replaced by llama.cpp (K-quants need 256 inputs); --list shows what became of it.
What a sibling is worth says `multispin models bench`.
"""

import argparse
import os
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from multispin.progress import step_line
from multispin_models.cache import file_sha256
from multispin_models.errors import ConfigError, ModelError
from multispin_models.gguf_metadata import read_gguf_metadata

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin models quantize`."""
    parser.add_argument("source", type=Path, metavar="GGUF", help="model file, in any quantization")
    parser.add_argument("destination", type=Path, metavar="FILE", help="must not exist")
    parser.add_argument("--recipe", default="Q8_0", metavar="RECIPE", help="of the matrices (default %(default)s)")
    parser.add_argument("--embedding", metavar="TYPE", help="of the embedding, the head's too where they are one")
    parser.add_argument("--head", metavar="TYPE", help="of a head of its own")
    parser.add_argument(
        "--tensor", action="append", default=[], type=_override, metavar="PART=TYPE", help="of tensors named like PART"
    )
    parser.add_argument("--drop-layers", type=_layers, default=(), metavar="LIST", help="left out, from 0, as 11,15")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="default %(default)s")
    parser.add_argument("--list", action="store_true", help="say how many tensors have which type")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Write the sibling, say what it is, and return the exit status.

    Raises:
        ConfigError: a flag is not valid, llama.cpp is missing, or the destination is there already.
        ModelError: the source cannot be used.
    """
    try:
        from multispin_models.llamacpp.quantize import quantize_gguf  # noqa: PLC0415 - only here llama.cpp is needed
    except ImportError as error:
        raise ConfigError(f"engine llamacpp is missing ({error}): scripts/setup llamacpp") from error
    if args.destination.exists():
        raise ConfigError(f"destination {args.destination} is there already: remove it, or name another")
    _check_layers(args.source, args.drop_layers)
    step_line(f"writing {args.destination} as {args.recipe}")
    quantize_gguf(
        args.source,
        args.destination,
        args.recipe,
        args.threads,
        embedding=args.embedding,
        head=args.head,
        tensors=dict(args.tensor),
        drop_layers=args.drop_layers,
    )
    report: dict[str, Any] = {
        "file": str(args.destination),
        "size_bytes": args.destination.stat().st_size,
        "sha256": file_sha256(args.destination),
        "source_sha256": file_sha256(args.source),
        "recipe": args.recipe,
        "embedding": args.embedding,
        "head": args.head,
        "tensors": dict(args.tensor),
        "drop_layers": args.drop_layers,
    }
    if args.list:
        report["types"] = tensor_types(args.destination)
    if args.json:
        print(msgspec.json.encode(report).decode())
        return 0
    print(f"{args.destination}: {report['size_bytes'] / 1e6:.1f} MB, sha256 {report['sha256']}")
    for kind, count in report.get("types", {}).items():
        print(f"  {count:4} tensors {kind}")
    return 0


def tensor_types(path: Path) -> dict[str, int]:
    """Return how many tensors of a GGUF file have which type, the name's end before it: "ffn_down Q4_0"."""
    from multispin_models.distillation.draft_file import stored_types  # noqa: PLC0415 - the extra may not be installed

    counts = Counter(f"{name.removesuffix('.weight').split('.')[-1]} {kind}" for name, kind in stored_types(path))
    return dict(sorted(counts.items()))


def _check_layers(source: Path, drop_layers: tuple[int, ...]) -> None:
    metadata = read_gguf_metadata(source)
    family = metadata.get("general.architecture", str)
    count = metadata.get(f"{family}.block_count", int)
    if count is None:
        raise ModelError(f"model {source} does not say how many layers it has: it is no model, or damaged")
    if drop_layers and (max(drop_layers) >= count or len(drop_layers) >= count):
        raise ConfigError(
            f"--drop-layers is {','.join(map(str, drop_layers))}; {source} has layers 0 to {count - 1}, one must stay"
        )


def _override(text: str) -> tuple[str, str]:
    part, _, kind = text.partition("=")
    if not part or not kind:
        raise argparse.ArgumentTypeError(f"{text!r}: give part of a tensor's name and a type, as ffn_down=Q8_0")
    return part, kind


def _layers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (-1,)
    if min(found) < 0 or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r}: give different numbers from 0 up, as 11,15,20")
    return found
