"""Rows times a matrix of weights, in each form that a recipe can ask for.

In none of them does a row's result depend on the rows beside it: a scale belongs to one row (w8a8) or to a block of one
row (blocks), and sums run in the same order whatever the number of rows.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from multispin_models.onnx.builder import CONTRIB, GraphBuilder
from multispin_models.onnx.quantize import Blocks, fold_offsets, quantize_blocks_4, quantize_blocks_8, quantize_rows_8
from multispin_models.onnx.recipes import Form
from multispin_models.onnx.rotation import mixed, mixing_matrix
from multispin_models.onnx.variants import VARIANTS
from multispin_models.onnx.weights import Array

__all__ = ["ProductWriter", "block_form"]

_REFINED: Final = 16  # results a row
_INT8_ACCURACY: Final = 4  # MatMulNBits: rows are quantized to 8 bits in the blocks of the weights


class ProductWriter:
    """Adds products to a graph."""

    def __init__(self, builder: GraphBuilder) -> None:
        self._builder = builder
        self._shared: dict[str, str] = {}  # constants of all w8a8 products
        self._mixers: dict[int, dict[str, str]] = {}  # by number of inputs
        self._summers: dict[str, str] = {}

    def add(self, name: str, rows: str, matrix: Array, form: Form, bias: Array | None = None) -> str:
        """Add `rows` [R, inputs] times `matrix` [outputs, inputs] transposed, plus bias; return the product's name."""
        if form == "float32":
            weights = self._builder.constant(f"{name}.weight", matrix.T)
            product = self._builder.one("MatMul", rows, weights)
        elif form == "w8a8":
            product = self._rows_8(name, rows, matrix)
        elif form == "w8a8-mixed":
            product = self._rows_8(name, self._mixed(rows, matrix.shape[1]), mixed(matrix))
        elif form == "int4-refined":
            product = self._refined(name, rows, matrix)
        else:
            product = self.blocks(name, rows, block_form(matrix, form), matrix.shape[1])
        if bias is None:
            return product
        return self._builder.one("Add", product, self._builder.constant(f"{name}.bias", bias))

    def blocks(self, name: str, rows: str, weights: Blocks, inputs: int) -> str:
        """Add a product with a matrix in blocks."""
        b = self._builder
        bits, size = 8, weights.values.shape[2]
        if weights.offsets is not None:
            bits, size = 4, 2 * size
            rows = self._with_sums(rows, inputs, size)
            weights = fold_offsets(weights)
            inputs = weights.values.shape[1] * size
        return b.one(
            "MatMulNBits",
            rows,
            b.constant(f"{name}.weight", weights.values),
            b.constant(f"{name}.scale", weights.scales),
            domain=CONTRIB,
            K=inputs,
            N=len(weights.values),
            bits=bits,
            block_size=size,
            accuracy_level=_INT8_ACCURACY,
        )

    def _with_sums(self, rows: str, inputs: int, size: int) -> str:
        """Return rows [R, inputs] filled up to whole blocks, and the sums of the blocks behind them, twice."""
        b = self._builder
        blocks = -(-inputs // size)
        name = f"sums.{inputs}.{size}"
        if name not in self._summers:
            summed = np.arange(inputs)[:, None] // size == np.arange(-(-blocks // size) * size)
            self._summers[name] = b.constant(name, summed.astype(np.float32))
        sums = b.one("MatMul", rows, self._summers[name])
        if missing := blocks * size - inputs:
            rows = b.one("Pad", rows, b.sizes(0, 0, 0, missing))
        return b.one("Concat", rows, sums, sums, axis=1)

    def _refined(self, name: str, rows: str, matrix: Array) -> str:
        """Add a product in 4-bit blocks whose largest results are computed anew in 8-bit blocks."""
        b = self._builder
        fine = block_form(matrix, "int8-block32")
        values, scales = b.constant(f"{name}.weight", fine.values), b.constant(f"{name}.scale", fine.scales)
        rough = self.blocks(f"{name}.rough", rows, block_form(matrix, "int4-block32"), matrix.shape[1])
        most = min(_REFINED, len(matrix))
        _, places = b.node("TopK", [rough, b.sizes(most)], 2, axis=1, sorted=0)  # [rows, most]
        weights = self._from_8(name, b.one("Gather", values, places), b.one("Gather", scales, places))
        inputs, filled = matrix.shape[1], fine.values.shape[1] * fine.values.shape[2]
        whole = b.one("Reshape", weights, b.sizes(-1, most, filled))
        if filled != inputs:
            whole = b.one("Slice", whole, b.sizes(0), b.sizes(inputs), b.sizes(2))
        refined = b.one("MatMul", whole, b.one("Unsqueeze", rows, b.sizes(2)))
        return b.one("ScatterElements", rough, places, b.one("Squeeze", refined, b.sizes(2)), axis=1)

    def _from_8(self, name: str, values: str, scales: str) -> str:
        """Return 8-bit blocks [..., blocks, 32] with scales [..., blocks] as numbers."""
        b = self._builder
        centred = b.one(
            "Sub",
            b.one("Cast", values, to=TensorProto.FLOAT),
            b.constant(f"{name}.middle", np.array(128, np.float32)),
        )
        last = b.constant(f"{name}.last", np.array([-1], np.int64))
        return b.one("Mul", centred, b.one("Unsqueeze", scales, last))

    def _rows_8(self, name: str, rows: str, matrix: Array) -> str:
        """Add an integer product: each row divided by its own scale, so that its largest value becomes 127.

        The rows are stored unsigned around 128, the one form for which ONNX Runtime has a fast kernel on x86-64
        (signed rows take ten times as long). The weights are stored signed; the graphs that want them unsigned, around
        128 too, flip the highest bit of each, which the runtime does once, when it loads the graph.
        """
        b = self._builder
        if not self._shared:
            self._shared = self._shared_constants()
        shared = self._shared
        largest = b.one("ReduceMax", b.one("Abs", rows), shared["inputs"], keepdims=1)
        scale = b.one("Mul", largest, shared["step"])  # 0 for a row of zeros: whatever its integers, 0 * them is right
        zeros = b.one("Expand", shared["middle"], b.one("Shape", scale)) if name == "head" else self._zeros(scale)
        # One block a row: the scale [R, 1] is that of the product behind it as well.
        integers = b.one("QuantizeLinear", rows, scale, zeros, axis=1, block_size=matrix.shape[1])
        weights = quantize_rows_8(matrix)
        signed = b.constant(f"{name}.weight", weights.values.T)
        stored = b.same_bytes(f"{name}.weight.bytes", signed, TensorProto.UINT8)
        inputs = [shared["one"], b.constant(f"{name}.scale", weights.scales), shared["middle"]]
        product = f"{name}.product"
        with b.only(v.file_name for v in VARIANTS if v.weights == "signed"):
            b.node("MatMulIntegerToFloat", [integers, signed, *inputs], [product], CONTRIB)
        with b.only(v.file_name for v in VARIANTS if v.weights == "unsigned"):
            unsigned = b.one("BitwiseXor", stored, shared["middle"])
            b.node("MatMulIntegerToFloat", [integers, unsigned, *inputs, shared["middle"]], [product], CONTRIB)
        return b.one("Mul", product, scale)

    def _mixed(self, rows: str, inputs: int) -> str:
        """Return rows [R, inputs] with each block of inputs times the Hadamard matrix."""
        b = self._builder
        if inputs not in self._mixers:
            matrix = mixing_matrix(inputs)
            names = {"matrix": matrix, "cut": np.array([-1, len(matrix)]), "whole": np.array([-1, inputs])}
            self._mixers[inputs] = {key: b.constant(f"mixed.{inputs}.{key}", value) for key, value in names.items()}
        mixer = self._mixers[inputs]
        blocks = b.one("MatMul", b.one("Reshape", rows, mixer["cut"]), mixer["matrix"])
        return b.one("Reshape", blocks, mixer["whole"])

    def _shared_constants(self) -> dict[str, str]:
        values: dict[str, npt.NDArray[Any]] = {
            "inputs": np.array([1], np.int64),
            "step": np.array(1 / 127, np.float32),
            "one": np.array(1, np.float32),
            "middle": np.array(128, np.uint8),
        }
        return {key: self._builder.constant(f"w8a8.{key}", value) for key, value in values.items()}

    def _zeros(self, scale: str) -> str:
        """Return 128 for each row of the batch, computed once for all layers."""
        if "zeros" not in self._shared:
            b = self._builder
            self._shared["zeros"] = b.one("Expand", self._shared["middle"], b.one("Shape", scale))
        return self._shared["zeros"]

    def embedding_8(self, name: str, token_ids: str, weights: Blocks, table: str | None, inputs: int) -> str:
        """Add the rows of an embedding in 8-bit blocks of 32; `table` names constants to share, of a product."""
        b = self._builder
        _, blocks, size = weights.values.shape
        if table is None:
            values, scales = b.constant(f"{name}.weight", weights.values), b.constant(f"{name}.scale", weights.scales)
        else:
            values, scales = f"{table}.weight", f"{table}.scale"
        scaled = self._from_8(name, b.one("Gather", values, token_ids), b.one("Gather", scales, token_ids))
        rows = b.one("Reshape", scaled, b.constant(f"{name}.shape", np.array([-1, blocks * size], np.int64)))
        if blocks * size == inputs:
            return rows
        bounds = [
            b.constant(f"{name}.{k}", np.array([v], np.int64)) for k, v in (("from", 0), ("to", inputs), ("axis", 1))
        ]
        return b.one("Slice", rows, *bounds)


def block_form(matrix: Array, form: Form) -> Blocks:
    """Return a matrix in the blocks of a form; blocks of 32 where larger ones do not divide the inputs."""
    kind, _, size = form.partition("-block")
    whole = matrix.shape[1] % int(size) == 0  # a last block that is not full: not exact with blocks of 128
    return (quantize_blocks_8 if kind == "int8" else quantize_blocks_4)(matrix, int(size) if whole else 32)
