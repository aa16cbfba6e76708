"""The network of `network` computed by PyTorch: products in bfloat16, accumulated in float32, weights kept in float32.

Worth it where the processor multiplies bfloat16 (AVX512_BF16, AMX). The derivative is PyTorch's own. Rows of several
sequences stand one below the other here too; only attention goes sequence by sequence.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from multispin_models.distillation.loss import LARGEST_SLOPE, LEAST, Graded
from multispin_models.distillation.network import Student, cut
from multispin_models.onnx.weights import Array

__all__ = ["TorchStudent"]


class TorchStudent(Student):
    """A student whose passes PyTorch computes; its weights are the same vector.

    Args:
        student: whose weights and sizes are taken over, not copied.
        reduced: bfloat16 products; otherwise float32 throughout.
    """

    def __init__(self, student: Student, *, reduced: bool = True) -> None:
        vars(self).update(vars(student))
        self._reduced = reduced
        # A leaf for each weight: the derivative by a slice of one long leaf would be as long as the leaf.
        self._tensors = [
            {name: torch.from_numpy(weight).requires_grad_() for name, weight in layer.items()}
            for layer in self.weights
        ]
        self._turns = torch.from_numpy(self._cosines), torch.from_numpy(self._sines)

    def forward(self, sequences: Sequence[npt.NDArray[np.int32]], rows: npt.NDArray[np.intp]) -> tuple[Array, Any]:
        """Return the normed states of some rows, and the graph that `backward` needs; see `Student.forward`."""
        a = self.architecture
        lengths = [len(sequence) for sequence in sequences]
        places = torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))
        turn = self._turns[0][places][:, None], self._turns[1][places][:, None]
        stream = torch.from_numpy(self.embedding[np.concatenate(sequences)])
        with torch.autocast("cpu", torch.bfloat16, enabled=self._reduced):
            for layer in self._tensors[:-1]:
                normed = functional.rms_norm(stream, (a.hidden_size,), layer["attention_norm"], a.rms_epsilon)
                attended = self._attend_rows(functional.linear(normed, layer["qkv"]), turn, lengths)
                middle = stream + functional.linear(attended, layer["attention_output"])
                normed = functional.rms_norm(middle, (a.hidden_size,), layer["feed_forward_norm"], a.rms_epsilon)
                gate, up = functional.linear(normed, layer["gate_up"]).chunk(2, dim=1)
                stream = middle + functional.linear(functional.silu(gate) * up, layer["down"])
        asked = stream[torch.from_numpy(rows)]
        states = functional.rms_norm(asked, (a.hidden_size,), self._tensors[-1]["output_norm"], a.rms_epsilon)
        return states.detach().numpy(), states

    def backward(self, gradient: Array, trace: Any, into: Array) -> None:
        """Write the derivative of a loss by all trained weights; see `Student.backward`."""
        leaves = [weight for layer in self._tensors for weight in layer.values()]
        slots = [slot for layer in cut(self.architecture, into) for slot in layer.values()]
        found = torch.autograd.grad(trace, leaves, torch.from_numpy(gradient))
        for slot, derivative in zip(slots, found, strict=True):
            slot[:] = derivative.numpy()

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
        kind = torch.bfloat16 if self._reduced else torch.float32
        reduced_head = torch.from_numpy(head).to(kind)
        known = torch.from_numpy(places[top_ids].astype(np.int64))  # [S, top]
        inside = known >= 0
        p = torch.from_numpy(top_log_probabilities).float().exp() * inside
        rest = (1.0 - p.sum(1, keepdim=True)).clamp(min=float(LEAST))
        logits = functional.linear(torch.from_numpy(states).to(kind), reduced_head).float()  # [S, N]
        same = (logits.argmax(1) == known[:, 0]) & inside[:, 0]
        q = logits.softmax(1)
        q_known = q.gather(1, known.clamp(min=0)) * inside
        q_rest = (1.0 - q_known.sum(1, keepdim=True)).clamp(min=float(LEAST))
        terms = torch.xlogy(p, p / q_known.clamp(min=float(LEAST)))
        loss = float(terms.sum() + (rest * (rest / q_rest).log()).sum())
        q *= (1.0 - rest / q_rest).clamp(min=-float(LARGEST_SLOPE))
        q[inside.nonzero()[:, 0], known[inside]] = (q_known - p)[inside]
        gradient = (q.to(kind) @ reduced_head).float()
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
        group = a.num_heads // a.num_kv_heads
        attended = []
        for queries, keys, its_values in zip(
            turned[:, : a.num_heads].split(lengths), turned[:, a.num_heads :].split(lengths), values.split(lengths),
            strict=True,
        ):  # fmt: skip
            # [heads, T, head]; keys and values are repeated for the heads of their group
            attended.append(
                functional.scaled_dot_product_attention(
                    queries.transpose(0, 1),
                    keys.transpose(0, 1).repeat_interleave(group, dim=0),
                    its_values.transpose(0, 1).repeat_interleave(group, dim=0),
                    is_causal=True,
                ).transpose(0, 1)
            )
        return torch.cat(attended).reshape(len(qkv), -1)
