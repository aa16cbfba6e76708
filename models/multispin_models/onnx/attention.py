"""Attention by sequence, over caches that are extended in place, in two forms with the same bits.

com.microsoft GroupQueryAttention with `query_seqlens` takes slots of different lengths and numbers of rows at once; a
slot without rows is not touched. Caches are inputs and outputs of the same memory: nothing is copied.

    plain    a slot's rows as they are; each query head multiplies the keys by itself
    folded   the query heads that share a key head stand as rows below each other, so keys and values are read and
             packed once instead of num_heads / num_kv_heads times. The operator then appends as many keys as there are
             such rows: the first are the real ones, the others lie behind the sequence's end, and `mask` hides them.

Folded costs half of plain for few rows, a third more for forty. Each form is a graph file of its own, on the same
weights; both in one graph, chosen by an `If`, would cost 1 ms a pass for 30 layers.
"""

from collections.abc import Iterator
from typing import Final

from onnx import TensorProto

from multispin_models.onnx.architecture import Architecture
from multispin_models.onnx.builder import CONTRIB, GraphBuilder
from multispin_models.onnx.variants import VARIANTS, AttentionForm, CacheForm
from multispin_models.onnx.weights import Array, Layer

__all__ = ["AttentionWriter"]

_INT32, _INT64, _FLOAT = TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT
_CACHE_TYPES: Final = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


def _forms() -> Iterator[tuple[AttentionForm, CacheForm, list[str]]]:
    """Yield each form of attention and cache, with the names of the graphs in it."""
    for attention, cache in dict.fromkeys((variant.attention, variant.cache) for variant in VARIANTS):
        yield attention, cache, [v.file_name for v in VARIANTS if (v.attention, v.cache) == (attention, cache)]


class AttentionWriter:
    """Adds the attention of each layer to a graph, in all variants."""

    def __init__(self, builder: GraphBuilder, architecture: Architecture) -> None:
        self._builder, self._architecture = builder, architecture

    def declare_inputs(self) -> None:
        """Declare what says which row stands where; see `arrangement`."""
        b, a = self._builder, self._architecture
        b.input("slot_rows", _INT64, ["slots", "width"])
        b.input("last_positions", _INT32, ["slots"])
        b.input("slot_counts", _INT32, ["slots"])
        b.input("span", _INT32, [])
        b.input("cosines", _FLOAT, ["positions", a.head_size // 2])
        b.input("sines", _FLOAT, ["positions", a.head_size // 2])
        b.input("row_positions", _INT64, [1, "rows"])
        for attention, cache, names in _forms():
            with b.only(names):
                if attention == "plain":
                    b.input("row_slots", _INT64, ["rows"])
                else:
                    b.input("folded_queries", _INT64, ["slots", "width", a.num_kv_heads])
                    b.input("folded_keys", _INT64, ["slots", "width", a.num_kv_heads])
                    b.input("folded_back", _INT64, ["rows", a.num_heads])
                    b.input("mask", _CACHE_TYPES[cache], ["slots", 1, "width", "span"])

    def add(self, qkv: str, layer: Layer, number: int) -> str:
        """Add one layer's attention over `qkv` [rows, ...]; return the name of [rows, heads * head]."""
        b, a = self._builder, self._architecture
        if layer.query_norm is not None and layer.key_norm is not None:
            qkv = self._norm_heads(qkv, layer.query_norm, layer.key_norm, number)
        widths = [(a.num_heads + a.num_kv_heads) * a.head_size, a.num_kv_heads * a.head_size]
        turning, values = b.node("Split", [qkv, b.sizes(*widths)], 2, axis=1)
        turned = b.one(
            "RotaryEmbedding",
            b.one("Reshape", turning, b.sizes(1, -1, widths[0])),
            "row_positions",
            "cosines",
            "sines",
            domain=CONTRIB,
            num_heads=a.num_heads + a.num_kv_heads,
        )
        for attention, cache, names in _forms():
            with b.only(names):
                self._add_form(turned, values, number, attention, cache)
        return f"{number}.attended"

    def _add_form(self, turned: str, values: str, number: int, attention: AttentionForm, form: CacheForm) -> None:
        b, a = self._builder, self._architecture
        kind = _CACHE_TYPES[form]
        for cache in self._caches(number):
            shape: list[int | str] = ["slots", a.num_kv_heads, "capacity", a.head_size]
            b.input(cache, kind, shape)
            b.output(cache + ".extended", kind, shape)
        write = self._plain if attention == "plain" else self._folded
        attended = f"{number}.attended"
        if kind == _FLOAT:
            write(turned, values, number, attended)
            return
        narrow = [b.one("Cast", rows, to=kind) for rows in (turned, values)]
        write(narrow[0], narrow[1], number, attended + ".narrow")
        b.node("Cast", [attended + ".narrow"], [attended], to=_FLOAT)

    def _caches(self, number: int) -> list[str]:
        return [f"cache.{number}.key", f"cache.{number}.value"]

    def _norm_heads(self, qkv: str, query_norm: Array, key_norm: Array, number: int) -> str:
        """Return qkv with each head of queries and keys normed by itself."""
        b, a = self._builder, self._architecture
        widths = [heads * a.head_size for heads in (a.num_heads, a.num_kv_heads, a.num_kv_heads)]
        split = b.node("Split", [qkv, b.sizes(*widths)], 3, axis=1)
        for i, weight in enumerate((query_norm, key_norm)):
            heads = b.one("Reshape", split[i], b.sizes(-1, a.head_size))
            scale = b.constant(f"{number}.head_norm.{i}", weight)
            normed = b.one("SimplifiedLayerNormalization", heads, scale, axis=-1, epsilon=a.rms_epsilon)
            split[i] = b.one("Reshape", normed, b.sizes(-1, widths[i]))
        return b.one("Concat", *split, axis=1)

    def _attend(self, inputs: list[str], number: int, num_heads: int, mask: str) -> str:
        caches = self._caches(number)
        return self._builder.node(
            "GroupQueryAttention",
            [*inputs, *caches, "last_positions", "span", "", "", "", mask, *[""] * 5, "slot_counts"],
            [f"{number}.by_slot.{num_heads}", *(cache + ".extended" for cache in caches)],
            CONTRIB,
            num_heads=num_heads,
            kv_num_heads=self._architecture.num_kv_heads,
        )[0]

    def _plain(self, turned: str, values: str, number: int, attended: str) -> None:
        b, a = self._builder, self._architecture
        query_width, key_width = a.num_heads * a.head_size, a.num_kv_heads * a.head_size
        rows = b.one("Reshape", turned, b.sizes(-1, query_width + key_width))
        queries, keys = b.node("Split", [rows, b.sizes(query_width, key_width)], 2, axis=1)
        inputs = [b.one("Gather", part, "slot_rows") for part in (queries, keys, values)]
        by_slot = self._attend(inputs, number, a.num_heads, "")
        b.node("Gather", [b.one("Reshape", by_slot, b.sizes(-1, query_width)), "row_slots"], [attended])

    def _folded(self, turned: str, values: str, number: int, attended: str) -> None:
        b, a = self._builder, self._architecture
        heads = b.one("Reshape", turned, b.sizes(-1, a.head_size))
        by_slot = b.sizes(0, 0, a.num_kv_heads * a.head_size)
        queries = b.one("Reshape", b.one("Gather", heads, "folded_queries"), by_slot)
        keys = b.one("Reshape", b.one("Gather", heads, "folded_keys"), by_slot)
        inputs = [queries, keys, b.one("Gather", values, "slot_rows")]
        flat = b.one("Reshape", self._attend(inputs, number, a.num_kv_heads, "mask"), b.sizes(-1, a.head_size))
        b.node("Reshape", [b.one("Gather", flat, "folded_back"), b.sizes(-1, a.num_heads * a.head_size)], [attended])
