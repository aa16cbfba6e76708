"""`multispin models layers`: which layers a target can do without, by measured agreement on text that it wrote.

    multispin models distill work --only text --conversations 200
    multispin models layers work --drop 6
    multispin models quantize target.gguf draft.gguf --recipe Q8_0 --drop-layers ...   what was found
    multispin models distill work --layers ...                                         or train on with what is left

Greedy: the layer whose absence costs least is left out, then the next. Each line is printed as it is found.
"""

import argparse
from pathlib import Path

import msgspec
import numpy as np

from multispin.flags import positive
from multispin.progress import step_line, terminal_progress
from multispin_models.errors import ConfigError
from multispin_models.manifest import DEFAULT_PAIR, load_pair, resolve_source

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin models layers`."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="in which `models distill --only text` wrote")
    parser.add_argument("--pair", default=DEFAULT_PAIR, help="whose target is looked at (default %(default)s)")
    parser.add_argument("--drop", type=positive, default=4, metavar="N", help="layers left out (default %(default)s)")
    parser.add_argument(
        "--tokens", type=positive, default=2000, metavar="N", help="of text, about, to measure on (default %(default)s)"
    )
    parser.add_argument("--head-size", type=positive, default=12288, metavar="N", help="ids that are looked at")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Print layer after layer, and return the exit status.

    Raises:
        MultispinError: a flag, the target or the corpus cannot be used.
    """
    try:
        from multispin_models.distillation.layer_search import drop_layers  # noqa: PLC0415
        from multispin_models.distillation.network import student_of  # noqa: PLC0415
        from multispin_models.onnx.weights import read_network  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"layers are read from GGUF ({error}): pip install 'multispin[onnx-export]'") from error
    from multispin_models.distillation.batches import Batches, batch_of  # noqa: PLC0415
    from multispin_models.distillation.loss import frequent_ids, head_of  # noqa: PLC0415

    batches = Batches(args.folder / "corpus", 0, args.tokens)
    conversations = sorted((*batches.training, *batches.held_out), key=lambda c: c.number)
    if not conversations:
        raise ConfigError(f"the corpus in {args.folder} is empty: multispin models distill {args.folder} --only text")
    network = read_network(resolve_source(load_pair(args.pair).target, terminal_progress())[0])
    count = len(network.layers)
    if args.drop >= count:
        raise ConfigError(f"--drop is {args.drop}, the target has {count} layers: one must stay")
    enough = int(np.searchsorted(np.cumsum([len(c.tokens) for c in conversations]), args.tokens)) + 1
    batch = batch_of(conversations[:enough])
    ids = frequent_ids(conversations, args.head_size, len(network.head))
    head, places = head_of(network.head, ids)
    student = student_of(network, range(count), max(map(len, batch.sequences)))
    step_line(f"{count} layers, {len(batch.rows)} rows of {len(batch.sequences)} conversations")
    for found in drop_layers(student, head, places, batch, args.drop):
        if args.json:
            print(msgspec.json.encode(found._asdict()).decode(), flush=True)
        else:
            print(
                f"without {found.layer:2}: loss {found.loss:.3f}, same first choice {found.same_choice:.3f}; "
                f"{len(found.left)} left: {','.join(map(str, found.left))}",
                flush=True,
            )
    return 0
