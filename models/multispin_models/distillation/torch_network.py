"""The network of `network` computed by PyTorch: products in bfloat16, accumulated in float32, weights kept in float32.

Worth it where the processor multiplies bfloat16 (AVX512_BF16, AMX). The derivative is PyTorch's own. Rows of several
sequences stand one below the other here too; only attention goes sequence by sequence.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from multispin_models.distillation.loss import LARGEST_SLOPE, LEAST, Graded
from multispin_models.distillation.network import Student, cut
from multispin_models.onnx.weights import Array

__all__ = ["TorchStudent"]

_ROWS_AT_ONCE: Final = 128  # graded; their logits stay in the processor's caches
_LONG: Final = 512  # tokens of a sequence from which PyTorch's own attention, which skips the future, is the faster one


class TorchStudent(Student):
    """A student whose passes PyTorch computes; its weights are the same vector.

    Args:
        student: whose weights and sizes are taken over, not copied.
        reduced: bfloat16 products; otherwise float32 throughout.
    """

    def __init__(self, student: Student, *, reduced: bool = True) -> None:
        vars(self).update(vars(student))
        self._kind = torch.bfloat16 if reduced else torch.float32
        # A leaf for each weight: the derivative by a slice of one long leaf would be as long as the leaf.
        self._leaves = [
            {name: torch.empty(weight.shape, dtype=self._kind if weight.ndim > 1 else torch.float32, requires_grad=True)
             for name, weight in layer.items()}
            for layer in self.weights
        ]  # fmt: skip
        self._turns = torch.from_numpy(self._cosines), torch.from_numpy(self._sines)
        self._future = torch.from_numpy(self._future)

    def forward(self, sequences: Sequence[npt.NDArray[np.int32]], rows: npt.NDArray[np.intp]) -> tuple[Array, Any]:
        """Return the normed states of some rows, and the graph that `backward` needs; see `Student.forward`."""
        a = self.architecture
        with torch.no_grad():
            for leaves, weights in zip(self._leaves, self.weights, strict=True):
                for name, leaf in leaves.items():
                    leaf.copy_(torch.from_numpy(weights[name]))
        lengths = [len(sequence) for sequence in sequences]
        places = torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))
        turn = self._turns[0][places][:, None], self._turns[1][places][:, None]
        stream = torch.from_numpy(self.embedding[np.concatenate(sequences)])
        for layer in self._leaves[:-1]:
            normed = functional.rms_norm(stream, (a.hidden_size,), layer["attention_norm"], a.rms_epsilon)
            attended = self._attend_rows(functional.linear(normed.to(self._kind), layer["qkv"]), turn, lengths)
            middle = stream + functional.linear(attended, layer["attention_output"])
            normed = functional.rms_norm(middle, (a.hidden_size,), layer["feed_forward_norm"], a.rms_epsilon)
            gate, up = functional.linear(normed.to(self._kind), layer["gate_up"]).chunk(2, dim=1)
            stream = middle + functional.linear(functional.silu(gate) * up, layer["down"])
        asked = stream[torch.from_numpy(rows)]
        states = functional.rms_norm(asked, (a.hidden_size,), self._leaves[-1]["output_norm"], a.rms_epsilon)
        return states.detach().numpy(), states

    def backward(self, gradient: Array, trace: Any, into: Array) -> None:
        """Write the derivative of a loss by all trained weights; see `Student.backward`."""
        leaves = [leaf for layer in self._leaves for leaf in layer.values()]
        slots = [slot for layer in cut(self.architecture, into) for slot in layer.values()]
        found = torch.autograd.grad(trace, leaves, torch.from_numpy(gradient))
        for slot, derivative in zip(slots, found, strict=True):
            torch.from_numpy(slot).copy_(derivative)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def grade(
        self,
        states: Array,
        head: Array,
        places: npt.NDArray[np.int32],
        top_ids: npt.NDArray[np.uint32],
        top_log_probabilities: npt.NDArray[np.float16],
    ) -> Graded:
        """Return loss, agreement and gradient of some rows, the head's products in bfloat16; see `loss.grade`."""
        reduced_head = torch.from_numpy(head).to(self._kind)
        parts = [slice(start, start + _ROWS_AT_ONCE) for start in range(0, len(states), _ROWS_AT_ONCE)]
        graded = [
            self._grade_part(states[part], reduced_head, places, top_ids[part], top_log_probabilities[part])
            for part in parts
        ]
        return Graded(
            sum(part.loss for part in graded),
            np.concatenate([part.same for part in graded]),
            np.concatenate([part.gradient for part in graded]),
        )

    def _grade_part(
        self,
        states: Array,
        head: torch.Tensor,
        places: npt.NDArray[np.int32],
        top_ids: npt.NDArray[np.uint32],
        top_log_probabilities: npt.NDArray[np.float16],
    ) -> Graded:
        known = torch.from_numpy(places[top_ids].astype(np.int64))  # [S, top]
        inside = known >= 0
        p = torch.from_numpy(top_log_probabilities).float().exp() * inside
        rest = (1.0 - p.sum(1, keepdim=True)).clamp(min=float(LEAST))
        logits = functional.linear(torch.from_numpy(states).to(head.dtype), head).float()  # [S, N]
        same = (logits.argmax(1) == known[:, 0]) & inside[:, 0]
        q = logits.softmax(1)
        q_known = q.gather(1, known.clamp(min=0)) * inside
        q_rest = (1.0 - q_known.sum(1, keepdim=True)).clamp(min=float(LEAST))
        terms = torch.xlogy(p, p / q_known.clamp(min=float(LEAST)))
        loss = float(terms.sum() + (rest * (rest / q_rest).log()).sum())
        q *= (1.0 - rest / q_rest).clamp(min=-float(LARGEST_SLOPE))
        q[inside.nonzero()[:, 0], known[inside]] = (q_known - p)[inside]
        gradient = (q.to(head.dtype) @ head).float()
        return Graded(loss, same.numpy(), gradient.numpy())

    def _attend_rows(
        self, qkv: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor], lengths: Sequence[int]
    ) -> torch.Tensor:
        a = self.architecture
        heads, half = a.num_heads + a.num_kv_heads, a.head_size // 2
        by_head = qkv.view(len(qkv), -1, a.head_size)
        turned, values = by_head[:, :heads].float(), by_head[:, heads:]
        first, second = turned[..., :half], turned[..., half:]
        turned = torch.cat((first * turn[0] - second * turn[1], second * turn[0] + first * turn[1]), dim=2)
        turned = turned.to(values.dtype)
        attended = [
            self._attend_one(queries, keys, its_values)
            for queries, keys, its_values in zip(
                turned[:, : a.num_heads].split(lengths), turned[:, a.num_heads :].split(lengths), values.split(lengths),
                strict=True,
            )
        ]  # fmt: skip
        return torch.cat(attended).reshape(len(qkv), -1)

    def _attend_one(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return [T, heads, head] of one sequence: queries [T, heads, head], keys and values [T, kv heads, head]."""
        length, num_kv, group = len(queries), keys.shape[1], queries.shape[1] // keys.shape[1]
        if length > _LONG:
            return functional.scaled_dot_product_attention(
                queries.transpose(0, 1),
                keys.transpose(0, 1).repeat_interleave(group, dim=0),
                values.transpose(0, 1).repeat_interleave(group, dim=0),
                is_causal=True,
            ).transpose(0, 1)
        by_group = queries.view(length, num_kv, group, -1).permute(1, 2, 0, 3).reshape(num_kv, group * length, -1)
        scores = torch.bmm(by_group, keys.permute(1, 2, 0)).float().view(num_kv, group, length, length)
        scores = scores * queries.shape[2] ** -0.5 + self._future[:length, :length]
        weights = scores.softmax(3).to(values.dtype).view(num_kv, group * length, length)
        attended = torch.bmm(weights, values.transpose(0, 1)).view(num_kv, group, length, -1)
        return attended.permute(2, 0, 1, 3).reshape(length, num_kv * group, -1)
