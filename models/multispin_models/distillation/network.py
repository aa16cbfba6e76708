"""A network of the Llama family that can be trained: forward and backward pass in numpy, no other library.

RMS norm, rotary positions (halves order), grouped attention, SwiGLU, as in `onnx.graph`. Embedding and head are the
target's own and stay as they are; layers and the last norm are trained. Rows of several sequences stand one below the
other; only attention sees them by sequence, so nothing is padded.

All trained weights lie in one vector, so that an optimizer and a checkpoint see a single array.

Reference: Touvron et al., arXiv 2302.13971 (network); the derivatives are the usual ones, checked against finite
differences by the tests.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from multispin_models.distillation.loss import Graded, grade
from multispin_models.errors import UnsupportedModel
from multispin_models.onnx.architecture import Architecture
from multispin_models.onnx.weights import Array, Network

__all__ = ["Flow", "Kept", "Student", "Trace", "cut", "student_of"]

_TRAINED = ("attention_norm", "qkv", "attention_output", "feed_forward_norm", "gate_up", "down")


class Kept(NamedTuple):
    """What a layer's backward pass needs of its forward pass; R rows, and for each sequence its probabilities."""

    stream: Array  # [R, hidden] before the layer
    inverse_rms: Array  # [R, 1]
    qkv: Array  # [R, (heads + 2 kv heads) * head], rotated
    probabilities: list[Array]  # of each sequence [kv heads, group * T, T]
    attended: Array  # [R, heads * head]
    middle: Array  # [R, hidden] between the halves of the layer
    middle_inverse_rms: Array
    gate_up: Array  # [R, 2 * feed forward]
    sigmoid: Array  # [R, feed forward] of the gate


class Flow(NamedTuple):
    """Where the rows of a pass belong: the length of each sequence, and [R, 1, half] cosines and sines of positions."""

    lengths: list[int]
    turn: tuple[Array, Array]


class Trace(NamedTuple):
    """A forward pass, to be given to `Student.backward`."""

    flow: Flow
    layers: list[Kept]
    stream: Array
    inverse_rms: Array
    rows: npt.NDArray[np.intp]


class Student:
    """A network whose layers are trained.

    Args:
        architecture: sizes; its number of layers is that of `weights`.
        embedding: [n_vocab, hidden] not trained.
        vector: [parameters] all trained weights.
        inverse_frequencies: of the rotary positions.
        longest: most tokens of a sequence.
    """

    def __init__(
        self,
        architecture: Architecture,
        embedding: Array,
        vector: Array,
        inverse_frequencies: npt.NDArray[np.float64],
        longest: int,
    ) -> None:
        self.architecture, self.embedding, self.vector = architecture, embedding, vector
        self.weights = cut(architecture, vector)
        angles = np.outer(np.arange(longest), inverse_frequencies)
        self._cosines, self._sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        self._future = np.triu(np.full((longest, longest), -np.inf, np.float32), 1)

    def forward(self, sequences: Sequence[npt.NDArray[np.int32]], rows: npt.NDArray[np.intp]) -> tuple[Array, Trace]:
        """Return the normed states of some rows, and what the backward pass needs.

        Args:
            sequences: token ids of each, one to `longest`.
            rows: [S] which of all rows, one sequence below the other, are asked for.

        Returns:
            [S, hidden] states that the head multiplies.
        """
        stream, flow = self.begin(sequences)
        kept = []
        for number in range(self.architecture.num_layers):
            stream, of_layer = self.layer(number, stream, flow)
            kept.append(of_layer)
        states, inverse_rms = self.end(stream, rows)
        return states, Trace(flow, kept, stream, inverse_rms, rows)

    def begin(self, sequences: Sequence[npt.NDArray[np.int32]]) -> tuple[Array, Flow]:
        """Return the embedded rows of some sequences, one below the other, and what every layer needs to know."""
        lengths = [len(sequence) for sequence in sequences]
        places = np.concatenate([np.arange(length) for length in lengths])
        turn = self._cosines[places][:, None, :], self._sines[places][:, None, :]
        return self.embedding[np.concatenate(sequences)], Flow(lengths, turn)

    def layer(self, number: int, stream: Array, flow: Flow) -> tuple[Array, Kept]:
        """Return the rows behind a layer, and what its backward pass needs."""
        a, layer = self.architecture, self.weights[number]
        normed, inverse_rms = _norm(stream, layer["attention_norm"], a.rms_epsilon)
        qkv = normed @ layer["qkv"].T
        self._rotate(qkv, flow.turn, 1)
        attended, probabilities = self._attend(qkv, flow.lengths)
        middle = stream + attended @ layer["attention_output"].T
        normed, middle_inverse = _norm(middle, layer["feed_forward_norm"], a.rms_epsilon)
        gate_up = normed @ layer["gate_up"].T
        sigmoid = _sigmoid(gate_up[:, : a.feed_forward_size])
        product: Array = gate_up[:, : a.feed_forward_size] * sigmoid
        product *= gate_up[:, a.feed_forward_size :]
        following = product @ layer["down"].T
        following += middle
        kept = Kept(stream, inverse_rms, qkv, probabilities, attended, middle, middle_inverse, gate_up, sigmoid)
        return following, kept

    def end(self, stream: Array, rows: npt.NDArray[np.intp]) -> tuple[Array, Array]:
        """Return the normed states of some rows behind the last layer, and 1 / rms of each."""
        return _norm(stream[rows], self.weights[-1]["output_norm"], self.architecture.rms_epsilon)

    def backward(self, gradient: Array, trace: Trace, into: Array) -> None:
        """Write the derivative of a loss by all trained weights.

        Args:
            gradient: [S, hidden] of the loss by the states that `forward` returned.
            trace: of that pass.
            into: [parameters], is overwritten.
        """
        a = self.architecture
        slots = cut(a, into)
        asked, slots[-1]["output_norm"][:] = _norm_backward(
            gradient, trace.stream[trace.rows], self.weights[-1]["output_norm"], trace.inverse_rms
        )
        flow = np.zeros_like(trace.stream)
        flow[trace.rows] = asked
        for layer, slot, kept in zip(self.weights[-2::-1], slots[-2::-1], trace.layers[::-1], strict=True):
            self._feed_forward_backward(flow, layer, slot, kept)
            attended = flow @ layer["attention_output"]
            np.matmul(flow.T, kept.attended, out=slot["attention_output"])
            qkv = self._attend_backward(attended, kept, trace.flow.lengths)
            self._rotate(qkv, trace.flow.turn, -1)
            normed = kept.stream * kept.inverse_rms * layer["attention_norm"]
            np.matmul(qkv.T, normed, out=slot["qkv"])
            change, slot["attention_norm"][:] = _norm_backward(
                qkv @ layer["qkv"], kept.stream, layer["attention_norm"], kept.inverse_rms
            )
            flow += change

    def grade(
        self,
        states: Array,
        head: Array,
        places: npt.NDArray[np.int32],
        top_ids: npt.NDArray[np.uint32],
        top_log_probabilities: npt.NDArray[np.float16],
    ) -> Graded:
        """Return loss, agreement and gradient of some rows; see `loss.grade`."""
        return grade(states, head, places, top_ids, top_log_probabilities)

    def _feed_forward_backward(self, flow: Array, layer: dict[str, Array], slot: dict[str, Array], kept: Kept) -> None:
        width = self.architecture.feed_forward_size
        gate, up = kept.gate_up[:, :width], kept.gate_up[:, width:]
        swish = gate * kept.sigmoid
        np.matmul(flow.T, swish * up, out=slot["down"])
        product = flow @ layer["down"]
        both = np.empty_like(kept.gate_up)
        np.multiply(product, swish, out=both[:, width:])
        # d swish = sigmoid + swish * (1 - sigmoid)
        product *= up
        slope = 1.0 - kept.sigmoid
        slope *= swish
        slope += kept.sigmoid
        np.multiply(product, slope, out=both[:, :width])
        normed = kept.middle * kept.middle_inverse_rms * layer["feed_forward_norm"]
        np.matmul(both.T, normed, out=slot["gate_up"])
        change, slot["feed_forward_norm"][:] = _norm_backward(
            both @ layer["gate_up"], kept.middle, layer["feed_forward_norm"], kept.middle_inverse_rms
        )
        flow += change

    def _rotate(self, qkv: Array, turn: tuple[Array, Array], direction: int) -> None:
        """Turn queries and keys by their position, in place; direction -1 turns back (the transpose)."""
        a = self.architecture
        heads, half = a.num_heads + a.num_kv_heads, a.head_size // 2
        pairs = qkv[:, : heads * a.head_size].reshape(len(qkv), heads, 2, half)
        cosines, sines = turn[0], turn[1] * direction
        first = pairs[:, :, 0] * cosines - pairs[:, :, 1] * sines
        pairs[:, :, 1] = pairs[:, :, 1] * cosines + pairs[:, :, 0] * sines
        pairs[:, :, 0] = first

    def _by_head(self, qkv: Array) -> tuple[Array, Array, Array]:
        """Return [kv heads, group * T, head] queries, [kv heads, T, head] keys and values of one sequence."""
        a = self.architecture
        length, group = len(qkv), a.num_heads // a.num_kv_heads
        queries, keys, values = np.split(qkv, np.cumsum([a.num_heads, a.num_kv_heads]) * a.head_size, axis=1)
        return (
            np.ascontiguousarray(queries.reshape(length, a.num_kv_heads, group, -1).transpose(1, 2, 0, 3)).reshape(
                a.num_kv_heads, group * length, -1
            ),
            np.ascontiguousarray(keys.reshape(length, a.num_kv_heads, -1).transpose(1, 0, 2)),
            np.ascontiguousarray(values.reshape(length, a.num_kv_heads, -1).transpose(1, 0, 2)),
        )

    def _by_row(self, heads: Array, length: int) -> Array:
        """Return [T, heads * head] from [kv heads, group * T, head]."""
        a = self.architecture
        split = heads.reshape(a.num_kv_heads, -1, length, a.head_size)
        return split.transpose(2, 0, 1, 3).reshape(length, -1)

    def _attend(self, qkv: Array, lengths: Sequence[int]) -> tuple[Array, list[Array]]:
        a = self.architecture
        group = a.num_heads // a.num_kv_heads
        attended = np.empty((len(qkv), a.num_heads * a.head_size), np.float32)
        kept, start = [], 0
        for length in lengths:
            queries, keys, values = self._by_head(qkv[start : start + length])
            scores: Array = queries @ keys.transpose(0, 2, 1)
            scores *= np.float32(a.head_size**-0.5)
            square = scores.reshape(a.num_kv_heads, group, length, length)
            square += self._future[:length, :length]
            scores -= scores.max(axis=2, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=2, keepdims=True)
            attended[start : start + length] = self._by_row(scores @ values, length)
            kept.append(scores)
            start += length
        return attended, kept

    def _attend_backward(self, gradient: Array, kept: Kept, lengths: Sequence[int]) -> Array:
        """Return the derivative by queries, keys and values (rotated), [R, qkv]."""
        a = self.architecture
        group = a.num_heads // a.num_kv_heads
        result = np.empty_like(kept.qkv)
        start = 0
        for length, probabilities in zip(lengths, kept.probabilities, strict=True):
            part = slice(start, start + length)
            queries, keys, values = self._by_head(kept.qkv[part])
            shaped = gradient[part].reshape(length, a.num_kv_heads, group, -1).transpose(1, 2, 0, 3)
            by_head = np.ascontiguousarray(shaped).reshape(a.num_kv_heads, group * length, -1)
            scores: Array = by_head @ values.transpose(0, 2, 1)
            by_value = probabilities.transpose(0, 2, 1) @ by_head
            scores -= np.einsum("hij,hij->hi", scores, probabilities)[:, :, None]
            scores *= probabilities
            scores *= np.float32(a.head_size**-0.5)
            by_key = scores.transpose(0, 2, 1) @ queries
            columns: list[Array] = [
                self._by_row(scores @ keys, length),
                by_key.transpose(1, 0, 2).reshape(length, -1),
                by_value.transpose(1, 0, 2).reshape(length, -1),
            ]
            np.concatenate(columns, axis=1, out=result[part])
            start += length
        return result


def student_of(network: Network, layers: Sequence[int], longest: int) -> Student:
    """Return a network with copies of some layers of another.

    Args:
        network: of the target, float32.
        layers: which, in order.
        longest: most tokens of a sequence in training.

    Raises:
        UnsupportedModel: a layer has biases or head norms, which are not trained here.
    """
    optional = ("qkv_bias", "query_norm", "key_norm", "attention_output_bias")
    for number in layers:
        if any(getattr(network.layers[number], name) is not None for name in optional):
            raise UnsupportedModel(
                f"layer {number} of family {network.architecture.family} has biases or head norms: distillation trains "
                "plain Llama layers (Llama, SmolLM2, Mistral)"
            )
    fields = {name: getattr(network.architecture, name) for name in Architecture.__struct_fields__}
    architecture = Architecture(**{**fields, "num_layers": len(layers)})
    vector = np.empty(
        sum(int(np.prod(shape)) for shapes in _shapes(architecture) for shape in shapes.values()), np.float32
    )
    student = Student(architecture, network.embedding, vector, network.inverse_frequencies, longest)
    for weights, number in zip(student.weights[:-1], layers, strict=True):
        for name in _TRAINED:
            weights[name][:] = getattr(network.layers[number], name)
    student.weights[-1]["output_norm"][:] = network.output_norm
    return student


def _shapes(a: Architecture) -> list[dict[str, tuple[int, ...]]]:
    """Return the shapes of each layer's trained weights, and of the last norm."""
    queries, both = a.num_heads * a.head_size, (a.num_heads + 2 * a.num_kv_heads) * a.head_size
    layer: dict[str, tuple[int, ...]] = {
        "attention_norm": (a.hidden_size,),
        "qkv": (both, a.hidden_size),
        "attention_output": (a.hidden_size, queries),
        "feed_forward_norm": (a.hidden_size,),
        "gate_up": (2 * a.feed_forward_size, a.hidden_size),
        "down": (a.hidden_size, a.feed_forward_size),
    }
    return [layer] * a.num_layers + [{"output_norm": (a.hidden_size,)}]


def cut(a: Architecture, vector: Any) -> list[dict[str, Any]]:
    """Return a vector (of numpy or PyTorch) cut into weights, views of it."""
    start, views = 0, []
    for shapes in _shapes(a):
        weights: dict[str, Any] = {}
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            weights[name] = vector[start : start + size].reshape(shape)
            start += size
        views.append(weights)
    assert start == len(vector)
    return views


def _norm(rows: Array, weight: Array, epsilon: float) -> tuple[Array, Array]:
    """Return RMS-normed rows, and 1 / rms of each, [R, 1]."""
    squares = np.einsum("ij,ij->i", rows, rows)[:, None] / np.float32(rows.shape[1])
    inverse = 1.0 / np.sqrt(squares + np.float32(epsilon))
    return rows * inverse * weight, inverse


def _norm_backward(gradient: Array, rows: Array, weight: Array, inverse: Array) -> tuple[Array, Array]:
    """Return the derivative by the rows and by the weight."""
    normed = rows * inverse
    by_weight = np.einsum("ij,ij->j", gradient, normed)
    scaled = gradient * weight
    shared = np.einsum("ij,ij->i", scaled, normed)[:, None] / np.float32(rows.shape[1])
    scaled -= normed * shared
    scaled *= inverse
    return scaled, by_weight


def _sigmoid(x: Array) -> Array:
    """Return the logistic function; the exponent is bounded, so that nothing overflows."""
    y: Array = np.negative(x)
    np.minimum(y, np.float32(80.0), out=y)
    np.exp(y, out=y)
    y += 1.0
    return np.reciprocal(y, out=y)
