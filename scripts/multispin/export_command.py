"""`multispin models export`: a GGUF file becomes a directory that ONNX Runtime serves.

multispin models export target.gguf target-onnx                          the recipe for targets, w8a8-rotated
multispin models export draft.gguf draft-onnx --recipe int8-block32      the recipe for drafts: one row at a time
multispin models export target.gguf target-onnx --check-quality FILE     also say what the recipe costs
"""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from multispin.progress import step_line
from multispin_models.errors import ConfigError
from multispin_models.onnx.recipes import RECIPES

if TYPE_CHECKING:
    from multispin_models.onnx.quality import Quality

__all__ = ["add_arguments", "check_quality", "run"]

DEFAULT_RECIPE: Final = "w8a8-rotated"
_CHECKED_ROWS: Final = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin models export`."""
    parser.add_argument("source", type=Path, metavar="GGUF", help="model file of the Llama family, any quantization")
    parser.add_argument("destination", type=Path, metavar="DIRECTORY", help="must not exist")
    parser.add_argument(
        "--recipe",
        choices=sorted(RECIPES),
        default=DEFAULT_RECIPE,
        help=f"in which numbers the weights are served (default {DEFAULT_RECIPE})",
    )
    parser.add_argument("--name", help="of the model, for people (default: the file's own)")
    parser.add_argument(
        "--check-quality",
        type=Path,
        metavar="FILE",
        help="state the negative log-likelihood against float32; FILE has one JSON array of token ids a line",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the quality check (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Export, check if asked, print, and return the exit status.

    Raises:
        MultispinError: the file cannot be exported, or the token texts cannot be read.
    """
    try:
        from multispin_models.onnx.export import export_onnx  # noqa: PLC0415 - the extra may not be installed
        from multispin_models.onnx.quality import read_token_texts  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"the exporter is not installed ({error}): pip install 'multispin[onnx-export]'") from error
    texts = read_token_texts(args.check_quality) if args.check_quality else None
    step_line(f"exporting {args.source} as {args.recipe}")
    manifest = export_onnx(args.source, args.destination, args.recipe, name=args.name)
    size_bytes = sum(file.stat().st_size for file in args.destination.iterdir())
    quality = check_quality(args.source, args.destination, texts, args.threads) if texts else None
    if args.json:
        report = {"manifest": manifest, "size_bytes": size_bytes, "quality": quality}
        print(msgspec.json.encode(report).decode())
        return 0
    print(f"{manifest.name} as {manifest.recipe.name}: {args.destination}, {size_bytes / 1e6:.0f} MB")
    print(f"fingerprint {manifest.fingerprint}")
    if quality:
        print(
            f"negative log-likelihood {quality.nll:.4f}, float32 {quality.reference_nll:.4f} "
            f"({100 * (quality.nll / quality.reference_nll - 1):+.2f} %), same first choice "
            f"{100 * quality.same_choice:.1f} %, over {quality.num_tokens} tokens"
        )
    return 0


def check_quality(source: Path, exported: Path, texts: list[list[int]], num_threads: int) -> "Quality":
    """Return what an exported model costs in quality against the float32 export of the same file."""
    from multispin_models.onnx.engine import load_onnx  # noqa: PLC0415
    from multispin_models.onnx.export import export_onnx  # noqa: PLC0415
    from multispin_models.onnx.exported import read_export  # noqa: PLC0415
    from multispin_models.onnx.quality import compare, score_texts  # noqa: PLC0415

    n_ctx = min(max(map(len, texts)), read_export(exported).architecture.context_length)
    scores = []
    with tempfile.TemporaryDirectory() as scratch:
        step_line(f"exporting {source} as float32, to compare with")
        export_onnx(source, Path(scratch) / "float32", "float32")
        for directory in (exported, Path(scratch) / "float32"):
            model = load_onnx(
                directory,
                n_ctx=n_ctx,
                max_sequences=1,
                max_rows=_CHECKED_ROWS,
                num_threads=num_threads,
                cache=None if directory == exported else "float32",
            )
            step_line(f"scoring {sum(map(len, texts))} tokens with {directory}")
            scores.append(score_texts(model, texts))
            model.close()
    return compare(*scores)
