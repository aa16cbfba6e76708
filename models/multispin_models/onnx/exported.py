"""An exported model on disk: a directory with its graph, weights, vocabulary, and a manifest that says what they are.

manifest.json                      this structure
<attention>-<cache>-<weights>.onnx the graph, in each form (see `variants`)
weights.bin                        its weights, mapped by the runtime
vocabulary.gguf                    the header of the source, without tensors: tokenizer, chat template, and the
                                   frequent ids of a draft
"""

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from multispin_models.errors import ModelError
from multispin_models.onnx.architecture import Architecture
from multispin_models.onnx.recipes import Recipe
from multispin_models.onnx.variants import VARIANTS

__all__ = [
    "ExportManifest",
    "FREQUENT_IDS",
    "VOCABULARY_FILE",
    "WEIGHTS_FILE",
    "files_fingerprint",
    "read_export",
    "write_manifest",
]

FREQUENT_IDS: Final = "multispin.draft.frequent_ids"  # metadata of a draft's file, ascending
WEIGHTS_FILE: Final = "weights.bin"
VOCABULARY_FILE: Final = "vocabulary.gguf"
MANIFEST_FILE: Final = "manifest.json"
FORMAT_VERSION: Final = 7
_CHUNK_BYTES: Final = 1 << 22


class ExportManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands in an exported directory.

    Attributes:
        format_version: of the directory.
        name: of the model, for people.
        recipe: the form of each matrix.
        fingerprint: sha256 (hex) of graphs and weights, one after the other.
        source_sha256: of the GGUF file it was made from.
        vocabulary_hash: as in ModelInfo.
        architecture: sizes.
        inverse_frequencies: of the rotary positions, radians a position.
        exporter: version of multispin.
    """

    format_version: int
    name: str
    recipe: Recipe
    fingerprint: str
    source_sha256: str
    vocabulary_hash: str
    architecture: Architecture
    inverse_frequencies: list[float]
    exporter: str


def files_fingerprint(directory: Path) -> str:
    """Return the sha256 (hex) of graphs and weights, one after the other."""
    digest = hashlib.sha256()
    for name in (*(variant.file_name for variant in VARIANTS), WEIGHTS_FILE):
        with (directory / name).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def write_manifest(directory: Path, manifest: ExportManifest) -> None:
    """Write the manifest, last of all files: a directory without one is not complete."""
    (directory / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")


def read_export(directory: Path) -> ExportManifest:
    """Return the manifest of an exported directory whose files are those that it was written for.

    Raises:
        ModelError: not there, not complete, of another version, or changed since.
    """
    again = "export it again with `multispin models export`"
    path = directory / MANIFEST_FILE
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=ExportManifest)
        fingerprint = files_fingerprint(directory)
    except OSError as error:
        raise ModelError(f"exported model {directory}: {error.filename}: {error.strerror}; {again}") from error
    except msgspec.DecodeError as error:
        raise ModelError(f"exported model {directory}: {path.name} is no manifest ({error}); {again}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise ModelError(
            f"exported model {directory} has format {manifest.format_version}, this version reads {FORMAT_VERSION}; "
            f"{again}"
        )
    if fingerprint != manifest.fingerprint:
        raise ModelError(
            f"exported model {directory}: graph and weights have sha256 {fingerprint[:16]}..., the manifest says "
            f"{manifest.fingerprint[:16]}...: a file is damaged; {again}"
        )
    return manifest
