"""The network as one ONNX graph: rows of many sequences in, logits of the asked rows out, caches written in place.

    token_ids [rows] -> embedding -> layers -> norm -> the rows that are asked -> head -> logits [asked, n_vocab]

All matrices see the rows of all sequences one below the other. Only attention sees them by sequence: `slot_rows` [slots,
width] says which row stands where, filled up with any row; `row_slots` [rows] is the way back. The caches are inputs
and outputs of the same name; bound to the same memory they are extended in place, and a slot whose count of rows is 0
is not touched (com.microsoft GroupQueryAttention with `query_seqlens`).
"""

from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto

from multispin_models.onnx.builder import CONTRIB, GraphBuilder
from multispin_models.onnx.products import ProductWriter
from multispin_models.onnx.quantize import quantize_blocks_8
from multispin_models.onnx.recipes import Recipe
from multispin_models.onnx.weights import Array, Layer, Network

__all__ = ["OBSERVED", "build_graph"]

# What calibration asks for: the largest value of each input of these products, [inputs] a layer.
OBSERVED: Final = ("qkv", "attention_output", "gate_up", "down")

_INT32, _INT64, _FLOAT = TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT


def build_graph(network: Network, recipe: Recipe, weights_path: Path, *, observe: bool = False) -> onnx.ModelProto:
    """Return the graph of a network; its weights are written to a file of their own.

    Args:
        network: all weights, float32.
        recipe: the form of each matrix.
        weights_path: of the file to write, beside which the graph must be stored.
        observe: also output the largest inputs of each product, "observed.<layer>.<product>".
    """
    writer = _NetworkWriter(network, recipe, GraphBuilder(weights_path), observe)
    return writer.write()


class _NetworkWriter:
    """Writes one network."""

    def __init__(self, network: Network, recipe: Recipe, builder: GraphBuilder, observe: bool) -> None:
        self._network, self._recipe, self._builder, self._observe = network, recipe, builder, observe
        self._products = ProductWriter(builder)

    def write(self) -> onnx.ModelProto:
        b, network = self._builder, self._network
        a = network.architecture
        self._declare_inputs()
        stream = self._embedding()
        normed = self._norm(stream, network.layers[0].attention_norm, "0.attention_norm")
        for number, layer in enumerate(network.layers):
            attended = self._attention(normed, layer, number)
            normed, stream = self._add_and_norm(stream, attended, layer.feed_forward_norm, f"{number}.feed_forward_norm")
            fed = self._feed_forward(normed, layer, number)
            last = number + 1 == a.num_layers
            following = network.output_norm if last else network.layers[number + 1].attention_norm
            normed, stream = self._add_and_norm(stream, fed, following, f"{number + 1}.attention_norm")
        asked = b.one("Gather", normed, "logit_rows")
        b.node("Identity", [self._head(asked)], [b.output("logits", _FLOAT, ["asked", a.n_vocab])])
        return b.finish(f"{a.family} {self._recipe.name}")

    def _declare_inputs(self) -> None:
        b, a = self._builder, self._network.architecture
        b.input("token_ids", _INT64, ["rows"])
        b.input("slot_rows", _INT64, ["slots", "width"])
        b.input("row_slots", _INT64, ["rows"])
        b.input("last_positions", _INT32, ["slots"])
        b.input("slot_counts", _INT32, ["slots"])
        b.input("capacity", _INT32, [])
        b.input("logit_rows", _INT64, ["asked"])
        b.input("cosines", _FLOAT, ["positions", a.head_size // 2])
        b.input("sines", _FLOAT, ["positions", a.head_size // 2])

    def _embedding(self) -> str:
        b, network, recipe = self._builder, self._network, self._recipe
        if recipe.embedding == "float32":
            return b.one("Gather", b.constant("embedding.weight", network.embedding), "token_ids")
        blocks = quantize_blocks_8(network.embedding, 32)
        shared = "head" if network.head_is_tied and recipe.head == "int8-block32" else None
        return self._products.embedding_8("embedding", "token_ids", blocks, shared, network.architecture.hidden_size)

    def _head(self, rows: str) -> str:
        network, recipe = self._network, self._recipe
        if network.head_is_tied and recipe.head == recipe.embedding == "float32":
            return self._builder.one("Gemm", rows, "embedding.weight", transB=1)
        return self._products.add("head", rows, network.head, recipe.head)

    def _norm(self, rows: str, weight: Array, name: str) -> str:
        b = self._builder
        epsilon = self._network.architecture.rms_epsilon
        return b.one("SimplifiedLayerNormalization", rows, b.constant(name, weight), axis=-1, epsilon=epsilon)

    def _add_and_norm(self, stream: str, change: str, weight: Array, name: str) -> tuple[str, str]:
        """Return the norm of `stream + change`, and the sum itself."""
        b = self._builder
        outputs = [f"{name}.normed", "", "", f"{name}.sum"]
        inputs = [stream, change, b.constant(name, weight)]
        epsilon = self._network.architecture.rms_epsilon
        b.node("SkipSimplifiedLayerNormalization", inputs, outputs, CONTRIB, epsilon=epsilon)
        return outputs[0], outputs[3]

    def _attention(self, normed: str, layer: Layer, number: int) -> str:
        b, a = self._builder, self._network.architecture
        self._observed(normed, number, "qkv")
        qkv = self._products.add(f"{number}.qkv", normed, layer.qkv, self._recipe.qkv, layer.qkv_bias)
        if layer.query_norm is None or layer.key_norm is None:
            inputs = [b.one("Gather", qkv, "slot_rows"), "", ""]
        else:
            inputs = self._normed_heads(qkv, layer.query_norm, layer.key_norm, number)
        caches = [f"cache.{number}.key", f"cache.{number}.value"]
        for cache in caches:
            shape: list[int | str] = ["slots", a.num_kv_heads, "capacity", a.head_size]
            b.input(cache, _FLOAT, shape)
            b.output(cache + ".extended", _FLOAT, shape)
        inputs += [*caches, "last_positions", "capacity", "cosines", "sines", *[""] * 7, "slot_counts"]
        attended = b.node(
            "GroupQueryAttention",
            inputs,
            [f"{number}.attended", *(cache + ".extended" for cache in caches)],
            CONTRIB,
            num_heads=a.num_heads,
            kv_num_heads=a.num_kv_heads,
            do_rotary=1,
        )[0]
        flat = b.one("Reshape", attended, self._shape(-1, a.num_heads * a.head_size))
        rows = b.one("Gather", flat, "row_slots")
        self._observed(rows, number, "attention_output")
        name, bias = f"{number}.attention_output", layer.attention_output_bias
        return self._products.add(name, rows, layer.attention_output, self._recipe.attention_output, bias)

    def _normed_heads(self, qkv: str, query_norm: Array, key_norm: Array, number: int) -> list[str]:
        """Return queries, keys and values by slot, each head of queries and keys normed by itself."""
        b, a = self._builder, self._network.architecture
        widths = np.array([a.num_heads, a.num_kv_heads, a.num_kv_heads], np.int64) * a.head_size
        split = b.node("Split", [qkv, self._sizes(widths)], 3, axis=1)
        for i, weight in enumerate((query_norm, key_norm)):
            heads = b.one("Reshape", split[i], self._shape(-1, a.head_size))
            normed = self._norm(heads, weight, f"{number}.head_norm.{i}")
            split[i] = b.one("Reshape", normed, self._shape(-1, int(widths[i])))
        return [b.one("Gather", part, "slot_rows") for part in split]

    def _feed_forward(self, normed: str, layer: Layer, number: int) -> str:
        b, recipe = self._builder, self._recipe
        self._observed(normed, number, "gate_up")
        both = self._products.add(f"{number}.gate_up", normed, layer.gate_up, recipe.gate_up)
        width = self._network.architecture.feed_forward_size
        gate, up = b.node("Split", [both, self._sizes(np.array([width, width], np.int64))], 2, axis=1)
        gated = b.one("Mul", b.one("QuickGelu", gate, domain=CONTRIB, alpha=1.0), up)
        self._observed(gated, number, "down")
        return self._products.add(f"{number}.down", gated, layer.down, recipe.down)

    def _observed(self, rows: str, number: int, product: str) -> None:
        if self._observe:
            b = self._builder
            name = b.output(f"observed.{number}.{product}", _FLOAT, ["inputs"])
            b.node("ReduceMax", [b.one("Abs", rows), self._sizes(np.array([0], np.int64))], [name], keepdims=0)

    def _shape(self, *sizes: int) -> str:
        return self._sizes(np.array(sizes, np.int64))

    def _sizes(self, values: np.ndarray[tuple[int], np.dtype[np.int64]]) -> str:
        """Return a small integer constant, written once for each value."""
        name = "sizes." + ".".join(map(str, values))
        return self._builder.constant_once(name, values)
