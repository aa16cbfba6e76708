"""Which draft/target pairs there are; bring one to this machine, check what is here, export one's own."""

import argparse
from pathlib import Path

import msgspec

from multispin import distill_command, export_command, layers_command, quantize_command
from multispin.bench import draft_command
from multispin.progress import terminal_progress
from multispin_models.cache import Progress, cache_directory, file_sha256, silent
from multispin_models.engines import DEFAULT_ENGINE, ENGINES, Side, expected_export, onnx_recipe, prepare_side
from multispin_models.errors import ModelError
from multispin_models.gguf_metadata import read_gguf_metadata
from multispin_models.manifest import (
    DEFAULT_PAIR,
    ModelFile,
    Pair,
    expected_paths,
    expected_sha256,
    load_pair,
    packaged_pairs,
    recorded_sha256,
)
from multispin_models.onnx.exported import VOCABULARY_FILE, read_export
from multispin_models.vocabulary import explain_differences, vocabulary_hash

__all__ = ["FileState", "add_arguments", "file_states", "run"]


class FileState(msgspec.Struct, frozen=True):
    """One file of a pair, as it is on this machine.

    Attributes:
        end: "target" or "draft".
        path: where it is or would be; null when its name cannot be known yet.
        recipe: in which it is encoded.
        present: it is there.
        size_bytes: of it.
        sha256: of it, where it was computed.
        fault: what is wrong with it, "" if nothing.
    """

    end: str
    path: str | None
    recipe: str
    present: bool
    size_bytes: int | None
    sha256: str | None
    fault: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of `multispin models`."""
    commands = parser.add_subparsers(dest="models_command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="the packaged pairs, and what is on this machine")
    fetch = commands.add_parser("fetch", help="bring a pair into the cache and re-encode it as its manifest says")
    check = commands.add_parser("check", help="compare the files of a pair with their sha256, and their vocabularies")
    export_command.add_arguments(commands.add_parser("export", help="make an ONNX model from a GGUF file"))
    distill_command.add_arguments(commands.add_parser("distill", help="train a small draft on text of its target"))
    layers_command.add_arguments(commands.add_parser("layers", help="find the layers that a target can do without"))
    quantize_command.add_arguments(
        commands.add_parser("quantize", help="make a sibling: a GGUF file in fewer bits, or with layers left out")
    )
    bench = commands.add_parser("bench", help="acceptance by task, cost and memory of drafts beside their target")
    tune = commands.add_parser("tune", help="measure drafts and engines on this machine, and say which to serve")
    for command in (bench, tune):
        draft_command.add_arguments(command)
        command.add_argument("--json", action="store_true", help="print one JSON object")
    for command in (fetch, check):
        command.add_argument(
            "pair",
            nargs="?",
            default=DEFAULT_PAIR,
            metavar="PAIR",
            help=f"a packaged name, or the path of a manifest ending in .toml (default {DEFAULT_PAIR})",
        )
    for command in (listing, fetch, check):
        command.add_argument(
            "--engine",
            choices=ENGINES,
            default=DEFAULT_ENGINE,
            help="whose files: exported for onnx, re-encoded for llamacpp (default %(default)s)",
        )
        command.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run one sub-command and return the exit status.

    Raises:
        MultispinError: a pair is not valid, or cannot be brought.
    """
    commands = {
        "list": _list,
        "fetch": _fetch,
        "check": _check,
        "export": export_command.run,
        "distill": distill_command.run,
        "layers": layers_command.run,
        "bench": draft_command.run,
        "tune": draft_command.run_tune,
        "quantize": quantize_command.run,
    }
    return commands[args.models_command](args)


def _list(args: argparse.Namespace) -> int:
    pairs = [load_pair(name) for name in packaged_pairs()]
    states = {pair.name: file_states(pair, args.engine) for pair in pairs}
    if args.json:
        print(msgspec.json.encode({"cache": str(cache_directory()), "pairs": states}).decode())
        return 0
    print(f"cache: {cache_directory()}")
    for pair in pairs:
        mark = " (default)" if pair.name == DEFAULT_PAIR else ""
        print(f"\n{pair.name}{mark}: {pair.description}")
        for state in states[pair.name]:
            where = f"{_megabytes(state.size_bytes)}  {state.path}" if state.present else "not here"
            print(f"  {state.end:6}  {state.recipe:10}  {where}")
        for line in sorted({f"{model.licence}: {model.attribution}" for model in (pair.target, pair.draft)}):
            print(f"  {line}")
    return 0


def _fetch(args: argparse.Namespace) -> int:
    paths = {side: str(prepare_side(args.pair, side, args.engine, terminal_progress())) for side in ("target", "draft")}
    if args.json:
        print(msgspec.json.encode({"pair": load_pair(args.pair).name, "engine": args.engine, **paths}).decode())
        return 0
    for side, path in paths.items():
        print(f"{side:6}  {path}")
    return 0


def _check(args: argparse.Namespace) -> int:
    pair = load_pair(args.pair)
    states = file_states(pair, args.engine, hashed=True, progress=terminal_progress())
    vocabularies = _vocabulary_fault(states)
    faulty = bool(vocabularies) or any(state.fault for state in states)
    if args.json:
        result = {"pair": pair.name, "files": states, "vocabulary_fault": vocabularies, "ok": not faulty}
        print(msgspec.json.encode(result).decode())
        return int(faulty)
    for state in states:
        print(f"{state.end:6}  {state.recipe:10}  {state.fault or 'ok'}  {state.path}")
    print(f"vocabularies: {vocabularies or 'the same'}")
    return int(faulty)


def file_states(
    pair: Pair, engine: str = DEFAULT_ENGINE, *, hashed: bool = False, progress: Progress = silent
) -> list[FileState]:
    """Return the state of the files of a pair: what was fetched, and what an engine serves.

    Args:
        pair: from `load_pair`.
        engine: one of ENGINES.
        hashed: read the files and compare their sha256.
        progress: told of the reading.
    """
    shown = progress if hashed else None
    states = []
    sides: tuple[tuple[Side, ModelFile], ...] = (("target", pair.target), ("draft", pair.draft))
    for end, model in sides:
        source, served = expected_paths(model)
        if served != source or engine == "onnx":
            states.append(_state(end, "as-shipped", source, expected_sha256(model), shown))
        if engine == "onnx":
            states.append(_export_state(end, model, source, hashed=hashed))
        else:
            made = recorded_sha256(served) if served else None
            expected = expected_sha256(model) if served == source else made
            states.append(_state(end, model.recipe, served, expected, shown))
    return states


def _export_state(end: Side, model: ModelFile, source: Path, *, hashed: bool) -> FileState:
    """Return the state of an export; reading it compares its hash with its manifest's."""
    recipe = onnx_recipe(model, end)
    sha256 = expected_sha256(model) or (file_sha256(source) if source.exists() else None)
    folder = None if sha256 is None else expected_export(source, sha256, recipe)
    if folder is None or not folder.exists():
        where = None if folder is None else str(folder)
        return FileState(end, where, recipe, False, None, None, "not here: multispin models fetch")
    size_bytes = sum(file.stat().st_size for file in folder.iterdir())
    try:
        fingerprint = read_export(folder).fingerprint if hashed else None
    except ModelError as error:
        return FileState(end, str(folder), recipe, True, size_bytes, None, f"damaged: {error}")
    return FileState(end, str(folder), recipe, True, size_bytes, fingerprint, "")


def _state(end: str, recipe: str, path: Path | None, expected: str | None, progress: Progress | None) -> FileState:
    if path is None or not path.exists():
        return FileState(
            end, str(path) if path else None, recipe, False, None, None, "not here: multispin models fetch"
        )
    sha256 = file_sha256(path, progress) if progress else None
    fault = ""
    if sha256 and expected and sha256 != expected:
        fault = f"damaged: sha256 is {sha256}, expected {expected}; delete it and run multispin models fetch"
    return FileState(end, str(path), recipe, True, path.stat().st_size, sha256, fault)


def _vocabulary_fault(states: list[FileState]) -> str:
    """Return what is wrong with the vocabularies of target and draft, id by id, "" if they are the same."""
    if any(state.fault for state in states):
        return "not compared: a file is missing or damaged"
    served = {state.end: Path(str(state.path)) for state in states}  # the last of each end
    files = {end: path / VOCABULARY_FILE if path.is_dir() else path for end, path in served.items()}
    try:
        tokens = [read_gguf_metadata(files[end]).get("tokenizer.ggml.tokens", list) for end in ("target", "draft")]
    except ModelError as error:
        return str(error)
    target, draft = (texts or [] for texts in tokens)
    if vocabulary_hash(target) == vocabulary_hash(draft):
        return ""
    lines = explain_differences(target, draft)
    sizes = f"target {len(target)} tokens, draft {len(draft)}"
    return "\n  ".join([f"they differ ({sizes}): a draft must have the very tokens of its target", *lines])


def _megabytes(size_bytes: int | None) -> str:
    return "      ?" if size_bytes is None else f"{size_bytes / 1e6:5.0f} MB"
