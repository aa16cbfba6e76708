"""`multispin models`: which draft/target pairs there are, bring one to this machine, check what is here."""

import argparse
from pathlib import Path

import msgspec

from multispin.progress import terminal_progress
from multispin_models.cache import Progress, cache_directory, file_sha256, recorded_sha256_path
from multispin_models.errors import ModelError
from multispin_models.manifest import DEFAULT_PAIR, Pair, expected_paths, load_pair, packaged_pairs, resolve

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
    for command in (fetch, check):
        command.add_argument(
            "pair",
            nargs="?",
            default=DEFAULT_PAIR,
            metavar="PAIR",
            help=f"a packaged name, or the path of a manifest ending in .toml (default {DEFAULT_PAIR})",
        )
    for command in (listing, fetch, check):
        command.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run one sub-command and return the exit status.

    Raises:
        MultispinError: a pair is not valid, or cannot be brought.
    """
    commands = {"list": _list, "fetch": _fetch, "check": _check}
    return commands[args.models_command](args)


def _list(args: argparse.Namespace) -> int:
    pairs = [load_pair(name) for name in packaged_pairs()]
    states = {pair.name: file_states(pair) for pair in pairs}
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
    resolved = resolve(load_pair(args.pair), terminal_progress())
    if args.json:
        paths = {"pair": resolved.name, "target": str(resolved.target_path), "draft": str(resolved.draft_path)}
        print(msgspec.json.encode(paths).decode())
        return 0
    print(f"{resolved.name}: target {resolved.target.recipe:10}  {resolved.target_path}")
    print(f"{resolved.name}: draft  {resolved.draft.recipe:10}  {resolved.draft_path}")
    return 0


def _check(args: argparse.Namespace) -> int:
    pair = load_pair(args.pair)
    states = file_states(pair, hashed=True, progress=terminal_progress())
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


def file_states(pair: Pair, *, hashed: bool = False, progress: Progress | None = None) -> list[FileState]:
    """Return the state of the files of a pair: what was fetched, and what is served.

    Args:
        pair: from `load_pair`.
        hashed: read the files and compare their sha256.
        progress: told of the reading; null shows nothing.
    """
    shown = progress or (lambda *_: None)
    states = []
    for end, model in (("target", pair.target), ("draft", pair.draft)):
        source, served = expected_paths(model)
        if served != source:
            states.append(_state(end, "as-shipped", source, model.sha256, shown if hashed else None))
        expected = model.sha256 if served == source else _recorded(served)
        states.append(_state(end, model.recipe, served, expected, shown if hashed else None))
    return states


def _recorded(served: Path | None) -> str | None:
    record = recorded_sha256_path(served) if served else None
    return record.read_text(encoding="ascii").strip() if record and record.exists() else None


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
    """Return what is wrong with the vocabularies of target and draft, "" if they are the same."""
    # llama.cpp reads them; only this sub-command needs it.
    from multispin_models.llamacpp.tokenizer import load_llamacpp_tokenizer  # noqa: PLC0415

    served = {state.end: state for state in states}  # the last of each end
    if any(state.fault for state in served.values()):
        return "not compared: a file is missing or damaged"
    try:
        target, draft = (load_llamacpp_tokenizer(Path(str(served[end].path))) for end in ("target", "draft"))
    except ModelError as error:
        return str(error)
    if target.vocabulary_hash == draft.vocabulary_hash:
        return ""
    return (
        f"they differ: target {target.n_vocab} tokens, {target.vocabulary_hash[:16]}; draft {draft.n_vocab} tokens, "
        f"{draft.vocabulary_hash[:16]}; a draft must have the very tokens of its target"
    )


def _megabytes(size_bytes: int | None) -> str:
    return "      ?" if size_bytes is None else f"{size_bytes / 1e6:5.0f} MB"
