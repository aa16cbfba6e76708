"""The network as one ONNX graph: rows of many sequences in, logits of the asked rows out, caches written in place.

    token_ids [rows] -> embedding -> layers -> norm -> the rows that are asked -> head -> logits [asked, n_vocab]

With a trimmed head it also gives what is asked of it before the head, states [asked, hidden], and the whole head's row
for each token that it reads, head_rows [rows, hidden], for the ids that a sequence brings itself (`own_ids`).

All matrices see the rows of all sequences one below the other; only attention sees them by sequence (`attention`).
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from multispin_models.onnx.attention import AttentionWriter
from multispin_models.onnx.builder import CONTRIB, GraphBuilder
from multispin_models.onnx.products import ProductWriter, block_form
from multispin_models.onnx.recipes import Form, Recipe
from multispin_models.onnx.variants import VARIANTS
from multispin_models.onnx.weights import Array, Layer, Network

__all__ = ["build_graphs"]

_INT64, _FLOAT = TensorProto.INT64, TensorProto.FLOAT


def build_graphs(network: Network, recipe: Recipe, weights_path: Path) -> dict[str, onnx.ModelProto]:
    """Return a network's graph for each variant, by the name of its file; the weights go to a file of their own.

    Args:
        network: all weights, float32.
        recipe: the form of each matrix.
        weights_path: of the file to write, beside which the graph must be stored.
    """
    writer = _NetworkWriter(network, recipe, GraphBuilder(weights_path))
    return writer.write()


class _NetworkWriter:
    """Writes one network."""

    def __init__(self, network: Network, recipe: Recipe, builder: GraphBuilder) -> None:
        self._network, self._recipe, self._builder = network, recipe, builder
        self._products = ProductWriter(builder)
        self._attend = AttentionWriter(builder, network.architecture)

    def write(self) -> dict[str, onnx.ModelProto]:
        b, network = self._builder, self._network
        a = network.architecture
        self._declare_inputs()
        stream = embedded = self._embedding()
        normed = self._norm(stream, network.layers[0].attention_norm, "0.attention_norm")
        for number, layer in enumerate(network.layers):
            attended = self._attention(normed, layer, number)
            normed, stream = self._add_and_norm(
                stream, attended, layer.feed_forward_norm, f"{number}.feed_forward_norm"
            )
            fed = self._feed_forward(normed, layer, number)
            last = number + 1 == a.num_layers
            following = network.output_norm if last else network.layers[number + 1].attention_norm
            normed, stream = self._add_and_norm(stream, fed, following, f"{number + 1}.attention_norm")
        asked = b.one("Gather", normed, "logit_rows")
        if network.whole_head is not None:
            b.node("Identity", [asked], [b.output("states", _FLOAT, ["asked", a.hidden_size])])
            rows = self._rows_of_head(embedded, network.whole_head)
            b.node("Identity", [rows], [b.output("head_rows", _FLOAT, ["rows", a.hidden_size])])
        b.node("Identity", [self._spread(self._head(asked))], [b.output("logits", _FLOAT, ["asked", a.n_vocab])])
        return b.finish(f"{a.family} {self._recipe.name}", [v.file_name for v in VARIANTS])

    def _declare_inputs(self) -> None:
        self._builder.input("token_ids", _INT64, ["rows"])
        self._builder.input("logit_rows", _INT64, ["asked"])
        self._attend.declare_inputs()

    def _embedding(self) -> str:
        b, network, recipe = self._builder, self._network, self._recipe
        if recipe.embedding == "float32":
            return b.one("Gather", b.constant("embedding.weight", network.embedding), "token_ids")
        blocks = block_form(network.embedding, recipe.embedding)
        table: Form = "int8-block32" if recipe.head == "int4-refined" else recipe.head  # that the head's product holds
        shared = "head" if network.head_is_tied and table == recipe.embedding else None
        return self._products.embedding_8("embedding", "token_ids", blocks, shared, network.architecture.hidden_size)

    def _head(self, rows: str) -> str:
        network, recipe = self._network, self._recipe
        if network.head_is_tied and recipe.head == recipe.embedding == "float32":
            return self._builder.one("Gemm", rows, "embedding.weight", transB=1)
        return self._products.add("head", rows, network.head, recipe.head)

    def _rows_of_head(self, embedded: str, head: Array) -> str:
        if head is self._network.embedding:
            return embedded
        blocks = block_form(head, "int8-block32")
        return self._products.embedding_8("whole_head", "token_ids", blocks, None, head.shape[1])

    def _spread(self, logits: str) -> str:
        """Return logits of the whole vocabulary: minus infinity for the ids that a trimmed head leaves out."""
        b, ids = self._builder, self._network.head_ids
        if ids is None:
            return logits
        asked = b.one("Shape", logits, end=1)
        lowest = numpy_helper.from_array(np.array([-np.inf], np.float32))
        whole = b.one(
            "ConstantOfShape", b.one("Concat", asked, b.sizes(self._network.architecture.n_vocab), axis=0), value=lowest
        )
        places = b.one("Expand", b.constant("head.ids", ids[None]), b.one("Shape", logits))
        return b.one("ScatterElements", whole, places, logits, axis=1)

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
        qkv = self._products.add(f"{number}.qkv", normed, layer.qkv, self._recipe.qkv, layer.qkv_bias)
        rows = self._attend.add(qkv, layer, number)
        name, bias = f"{number}.attention_output", layer.attention_output_bias
        return self._products.add(name, rows, layer.attention_output, self._recipe.attention_output, bias)

    def _feed_forward(self, normed: str, layer: Layer, number: int) -> str:
        b, recipe = self._builder, self._recipe
        both = self._products.add(f"{number}.gate_up", normed, layer.gate_up, recipe.gate_up)
        width = self._network.architecture.feed_forward_size
        gate, up = b.node("Split", [both, b.sizes(width, width)], 2, axis=1)
        gated = b.one("Mul", b.one("QuickGelu", gate, domain=CONTRIB, alpha=1.0), up)
        return self._products.add(f"{number}.down", gated, layer.down, recipe.down)
