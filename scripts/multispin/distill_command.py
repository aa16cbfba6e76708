"""`multispin models distill`: a small draft, trained on text that its target wrote.

    multispin models distill work --layers 0,1,4,9,14,19,24,29 --conversations 1500 --steps 1200
    multispin models distill work ... --only text        the target writes; --only train, --only write likewise
    multispin models distill more --continue-from draft.gguf --conversations 20000 --steps 20000

Each stage goes on where an earlier run stopped. The folder holds corpus/ (the target's text), checkpoint.npz (the
state of training, with the optimizer's), level.npz (the same before the rate fell: copied over checkpoint.npz it is
what a longer run goes on from), training.jsonl (the reports), and in the end draft.layers.gguf (the draft's own layers,
to be shipped), draft.gguf (a whole model, to be served) and draft.toml (the pair). Training is numpy in float32 and
needs no further package (as many threads as OPENBLAS_NUM_THREADS allows), or PyTorch in bfloat16 (`--arithmetic
bfloat16`, `--threads`).
"""

import argparse
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import multispin_models
from multispin.flags import positive
from multispin.progress import counter_line, terminal_progress
from multispin_models.cache import staging
from multispin_models.engines import load_side
from multispin_models.errors import ConfigError
from multispin_models.manifest import DEFAULT_PAIR, load_pair, resolve_source
from multispin_models.prompts import JobDefaults, read_jobs

if TYPE_CHECKING:
    from multispin_models.distillation.network import Student
    from multispin_models.distillation.training import Trainer, TrainingSettings

__all__ = ["add_arguments", "run"]

STAGES = ("text", "train", "write")
_REPORT_EVERY = 20
_SAVE_EVERY_S = 180.0
_HELD_OUT_TOKENS = 8000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin models distill`."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the work; made, or gone on with")
    parser.add_argument("--pair", default=DEFAULT_PAIR, help="whose target is distilled (default %(default)s)")
    parser.add_argument("--engine", default="onnx", metavar="ENGINE", help="that writes the text (default %(default)s)")
    parser.add_argument("--only", choices=STAGES, help="one stage alone")
    parser.add_argument("--layers", type=_layers, metavar="LIST", help="of the target to copy, as 0,1,4,9")
    parser.add_argument(
        "--continue-from", type=Path, metavar="GGUF", help="a whole draft to train on, in place of --layers"
    )
    parser.add_argument("--conversations", type=positive, default=1500, metavar="N", help="that the target writes")
    parser.add_argument(
        "--first-conversation", type=int, default=0, metavar="N", help="number of the first one (default 0)"
    )
    parser.add_argument("--prompts", metavar="FILE", help="users' prompts in place of the built-in openings")
    parser.add_argument(
        "--passages",
        metavar="FILE",
        help="real texts that a share of the openings is about: JSON lines, each with the text as prompt and its "
        "language as category (English without one)",
    )
    parser.add_argument("--max-answer-tokens", type=positive, default=160, metavar="N", help="default %(default)s")
    parser.add_argument("--side-by-side", type=positive, default=40, metavar="N", help="conversations (default 40)")
    parser.add_argument("--max-context-tokens", type=positive, default=1100, metavar="N", help="default %(default)s")
    parser.add_argument("--top", type=positive, default=32, metavar="K", help="likeliest tokens kept (default 32)")
    parser.add_argument("--steps", type=positive, default=1200, metavar="N", help="of training, in all")
    parser.add_argument("--batch-tokens", type=positive, default=1024, metavar="N", help="of a step (default 1024)")
    parser.add_argument(
        "--rate", type=float, default=6e-4, metavar="R", help="largest learning rate (default %(default)s)"
    )
    parser.add_argument("--decay-share", type=float, default=0.3, metavar="S", help="of the steps, at the end")
    parser.add_argument(
        "--user-weight", type=float, default=1.0, metavar="W",
        help="in the loss, of a token of the user's turn beside one of an answer (above 0, at most 1; default 1)",
    )  # fmt: skip
    parser.add_argument("--head-size", type=positive, default=12288, metavar="N", help="ids the loss looks at")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of openings, noise and order (default 0)")
    parser.add_argument(
        "--arithmetic",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of training: float32 in numpy (default), or bfloat16 in PyTorch (pip install 'multispin[distill]')",
    )
    parser.add_argument("--type", default="Q8_0", metavar="TYPE", help="of the shipped matrices (default Q8_0)")
    parser.add_argument("--name", default="", help="of the draft, for people")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="of target and PyTorch (default 1)")


def run(args: argparse.Namespace) -> int:
    """Run the stages that are asked for and return the exit status.

    Raises:
        MultispinError: a flag, the target or a file of the folder cannot be used.
    """
    if (
        not 0.0 <= args.decay_share <= 1.0
        or not args.rate > 0.0
        or not 0.0 < args.user_weight <= 1.0
        or min(args.seed, args.first_conversation) < 0
    ):
        raise ConfigError(
            f"--decay-share is {args.decay_share}, allowed are 0 to 1; --rate is {args.rate}, it must be above 0; "
            f"--user-weight is {args.user_weight}, allowed is above 0 to 1; "
            f"--seed is {args.seed} and --first-conversation {args.first_conversation}, they must not be negative"
        )
    stages = (args.only,) if args.only else STAGES
    if set(stages) - {"text"} and not args.layers and not args.continue_from:
        raise ConfigError(
            "name the layers that are copied (--layers 0,1,4,9), or a draft to train on (--continue-from)"
        )
    args.folder.mkdir(parents=True, exist_ok=True)
    if "text" in stages:
        _write_text(args)
    if "train" in stages:
        _train(args)
    if "write" in stages:
        _write_draft(args)
    return 0


def _write_text(args: argparse.Namespace) -> None:
    """Let the target write."""
    from multispin_models.distillation.corpus import CorpusSettings  # noqa: PLC0415
    from multispin_models.distillation.target_text import READ_ROWS, generate_corpus  # noqa: PLC0415

    if args.prompts and args.passages:
        raise ConfigError("--prompts take the place of the openings that --passages are for: give one of the two")
    prompts = [job.prompt for job in read_jobs(args.prompts, JobDefaults())] if args.prompts else []
    passages = _read_passages(args.passages) if args.passages else {}
    loaded = load_side(
        args.pair,
        "target",
        args.engine,
        n_ctx=args.max_context_tokens,
        max_sequences=args.side_by_side,
        max_rows=max(args.side_by_side, READ_ROWS),
        num_threads=args.threads,
        progress=terminal_progress(),
    )
    info = loaded.model.info
    settings = CorpusSettings(
        target_fingerprint=info.fingerprint,
        target_recipe=info.recipe,
        vocabulary_hash=info.vocabulary_hash,
        seed=args.seed,
        max_answer_tokens=args.max_answer_tokens,
        top=args.top,
        prompts_sha256=sha256(msgspec.json.encode(prompts)).hexdigest() if prompts else "",
        passages_sha256=sha256(msgspec.json.encode(passages)).hexdigest() if passages else "",
    )
    show = counter_line("conversations")
    try:
        generate_corpus(
            loaded.model,
            loaded.tokenizer,
            args.folder / "corpus",
            settings,
            args.conversations,
            lambda _, done: show(done, args.conversations),
            prompts,
            args.first_conversation,
            passages,
        )
    finally:
        loaded.model.close()


def _read_passages(path: str) -> dict[str, list[str]]:
    """Return the texts of a file by language.

    Raises:
        ConfigError: it cannot be read, or has no English text.
    """
    passages: dict[str, list[str]] = {}
    for job in read_jobs(path, JobDefaults()):
        passages.setdefault(job.task or "English", []).append(job.prompt)
    if "English" not in passages:
        raise ConfigError(f"passages {path}: no line is in English (without a category, or with English as category)")
    return passages


def _train(args: argparse.Namespace) -> None:
    trainer = _trainer(args)
    settings = msgspec.to_builtins(trainer.settings)
    with (args.folder / "training.jsonl").open("ab") as reports:

        def report(progress: Any) -> None:
            last = progress.step == trainer.settings.steps
            held = trainer.agreement(_HELD_OUT_TOKENS) if last or progress.step % (10 * _REPORT_EVERY) == 0 else None
            line = {**msgspec.to_builtins(progress), "held_out": held}
            reports.write(msgspec.json.encode({**line, "settings": settings}) + b"\n")
            reports.flush()
            print(
                f"step {progress.step}/{trainer.settings.steps}, {progress.tokens} tokens, loss {progress.loss:.3f}, "
                f"same first choice {progress.same_choice:.3f}, {progress.tokens_per_s:.0f} tokens/s"
                + (f"; held-out answers: loss {held[0]:.3f}, same {held[1]:.3f}" if held else ""),
                flush=True,
            )

        trainer.run(report, report_every=_REPORT_EVERY, save_every_s=_SAVE_EVERY_S)


def _trainer(args: argparse.Namespace) -> "Trainer":
    """Return the trainer, at the checkpoint if there is one."""
    from multispin_models.distillation.batches import Batches  # noqa: PLC0415
    from multispin_models.distillation.training import Trainer  # noqa: PLC0415

    batches = Batches(args.folder / "corpus", args.seed, args.batch_tokens)
    student, head, settings = _student(args)
    if settings.arithmetic == "bfloat16":
        try:
            import torch  # noqa: PLC0415

            from multispin_models.distillation.torch_network import TorchStudent  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(
                f"--arithmetic bfloat16 needs PyTorch ({error}): pip install 'multispin[distill]', or train in float32"
            ) from error
        torch.set_num_threads(args.threads)
        student = TorchStudent(student)
    return Trainer(student, head, batches, settings, args.folder / "checkpoint.npz", args.folder / "level.npz")


def _student(args: argparse.Namespace) -> "tuple[Student, Any, TrainingSettings]":
    """Return the untrained student, the target's head, and the settings."""
    try:
        from multispin_models.distillation.network import student_of  # noqa: PLC0415
        from multispin_models.onnx.weights import read_network  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"distillation reads GGUF ({error}): pip install 'multispin[onnx-export]'") from error
    from multispin_models.distillation.training import TrainingSettings  # noqa: PLC0415

    source = args.continue_from or resolve_source(load_pair(args.pair).target, terminal_progress())[0]
    network = read_network(source)
    layers = tuple(range(len(network.layers))) if args.continue_from else args.layers
    if max(layers) >= len(network.layers):
        raise ConfigError(f"--layers has {max(layers)}, {source} has layers 0 to {len(network.layers) - 1}")
    settings = TrainingSettings(
        layers=layers,
        steps=args.steps,
        batch_tokens=args.batch_tokens,
        peak_rate=args.rate,
        decay_share=args.decay_share,
        user_weight=args.user_weight,
        head_size=args.head_size,
        seed=args.seed,
        arithmetic=args.arithmetic,
    )
    return student_of(network, layers, args.max_context_tokens), network.head, settings


def _write_draft(args: argparse.Namespace) -> None:
    """Write what is shipped and what is served, from the checkpoint."""
    from multispin_models.distillation.draft_file import assemble_draft, write_layers_file  # noqa: PLC0415
    from multispin_models.distillation.training import load_checkpoint  # noqa: PLC0415

    found = load_checkpoint(args.folder / "checkpoint.npz")
    student, _, settings = _student(args)
    student.vector[:] = found["vector"]
    target, target_sha256 = resolve_source(load_pair(args.pair).target)
    recipe = {
        "multispin": multispin_models.__version__,
        "settings": settings,
        "steps_done": int(found["counts"][0]),
        "tokens_trained": int(found["counts"][1]),
        "corpus": msgspec.json.decode((args.folder / "corpus" / "corpus.json").read_bytes()),
    }
    layers_file = args.folder / "draft.layers.gguf"
    write_layers_file(
        layers_file,
        student.architecture,
        student.weights,
        target_sha256=target_sha256,
        layers=settings.layers,
        frequent_ids=found["head_ids"].tolist(),
        recipe=msgspec.json.encode(recipe).decode(),
        name=args.name or f"{load_pair(args.pair).name} draft, {len(settings.layers)} layers",
        tensor_type=args.type,
    )
    assemble_draft(target, layers_file, args.folder / "draft.gguf", target_sha256=target_sha256)
    manifest = _pair_manifest(args, target_sha256)
    with staging(args.folder / "draft.toml") as partial:
        partial.write_text(manifest, encoding="utf-8")
    for path in (layers_file, args.folder / "draft.gguf", args.folder / "draft.toml"):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


def _pair_manifest(args: argparse.Namespace, target_sha256: str) -> str:
    """Return a manifest of the target with this draft, beside which the draft's file lies."""
    target = load_pair(args.pair).target
    where = f'source = "{target.source}"' if target.source else f'file = "{target.file}"'
    return (
        f'name = "{load_pair(args.pair).name}-distilled"\n\n[target]\n{where}\nsha256 = "{target_sha256}"\n'
        f'recipe = "{target.recipe}"\n\n[draft]\nfile = "draft.gguf"\n'
    )


def _layers(text: str) -> tuple[int, ...]:
    """Return ascending numbers from 0 up, written as 0,1,4."""
    try:
        found: Sequence[int] = [int(part) for part in text.split(",")]
    except ValueError:
        found = [-1]
    if min(found) < 0 or sorted(set(found)) != list(found):
        raise argparse.ArgumentTypeError(f"{text!r}: give ascending numbers from 0 up, as 0,1,4,9")
    return tuple(found)
