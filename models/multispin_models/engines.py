"""Loads one end of a pair in the engine that is asked for. Each engine's library is imported only when it is used.

An engine is named "llamacpp" or "onnx", and may carry the recipe to serve in: "onnx:w8a8-rotated", "llamacpp:Q8_0".
Without one the pair's manifest says which.
"""

import logging
import shutil
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from multispin_models.cache import Progress, derived_path, locked
from multispin_models.errors import ConfigError, ModelError
from multispin_models.language_model import LanguageModel, Tokenizer
from multispin_models.manifest import (
    RECIPES,
    ModelFile,
    expected_paths,
    expected_sha256,
    load_pair,
    resolve_model,
    resolve_source,
)

__all__ = [
    "DEFAULT_ENGINE",
    "ENGINES",
    "EngineName",
    "Loaded",
    "Side",
    "expected_export",
    "load_side",
    "load_tokenizer",
    "log_progress",
    "onnx_recipe",
    "prepare_side",
    "prepare_tokenizer",
]

log = logging.getLogger(__name__)

ENGINES: Final = ("onnx", "llamacpp")
DEFAULT_ENGINE: Final = "onnx"  # installs without a compiler; several rows cost it little more than one

Side = Literal["target", "draft"]

# Where the manifest does not say: a target verifies several rows at a time, a draft writes one.
_ONNX_RECIPES: Final[dict[Side, str]] = {"target": "w8a8-rotated", "draft": "int8-block32"}


class EngineName(NamedTuple):
    """An engine and the recipe to serve in; an empty recipe is the manifest's."""

    engine: str
    recipe: str

    @classmethod
    def parse(cls, text: str) -> "EngineName":
        """Return what "ENGINE" or "ENGINE:RECIPE" names.

        Raises:
            ConfigError: no such engine.
        """
        engine, _, recipe = text.partition(":")
        if engine not in ENGINES:
            raise ConfigError(f"engine is {text!r}, allowed are {', '.join(ENGINES)}, each with :RECIPE or without")
        return cls(engine, recipe)


class Loaded(NamedTuple):
    """A model that is ready, and the tokenizer of its vocabulary."""

    model: LanguageModel
    tokenizer: Tokenizer


class _Sizes(NamedTuple):
    n_ctx: int
    max_sequences: int
    max_rows: int
    num_threads: int


def log_progress(what: str, done_bytes: int, total_bytes: int | None) -> None:
    """Log the beginning of every step of a fetch, for daemons."""
    if done_bytes == 0:
        log.info("%s%s", what, "" if total_bytes is None else f" ({total_bytes / 1e6:.0f} MB)")


def prepare_side(pair_name: str, side: Side, engine: str, progress: Progress) -> Path:
    """Bring one end of a pair to this machine, in the form that an engine serves; return its file or folder.

    Raises:
        ConfigError: the engine is not known, or what it needs is not installed.
        ModelError: the pair or one of its files is not usable.
    """
    pair = load_pair(pair_name)
    name = EngineName.parse(engine)
    model_file = pair.target if side == "target" else pair.draft
    if name.engine == "onnx":
        return _exported(model_file, name.recipe or onnx_recipe(model_file, side), progress)
    if name.recipe:
        if name.recipe not in RECIPES:
            raise ConfigError(f"engine is {engine!r}: recipe allowed are {', '.join(RECIPES)}")
        model_file = msgspec.structs.replace(model_file, recipe=name.recipe)
    return resolve_model(model_file, progress).path


def load_side(
    pair_name: str,
    side: Side,
    engine: str,
    *,
    n_ctx: int,
    max_sequences: int,
    max_rows: int,
    num_threads: int,
    progress: Progress,
) -> Loaded:
    """Return the target or the draft of a pair, loaded; fetched and re-encoded first where that was not done yet.

    Args:
        pair_name: packaged name, or path of a manifest.
        side: which end.
        engine: one of ENGINES, with ":RECIPE" or without.
        n_ctx, max_sequences, max_rows, num_threads: as in ModelInfo.
        progress: told of each step.

    Raises:
        ConfigError: the engine is not known, or not installed.
        ModelError: the pair or one of its files is not usable.
    """
    sizes = _Sizes(n_ctx, max_sequences, max_rows, num_threads)
    path = prepare_side(pair_name, side, engine, progress)
    if EngineName.parse(engine).engine == "onnx":
        return _load_onnx(path, sizes)
    return _load_llamacpp(path, sizes)


def prepare_tokenizer(pair_name: str, side: Side, progress: Progress) -> Path:
    """Bring the file to this machine that `load_tokenizer` reads; as `prepare_side`."""
    pair = load_pair(pair_name)
    return resolve_source(pair.target if side == "target" else pair.draft, progress)[0]


def load_tokenizer(pair_name: str, side: Side, engine: str, progress: Progress) -> Tokenizer:
    """Return the tokenizer of one end of a pair without its weights: nothing is re-encoded or exported.

    Raises:
        ConfigError: the engine is not known, or not installed.
        ModelError: the pair or its file is not usable.
    """
    name = EngineName.parse(engine).engine
    path = prepare_tokenizer(pair_name, side, progress)
    try:
        if name == "llamacpp":
            from multispin_models.llamacpp import load_llamacpp_tokenizer  # noqa: PLC0415

            return load_llamacpp_tokenizer(path)
        from multispin_models.gguf_tokenizer import load_gguf_tokenizer  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"the tokenizer of engine {name} is not installed ({error}): run scripts/setup") from error
    return load_gguf_tokenizer(path)


def _load_llamacpp(path: Path, sizes: _Sizes) -> Loaded:
    try:
        from multispin_models.llamacpp import load_llamacpp  # noqa: PLC0415 - only who asks for it needs it
    except ImportError as error:
        raise ConfigError(f"engine llamacpp is missing ({error}): scripts/setup llamacpp, or use onnx") from error
    model = load_llamacpp(path, **sizes._asdict())
    return Loaded(model, model.tokenizer)


def _load_onnx(directory: Path, sizes: _Sizes) -> Loaded:
    try:
        from multispin_models.onnx.engine import load_onnx  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"engine onnx is not installed ({error}): run scripts/setup, or take llamacpp") from error
    from multispin_models.gguf_tokenizer import load_gguf_tokenizer  # noqa: PLC0415
    from multispin_models.onnx.exported import VOCABULARY_FILE  # noqa: PLC0415

    tokenizer = load_gguf_tokenizer(directory / VOCABULARY_FILE)
    model = load_onnx(directory, **sizes._asdict())
    if tokenizer.vocabulary_hash != model.info.vocabulary_hash:
        model.close()
        raise ModelError(
            f"exported model {directory}: {VOCABULARY_FILE} is of another model (vocabulary "
            f"{tokenizer.vocabulary_hash[:16]}..., the manifest says {model.info.vocabulary_hash[:16]}...); "
            "export it again with `multispin models export`"
        )
    return Loaded(model, tokenizer)


def onnx_recipe(model_file: ModelFile, side: Side) -> str:
    """Return the recipe in which the ONNX engine serves one end of a pair."""
    return model_file.onnx_recipe or _ONNX_RECIPES[side]


def expected_export(source: Path, sha256: str, recipe: str) -> Path:
    """Return the folder in the cache where the export of a file is, or would be."""
    from multispin_models.onnx.exported import FORMAT_VERSION  # noqa: PLC0415

    return derived_path(sha256, f"onnx{FORMAT_VERSION}-{recipe}", source.stem)


def _exported(model_file: ModelFile, recipe: str, progress: Progress) -> Path:
    """Return the folder of an export, made in the cache if it is not there.

    A box that was given the export alone needs no GGUF file: which one it was made from is pinned by the manifest.
    """
    if (there := _carried_export(model_file, recipe)) is not None:
        return there
    source, sha256 = resolve_source(model_file, progress)
    directory = expected_export(source, sha256, recipe)
    with locked(directory):
        if directory.exists() and (fault := _export_fault(directory)):
            log.warning("%s; making it anew", fault)
            shutil.rmtree(directory)
        if not directory.exists():
            try:
                from multispin_models.onnx.export import export_onnx  # noqa: PLC0415
            except ImportError as error:
                raise ConfigError(
                    f"{directory.name} is not exported yet, and the exporter is not installed ({error}): scripts/setup"
                ) from error
            progress(f"exporting {source.name} as {recipe}", 0, None)
            export_onnx(source, directory, recipe)
    return directory


def _carried_export(model_file: ModelFile, recipe: str) -> Path | None:
    """Return the folder of a sound export whose fetched source is not here, null where there is none."""
    source, sha256 = expected_paths(model_file)[0], expected_sha256(model_file)
    if model_file.source is None or sha256 is None or source.exists():
        return None
    directory = expected_export(source, sha256, recipe)
    return None if not directory.exists() or _export_fault(directory) else directory


def _export_fault(directory: Path) -> str:
    """Return what is wrong with an export in the cache, "" if nothing: one of an older version, or damaged."""
    from multispin_models.onnx.exported import read_export  # noqa: PLC0415

    try:
        read_export(directory)
    except ModelError as error:
        return str(error)
    return ""
