"""GGUF in, ONNX directory out; no PyTorch, no network."""

import logging
import os
import shutil
import tempfile
from pathlib import Path

import onnx

import multispin_models
from multispin_models.cache import file_sha256
from multispin_models.errors import ConfigError
from multispin_models.gguf_metadata import GgufMetadata, read_gguf_metadata
from multispin_models.onnx.exported import (
    FORMAT_VERSION,
    FREQUENT_IDS,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    ExportManifest,
    files_fingerprint,
    write_manifest,
)
from multispin_models.onnx.graph import build_graphs
from multispin_models.onnx.recipes import Recipe, find_recipe
from multispin_models.onnx.rotation import rotate_network
from multispin_models.onnx.vocabulary_file import write_vocabulary_file
from multispin_models.onnx.weights import Network, read_network, trim_head
from multispin_models.vocabulary import vocabulary_hash

__all__ = ["export_onnx"]

_logger = logging.getLogger(__name__)


def export_onnx(source_gguf: Path, destination_dir: Path, recipe: str, *, name: str | None = None) -> ExportManifest:
    """Export a model; return the manifest of what was written.

    Args:
        source_gguf: file of the Llama family, any quantization.
        destination_dir: must not exist; it appears only when it is complete.
        recipe: a name in `recipes.RECIPES`.
        name: of the model, for people; the file's own if not given.

    Raises:
        ConfigError: no such recipe, or the destination is there already.
        UnsupportedModel: the graph cannot compute what the file asks for; says what.
        ModelError: the file is not usable.
    """
    chosen = find_recipe(recipe)
    if destination_dir.exists():
        raise ConfigError(f"destination {destination_dir} is there already: remove it, or name another")
    metadata = read_gguf_metadata(source_gguf)
    network = read_network(source_gguf)
    if chosen.trimmed:
        trim_head(network, metadata.get(FREQUENT_IDS, tuple) or ())
    destination_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{destination_dir.name}.", dir=destination_dir.parent))
    try:
        if chosen.rotated:
            rotate_network(network)
        for file_name, model in build_graphs(network, chosen, partial / WEIGHTS_FILE).items():
            onnx.save(model, partial / file_name)
        write_vocabulary_file(source_gguf, partial / VOCABULARY_FILE)
        manifest = _describe(metadata, network, chosen, partial, name)
        write_manifest(partial, manifest)
        partial.chmod(0o755)
        os.rename(partial, destination_dir)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _logger.info("exported %s as %s to %s", manifest.name, recipe, destination_dir)
    return manifest


def _describe(
    metadata: GgufMetadata, network: Network, recipe: Recipe, directory: Path, name: str | None
) -> ExportManifest:
    return ExportManifest(
        format_version=FORMAT_VERSION,
        name=name or metadata.get("general.name", str) or metadata.path.stem,
        recipe=recipe,
        fingerprint=files_fingerprint(directory),
        source_sha256=file_sha256(metadata.path),
        vocabulary_hash=vocabulary_hash(metadata.get("tokenizer.ggml.tokens", list) or []),
        architecture=network.architecture,
        inverse_frequencies=network.inverse_frequencies.tolist(),
        exporter=multispin_models.__version__,
    )
