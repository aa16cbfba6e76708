"""The inputs of each product, seen while the float32 model reads texts of its own.

The texts are drawn from the model with fixed seeds, so neither a tokenizer nor a data set is needed, and an export is
the same every time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from multispin_models.onnx.architecture import Architecture
from multispin_models.onnx.arrangement import Heads, Part, arrange
from multispin_models.onnx.graph import HEAD, OBSERVED
from multispin_models.onnx.session import rotation
from multispin_models.onnx.smoothing import Observations, Observed
from multispin_models.onnx.variants import Variant
from multispin_models.onnx.weights import Array
from multispin_models.sampling import Sampling, choose

__all__ = ["observe"]

NUM_TEXTS: Final = 4
TEXT_TOKENS: Final = 192
_TOP_K: Final = 50
_KEPT_EVERY: Final = 4  # positions, of which one's rows are kept as samples


def observe(
    directory: Path, architecture: Architecture, frequencies: npt.NDArray[np.float64], first_token: int
) -> Observations:
    """Return what the inputs of each product were like, over all texts.

    Args:
        directory: with a float32 graph that was written with `observe`.
        architecture: sizes.
        frequencies: of the rotary positions.
        first_token: with which texts begin.
    """
    reader = _Reader(directory, architecture, frequencies)
    largest: dict[tuple[int, str], Array] = {}
    samples: dict[tuple[int, str], list[Array]] = {}
    texts = [[first_token] for _ in range(NUM_TEXTS)]
    fresh = [list(text) for text in texts]
    for position in range(TEXT_TOKENS):
        logits, seen = reader.read(fresh, position)
        for key, values in seen.items():
            largest[key] = np.maximum(np.abs(values).max(axis=0), largest.get(key, 0.0))
            if position % _KEPT_EVERY == 0:
                samples.setdefault(key, []).append(values)
        fresh = [
            [choose(row, position + 1, Sampling(temperature=1.0, top_k=_TOP_K, seed=seed))]
            for seed, row in enumerate(logits)
        ]
    return {key: Observed(values, np.concatenate(samples[key])) for key, values in largest.items()}


class _Reader:
    """A session over the observing graph, with caches of its own."""

    def __init__(self, directory: Path, a: Architecture, frequencies: npt.NDArray[np.float64]) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        graph = directory / Variant("plain", "float32", "signed").file_name
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._heads = Heads(a.num_heads, a.num_kv_heads, folded=False)
        capacity = TEXT_TOKENS + 2
        self._fixed = rotation(frequencies, capacity)
        shape = (NUM_TEXTS, a.num_kv_heads, capacity, a.head_size)
        names = [f"cache.{i}.{kind}" for i in range(a.num_layers) for kind in ("key", "value")]
        self._caches = {name: np.zeros(shape, np.float32) for name in names}
        self._observed = [(i, product) for i in range(a.num_layers) for product in OBSERVED]
        self._observed.append((a.num_layers, HEAD))

    def read(self, fresh: Sequence[Sequence[int]], position: int) -> tuple[Array, dict[tuple[int, str], Array]]:
        """Append tokens to each text; return the logits [texts, n_vocab] and the inputs of each product."""
        parts = [Part(slot, position, ids, 1) for slot, ids in enumerate(fresh)]
        feeds: dict[str, Any] = {**arrange(parts, self._heads), **self._fixed, **self._caches}
        caches = [f"{name}.extended" for name in self._caches]
        observed = [f"observed.{number}.{product}" for number, product in self._observed]
        outputs = self._session.run(["logits", *caches, *observed], feeds)
        self._caches = dict(zip(self._caches, outputs[1:], strict=False))
        return outputs[0], dict(zip(self._observed, outputs[1 + len(caches) :], strict=True))
