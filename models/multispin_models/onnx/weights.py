"""The tensors of a GGUF file as float32 arrays, in the order in which the graph multiplies them.

A matrix is [outputs, inputs], as the file has it. Query, key and value are stacked into one matrix, gate and up into
another: one product each instead of three and two.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import gguf
import msgspec
import numpy as np
import numpy.typing as npt

from multispin_models.errors import ModelError, UnsupportedModel
from multispin_models.gguf_metadata import read_gguf_metadata
from multispin_models.onnx.architecture import FAMILIES, Architecture, inverse_frequencies, read_architecture

__all__ = ["Array", "Layer", "Network", "read_network", "trim_head"]

Array = npt.NDArray[np.float32]
_ROPE_FACTORS: Final = "rope_freqs.weight"


class Layer(msgspec.Struct):
    """Weights of one layer; biases and head norms are None where the family has none.

    Attributes:
        attention_norm, feed_forward_norm: [hidden]
        qkv: [(heads + 2 kv heads) * head, hidden]; qkv_bias likewise [rows].
        query_norm, key_norm: [head], applied to each head before the rotation.
        attention_output: [hidden, heads * head]
        gate_up: [2 * feed forward, hidden]
        down: [hidden, feed forward]
    """

    attention_norm: Array
    qkv: Array
    qkv_bias: Array | None
    query_norm: Array | None
    key_norm: Array | None
    attention_output: Array
    attention_output_bias: Array | None
    feed_forward_norm: Array
    gate_up: Array
    down: Array


class Network(msgspec.Struct):
    """All weights.

    Attributes:
        embedding: [n_vocab, hidden]
        head: [n_vocab, hidden]; the embedding itself where the file has no head of its own.
        inverse_frequencies: [head_size / 2] float64, see `architecture.inverse_frequencies`.
        head_ids: [rows of the head] ids that they stand for, ascending; None for all of the vocabulary.
        whole_head: [n_vocab, hidden] what a trimmed head was taken from; None where it was not trimmed.
    """

    architecture: Architecture
    embedding: Array
    layers: list[Layer]
    output_norm: Array
    head: Array
    inverse_frequencies: npt.NDArray[np.float64]
    head_ids: npt.NDArray[np.int64] | None = None
    whole_head: Array | None = None

    @property
    def head_is_tied(self) -> bool:
        """Whether head and embedding are one matrix."""
        return self.head is self.embedding


def trim_head(network: Network, token_ids: Sequence[int]) -> None:
    """Leave only the rows of some ids in the head.

    Raises:
        ModelError: no id, one outside of the vocabulary, or not in ascending order.
    """
    n_vocab = network.architecture.n_vocab
    ids = np.array(token_ids, np.int64)
    if not len(ids) or ids[0] < 0 or ids[-1] >= n_vocab or (np.diff(ids) <= 0).any():
        raise ModelError(
            f"{len(ids)} frequent ids: a trimmed head needs different ones from 0 to {n_vocab - 1} in ascending order, "
            "as `multispin models distill` writes them; export with a recipe that is not trimmed"
        )
    network.head_ids, network.whole_head = ids, network.head
    network.head = network.head[ids]


def read_network(path: Path) -> Network:
    """Return the network in a GGUF file, dequantized.

    Raises:
        UnsupportedModel: another family, or a tensor that the graph has no place for.
        ModelError: no GGUF file, or a tensor is missing or of another shape than the metadata says.
    """
    architecture = read_architecture(read_gguf_metadata(path))
    tensors = _Tensors(path, architecture)
    factors = tensors.optional(_ROPE_FACTORS, (architecture.head_size // 2,))
    embedding = tensors.get("token_embd.weight", (architecture.n_vocab, architecture.hidden_size))
    head = tensors.optional("output.weight", embedding.shape)
    network = Network(
        architecture=architecture,
        embedding=embedding,
        layers=[_read_layer(tensors, architecture, layer) for layer in range(architecture.num_layers)],
        output_norm=tensors.get("output_norm.weight", (architecture.hidden_size,)),
        head=embedding if head is None else head,
        inverse_frequencies=inverse_frequencies(architecture, factors),
    )
    tensors.refuse_unused()
    return network


def _read_layer(tensors: "_Tensors", a: Architecture, number: int) -> Layer:
    prefix = f"blk.{number}."
    hidden, head, queries, keys = a.hidden_size, a.head_size, a.num_heads * a.head_size, a.num_kv_heads * a.head_size

    def vector(name: str, size: int) -> Array | None:
        return tensors.optional(prefix + name, (size,))

    q, k = (_halves(tensors.get(f"{prefix}attn_{x}.weight", (rows, hidden)), a) for x, rows in _rows(queries, keys))
    v = tensors.get(prefix + "attn_v.weight", (keys, hidden))
    biases = [vector(f"attn_{x}.bias", rows) for x, rows in (("q", queries), ("k", keys), ("v", keys))]
    stacked: Array | None = None
    if any(bias is not None for bias in biases):
        filled = [
            np.zeros(n, np.float32) if b is None else b for b, n in zip(biases, (queries, keys, keys), strict=True)
        ]
        stacked = np.concatenate([_halves(filled[0], a), _halves(filled[1], a), filled[2]])
    gate = tensors.get(prefix + "ffn_gate.weight", (a.feed_forward_size, hidden))
    up = tensors.get(prefix + "ffn_up.weight", (a.feed_forward_size, hidden))
    query_norm, key_norm = vector("attn_q_norm.weight", head), vector("attn_k_norm.weight", head)
    if (query_norm is None) != (key_norm is None):
        raise UnsupportedModel(f"layer {number} normalizes only one of queries and keys: serve it with engine llamacpp")
    return Layer(
        attention_norm=tensors.get(prefix + "attn_norm.weight", (hidden,)),
        qkv=np.concatenate([q, k, v]),
        qkv_bias=stacked,
        query_norm=query_norm,
        key_norm=key_norm,
        attention_output=tensors.get(prefix + "attn_output.weight", (hidden, queries)),
        attention_output_bias=vector("attn_output.bias", hidden),
        feed_forward_norm=tensors.get(prefix + "ffn_norm.weight", (hidden,)),
        gate_up=np.concatenate([gate, up]),
        down=tensors.get(prefix + "ffn_down.weight", (hidden, a.feed_forward_size)),
    )


def _rows(queries: int, keys: int) -> tuple[tuple[str, int], tuple[str, int]]:
    return ("q", queries), ("k", keys)


def _halves(rows: Array, a: Architecture) -> Array:
    """Return the rows of each head in halves order: (0, 2, 4 ... 1, 3, 5 ...) where the family rotates neighbours.

    The scores of queries against keys do not change, because both are reordered alike.
    """
    if not FAMILIES[a.family]:
        return rows
    heads = rows.reshape(-1, a.head_size, *rows.shape[1:])
    return np.concatenate([heads[:, 0::2], heads[:, 1::2]], axis=1).reshape(rows.shape)


class _Tensors:
    """The tensors of a file, each to be taken once."""

    def __init__(self, path: Path, architecture: Architecture) -> None:
        self._path = path
        self._family = architecture.family
        self._left: dict[str, Any] = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}

    def get(self, name: str, shape: tuple[int, ...]) -> Array:
        values = self.optional(name, shape)
        if values is None:
            raise ModelError(f"model {self._path} has no tensor {name}: the file is not complete, fetch it again")
        return values

    def optional(self, name: str, shape: tuple[int, ...]) -> Array | None:
        tensor = self._left.pop(name, None)
        if tensor is None:
            return None
        values = np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        if values.shape != shape:
            raise ModelError(
                f"model {self._path}: tensor {name} has shape {values.shape}, its metadata say {shape}: fetch it again"
            )
        return values

    def refuse_unused(self) -> None:
        if self._left:
            names = ", ".join(sorted(self._left)[:4])
            raise UnsupportedModel(
                f"model {self._path} ({self._family}) has {len(self._left)} tensors that the ONNX engine does not "
                f"compute ({names}): serve it with engine llamacpp"
            )
