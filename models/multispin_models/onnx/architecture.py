"""What a GGUF file says of its network, checked against what the exported graph can compute.

The Llama family: RMS norm, rotary positions, grouped attention, SwiGLU. Whatever a file asks for beyond that (experts,
a sliding window, soft-capped logits, other scalings of positions, ...) is refused, never left out.
"""

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from multispin_models.errors import UnsupportedModel
from multispin_models.gguf_metadata import GgufMetadata

__all__ = ["Architecture", "FAMILIES", "inverse_frequencies", "read_architecture"]

# Family -> whether rotated dimensions of a head stand as pairs (0, 1), (2, 3) ...; elsewhere as halves (0, d/2) ...
FAMILIES: Final = {"llama": True, "qwen2": False, "qwen3": False}

_MUST_BE_ABSENT_OR: Final[dict[str, tuple[Any, str]]] = {
    "expert_count": (0, "a mixture of experts"),
    "attention.sliding_window": (0, "a sliding window"),
    "attn_logit_softcapping": (0.0, "soft-capped attention"),
    "final_logit_softcapping": (0.0, "soft-capped logits"),
    "attention.clamp_kqv": (0.0, "clamped projections"),
    "attention.max_alibi_bias": (0.0, "ALiBi positions"),
    "attention.causal": (True, "attention in both directions"),
    "attention.scale": (0.0, "its own attention scale"),
    "attention.temperature_scale": (0.0, "a temperature of attention"),
    "logit_scale": (1.0, "scaled logits"),
    "embedding_scale": (1.0, "scaled embeddings"),
    "residual_scale": (1.0, "scaled residuals"),
    "pooling_type": (0, "pooled outputs"),
}


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes and constants of one network.

    Attributes:
        family: one of FAMILIES.
        num_layers, hidden_size, feed_forward_size, num_heads, num_kv_heads, head_size, n_vocab: sizes.
        context_length: as trained.
        rms_epsilon: of all norms.
        rope_base: of the rotary positions' frequencies.
        rope_linear_factor: positions are divided by it.
    """

    family: str
    num_layers: int
    hidden_size: int
    feed_forward_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    n_vocab: int
    context_length: int
    rms_epsilon: float
    rope_base: float
    rope_linear_factor: float


def read_architecture(metadata: GgufMetadata) -> Architecture:
    """Return the network that a GGUF file holds.

    Raises:
        UnsupportedModel: another family, or something in it that the graph does not compute; says what.
    """
    family = metadata.get("general.architecture", str)
    if family not in FAMILIES:
        raise UnsupportedModel(
            f"model {metadata.path} is of family {family!r}; the ONNX engine computes {', '.join(FAMILIES)} "
            "(Llama, SmolLM2, Mistral, Qwen2, Qwen2.5, Qwen3): serve it with engine llamacpp"
        )
    read = _Keys(metadata, family)
    for key, (neutral, what) in _MUST_BE_ABSENT_OR.items():
        value = metadata.values.get(f"{family}.{key}", neutral)
        if value != neutral:
            raise read.unsupported(f"{what} ({family}.{key} = {value})")
    num_heads, hidden_size = read.integer("attention.head_count"), read.integer("embedding_length")
    head_size = read.integer("attention.key_length", hidden_size // num_heads)
    if read.integer("attention.value_length", head_size) != head_size:
        raise read.unsupported("values of another size than keys")
    num_kv_heads = read.integer("attention.head_count_kv", num_heads)
    if num_heads % num_kv_heads:
        raise read.unsupported(f"{num_heads} heads over {num_kv_heads} key/value heads")
    if read.integer("rope.dimension_count", head_size) != head_size:
        raise read.unsupported("heads that are rotated in part")
    scaling = metadata.values.get(f"{family}.rope.scaling.type", "none")
    if scaling not in {"none", "linear"}:
        raise read.unsupported(f"positions scaled by {scaling!r}")
    vocabulary = metadata.get("tokenizer.ggml.tokens", list)
    if not vocabulary:
        raise read.unsupported("no vocabulary")
    return Architecture(
        family=family,
        num_layers=read.integer("block_count"),
        hidden_size=hidden_size,
        feed_forward_size=read.integer("feed_forward_length"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=head_size,
        n_vocab=len(vocabulary),
        context_length=read.integer("context_length"),
        rms_epsilon=read.number("attention.layer_norm_rms_epsilon", None),
        rope_base=read.number("rope.freq_base", 10000.0),
        rope_linear_factor=read.number("rope.scaling.factor", 1.0) if scaling == "linear" else 1.0,
    )


def inverse_frequencies(architecture: Architecture, factors: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float64]:
    """Return the angle by which a position turns each pair of dimensions.

    Args:
        architecture: base, linear factor, size of a head.
        factors: [head_size / 2] by which frequencies are divided (the file's `rope_freqs.weight`), or None.

    Returns:
        [head_size / 2] radians per position.
    """
    size = architecture.head_size
    frequencies = architecture.rope_base ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    frequencies /= architecture.rope_linear_factor
    return frequencies if factors is None else frequencies / factors.astype(np.float64)


class _Keys:
    """The keys of one family."""

    def __init__(self, metadata: GgufMetadata, family: str) -> None:
        self._metadata, self._family = metadata, family

    def integer(self, key: str, otherwise: int | None = None) -> int:
        value = self._metadata.values.get(f"{self._family}.{key}", otherwise)
        if type(value) is not int or value < 1:  # a count for each layer is an array: no plain Llama
            raise self.unsupported(f"{self._family}.{key} = {value}")
        return value

    def number(self, key: str, otherwise: float | None) -> float:
        value = self._metadata.values.get(f"{self._family}.{key}", otherwise)
        if type(value) is not float or not value > 0.0:
            raise self.unsupported(f"{self._family}.{key} = {value}")
        return value

    def unsupported(self, what: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"model {self._metadata.path} has {what}, which the ONNX engine does not compute: "
            "serve it with engine llamacpp"
        )
