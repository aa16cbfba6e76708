"""One ONNX Runtime session over an exported graph, with its caches: runs a pass over arranged rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from multispin_models.errors import EngineFault, ModelError
from multispin_models.onnx.arrangement import Heads, Part, arrange, slot_width
from multispin_models.onnx.exported import ExportManifest
from multispin_models.onnx.variants import Variant

__all__ = ["Computed", "GraphSession", "MAX_ROWS", "rotation"]

MAX_ROWS: Final = 64  # of one slot in one pass; the caches have room for them behind the longest sequence
_SEVERITY_ERROR: Final = 3

Array = npt.NDArray[Any]


def rotation(frequencies: npt.NDArray[np.float64], positions: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return the graph's inputs "cosines" and "sines", [positions, frequencies] float32."""
    angles = np.outer(np.arange(positions, dtype=np.float64), frequencies)
    return {"cosines": np.cos(angles).astype(np.float32), "sines": np.sin(angles).astype(np.float32)}


class Computed(NamedTuple):
    """What a pass gave: views that are valid until the next one.

    Attributes:
        logits: [asked, n_vocab]
        states: [asked, hidden] that the head multiplied; None where the head is whole.
        head_rows: [rows, hidden] the whole head's row for each token that was read; None likewise.
    """

    logits: npt.NDArray[np.float32]
    states: npt.NDArray[np.float32] | None
    head_rows: npt.NDArray[np.float32] | None


class GraphSession:
    """A session bound to its caches.

    Attributes:
        cache: float32 or float16 [2 * layers, slots, kv heads, positions, head]; keys and values of a layer in turn.
    """

    def __init__(
        self,
        directory: Path,
        manifest: ExportManifest,
        variant: Variant,
        *,
        n_ctx: int,
        slots: int,
        max_rows: int,
        num_threads: int,
    ) -> None:
        a = manifest.architecture
        self._session = _open_session(directory / variant.file_name, num_threads)
        self._binding = self._session.io_binding()
        self._heads = Heads(a.num_heads, a.num_kv_heads, variant.attention == "folded")
        capacity = n_ctx + slot_width(min(max_rows, MAX_ROWS), self._heads)
        self.cache = np.zeros((2 * a.num_layers, slots, a.num_kv_heads, capacity, a.head_size), variant.cache)
        self._logits = np.empty((max_rows, a.n_vocab), np.float32)
        self._beside = np.empty((2, max_rows, a.hidden_size), np.float32) if manifest.recipe.trimmed else None
        self._fixed = rotation(np.array(manifest.inverse_frequencies), capacity)
        for name, values in self._fixed.items():
            self._bind_input(name, values)
        self._bound_slots = 0

    @property
    def memory_bytes(self) -> int:
        """Caches and logits; not the weights."""
        beside = 0 if self._beside is None else self._beside.nbytes
        return self.cache.nbytes + self._logits.nbytes + beside + sum(values.nbytes for values in self._fixed.values())

    def run(self, parts: Sequence[Part]) -> Computed:
        """Compute a pass and extend the caches in place.

        Raises:
            EngineFault: the runtime failed; what the caches of these slots hold is not known.
        """
        arrays = arrange(parts, self._heads)  # must live until the run is over: they are bound, not copied
        if "mask" in arrays:
            arrays["mask"] = arrays["mask"].astype(self.cache.dtype)
        for name, values in arrays.items():
            self._bind_input(name, values)
        self._bind_caches(len(arrays["slot_counts"]))
        logits = self._logits[: len(arrays["logit_rows"])]
        self._bind_output("logits", logits)
        states = head_rows = None
        if self._beside is not None:
            states, head_rows = self._beside[0, : len(logits)], self._beside[1, : len(arrays["token_ids"])]
            self._bind_output("states", states)
            self._bind_output("head_rows", head_rows)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # the binding raises classes of its own, which it does not export
            raise EngineFault(f"ONNX Runtime failed ({error}); close the sequences of this pass") from error
        return Computed(logits, states, head_rows)

    def _bind_caches(self, slots: int) -> None:
        """Bind the first slots of every cache, each as input and output at once: written in place, never copied."""
        if slots == self._bound_slots:
            return
        for i, values in enumerate(self.cache):
            name = f"cache.{i // 2}.{'value' if i % 2 else 'key'}"
            self._bind_input(name, values[:slots])
            self._bind_output(name + ".extended", values[:slots])
        self._bound_slots = slots

    def _bind_input(self, name: str, values: Array) -> None:
        self._binding.bind_input(name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data)

    def _bind_output(self, name: str, values: Array) -> None:
        self._binding.bind_output(name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data)


def _open_session(graph: Path, num_threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _SEVERITY_ERROR
    options.enable_mem_pattern = False  # shapes change with every pass
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise ModelError(f"ONNX Runtime {onnxruntime.__version__} cannot load {graph}: {error}") from error
