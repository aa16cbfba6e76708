"""A trained draft on disk: its own layers alone, to be put together with its target's embedding and head.

    smollm2-135m-8.layers.gguf      GGUF of the trained layers and the last norm, quantized; metadata below
    target.gguf                     everything else: vocabulary, chat template, embedding, head
    -> draft.gguf                   a whole model that llama.cpp and the ONNX exporter serve

    multispin.draft.target_sha256   of the target's file, which alone fits
    multispin.draft.layers          of the target that were copied before training
    multispin.draft.frequent_ids    tokens that the loss looked at, likeliest in the target's text
    multispin.draft.recipe          how it was made, JSON

So a draft takes 4 MB a layer (8 bits, 576 wide), and the vocabulary cannot be another than the target's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt

from multispin_models.cache import file_sha256, staging
from multispin_models.errors import ConfigError, ModelError
from multispin_models.gguf_metadata import read_gguf_metadata
from multispin_models.onnx.architecture import FAMILIES, Architecture
from multispin_models.onnx.weights import Array

__all__ = [
    "DRAFT_TYPES",
    "assemble_draft",
    "frequent_ids_of",
    "read_trained",
    "stored_types",
    "write_layers_file",
]

DRAFT_TYPES: Final = ("F32", "F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
_PREFIX: Final = "multispin.draft."
_FORMAT: Final = 1
_LAST_NORM: Final = "output_norm.weight"


class Trained(NamedTuple):
    """A layers file that was read.

    Attributes:
        target_sha256: of the file it fits.
        layers: of the target that were copied.
        frequent_ids: ascending.
        recipe: JSON.
        tensors: name -> (raw values, GGUF type).
    """

    target_sha256: str
    layers: tuple[int, ...]
    frequent_ids: tuple[int, ...]
    recipe: str
    tensors: dict[str, tuple[npt.NDArray[Any], Any]]


def write_layers_file(
    destination: Path,
    architecture: Architecture,
    weights: Sequence[Mapping[str, Array]],
    *,
    target_sha256: str,
    layers: Sequence[int],
    frequent_ids: Sequence[int],
    recipe: str,
    name: str,
    tensor_type: str = "Q8_0",
) -> None:
    """Write trained layers; the file appears whole or not at all.

    Args:
        destination: is replaced.
        architecture: of the draft.
        weights: of each layer, then of the last norm, as `Student.weights`.
        target_sha256, layers, frequent_ids, recipe: see the head of this file.
        name: of the draft, for people.
        tensor_type: of matrices, one of DRAFT_TYPES; norms stay in float32.

    Raises:
        ConfigError: no such type.
    """
    if tensor_type not in DRAFT_TYPES:
        raise ConfigError(f"type of the draft's matrices is {tensor_type!r}, allowed are {', '.join(DRAFT_TYPES)}")
    with staging(destination) as partial:
        writer = gguf.GGUFWriter(partial, architecture.family)
        writer.add_name(name)
        writer.add_uint32(f"{_PREFIX}format", _FORMAT)
        writer.add_string(f"{_PREFIX}target_sha256", target_sha256)
        writer.add_array(f"{_PREFIX}layers", [int(number) for number in layers])
        writer.add_array(f"{_PREFIX}frequent_ids", [int(token_id) for token_id in frequent_ids])
        writer.add_string(f"{_PREFIX}recipe", recipe)
        kind = gguf.GGMLQuantizationType[tensor_type]
        for tensor_name, values in _named_tensors(architecture, weights).items():
            if values.ndim == 1:
                writer.add_tensor(tensor_name, values)
            else:
                writer.add_tensor(tensor_name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        _finish(writer)


def read_trained(path: Path) -> Trained:
    """Return what is in a layers file.

    Raises:
        ModelError: it is not one, or is damaged.
    """
    values = read_gguf_metadata(path).values
    if values.get(f"{_PREFIX}format") != _FORMAT:
        raise ModelError(
            f"layers file {path}: {_PREFIX}format is {values.get(f'{_PREFIX}format')}, it must be {_FORMAT}: "
            "name a file that `multispin models distill` wrote"
        )
    try:
        tensors = {t.name: (t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}
        return Trained(
            target_sha256=values[f"{_PREFIX}target_sha256"],
            layers=tuple(values[f"{_PREFIX}layers"]),
            frequent_ids=tuple(values[f"{_PREFIX}frequent_ids"]),
            recipe=values[f"{_PREFIX}recipe"],
            tensors=tensors,
        )
    except (KeyError, ValueError, IndexError) as error:
        raise ModelError(f"layers file {path} is cut short or damaged ({error}): fetch it again") from error


def assemble_draft(target: Path, layers_file: Path, destination: Path, *, target_sha256: str | None = None) -> None:
    """Write a whole model: the target's vocabulary, embedding and head around trained layers.

    Args:
        target: GGUF file that the draft was made from.
        layers_file: from `write_layers_file`.
        destination: is replaced; appears whole or not at all.
        target_sha256: of the target, where it is known already.

    Raises:
        ModelError: a file cannot be read, the target is another one, or a layer is incomplete.
    """
    trained = read_trained(layers_file)
    found = target_sha256 or file_sha256(target)
    if found != trained.target_sha256:
        raise ModelError(
            f"layers file {layers_file} belongs to a target with sha256 {trained.target_sha256[:16]}..., {target} has "
            f"{found[:16]}...: name the target that it was distilled from"
        )
    reader = gguf.GGUFReader(target)
    names = {name.split(".", 2)[2] for name in trained.tensors if name.startswith("blk.")}
    for number in range(len(trained.layers)):
        if missing := sorted(name for name in names if f"blk.{number}.{name}" not in trained.tensors):
            raise ModelError(f"layers file {layers_file} has no blk.{number}.{missing[0]}: fetch it again")
    with staging(destination) as partial:
        writer = _with_metadata_of(reader, partial, trained, layers_file)
        writer.add_array(f"{_PREFIX}frequent_ids", list(trained.frequent_ids))
        writer.add_string(f"{_PREFIX}recipe", trained.recipe)
        for tensor in reader.tensors:
            if not tensor.name.startswith("blk.") and tensor.name != _LAST_NORM:
                writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        for name, (data, kind) in trained.tensors.items():
            writer.add_tensor(name, data, raw_dtype=kind)
        _finish(writer)


def frequent_ids_of(path: Path) -> tuple[int, ...]:
    """Return the frequent ids that stand in a draft's file, empty where it has none."""
    return tuple(read_gguf_metadata(path).values.get(f"{_PREFIX}frequent_ids", ()))


def stored_types(path: Path) -> list[tuple[str, str]]:
    """Return the name and the type of every tensor of a GGUF file."""
    return [(tensor.name, tensor.tensor_type.name) for tensor in gguf.GGUFReader(path).tensors]


def _with_metadata_of(reader: Any, partial: Path, trained: Trained, layers_file: Path) -> Any:
    """Return a writer with a model's metadata, but for what the layers change."""
    family = reader.get_field("general.architecture").contents()
    writer = gguf.GGUFWriter(partial, family)
    name = read_gguf_metadata(layers_file).get("general.name", str) or layers_file.stem
    writer.add_file_type(_file_type(trained))
    changed = {f"{family}.block_count": len(trained.layers), "general.name": name}
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in {"general.architecture", "general.file_type"}:
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, changed.get(field.name, field.contents()), kind, sub_type=inner)
    return writer


def _file_type(trained: Trained) -> int:
    """Return the number of the type that the layers' matrices have: llama.cpp calls the file by it."""
    kind = next(kind for data, kind in trained.tensors.values() if data.ndim > 1).name
    return int(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])


def _named_tensors(a: Architecture, weights: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return the tensors as llama.cpp names and orders them."""
    queries, keys = a.num_heads * a.head_size, a.num_kv_heads * a.head_size
    named: dict[str, Array] = {}
    for number, layer in enumerate(weights[:-1]):
        q, k, v = np.split(layer["qkv"], [queries, queries + keys])
        gate, up = np.split(layer["gate_up"], 2)
        block = {
            "attn_norm": layer["attention_norm"],
            "attn_q": _neighbours(q, a),
            "attn_k": _neighbours(k, a),
            "attn_v": v,
            "attn_output": layer["attention_output"],
            "ffn_norm": layer["feed_forward_norm"],
            "ffn_gate": gate,
            "ffn_up": up,
            "ffn_down": layer["down"],
        }
        named |= {f"blk.{number}.{name}.weight": np.ascontiguousarray(values) for name, values in block.items()}
    return named | {_LAST_NORM: np.ascontiguousarray(weights[-1]["output_norm"])}


def _neighbours(rows: Array, a: Architecture) -> Array:
    """Return the rows of each head in the family's order, from halves order: the inverse of `weights._halves`."""
    if not FAMILIES[a.family]:
        return rows
    halves = rows.reshape(-1, 2, a.head_size // 2, rows.shape[1])
    return halves.transpose(0, 2, 1, 3).reshape(rows.shape)


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
