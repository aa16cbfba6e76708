"""The graphs of one export: all on the same weights, one for each form of attention and of its cache.

Measured with ONNX Runtime 1.32: on x86-64 a row has the same bits in every batch in all four. On arm64 (emulated
cortex-a76) only with a float32 cache: products of 16-bit numbers differ with the number of rows. A float16 cache is
half as large and attention over it a third cheaper for many sequences; llama.cpp keeps one by default.
"""

import platform
from typing import Final, Literal, NamedTuple

__all__ = ["AttentionForm", "CacheForm", "VARIANTS", "Variant", "exact_cache"]

AttentionForm = Literal["folded", "plain"]
CacheForm = Literal["float16", "float32"]


class Variant(NamedTuple):
    """One graph; see `attention`."""

    attention: AttentionForm
    cache: CacheForm

    @property
    def file_name(self) -> str:
        """Name of its file."""
        return f"{self.attention}-{self.cache}.onnx"


VARIANTS: Final = (
    Variant("folded", "float16"),
    Variant("folded", "float32"),
    Variant("plain", "float16"),
    Variant("plain", "float32"),
)


def exact_cache(machine: str | None = None) -> CacheForm:
    """Return the smallest form of cache that is exact on a machine, this one if not given."""
    return "float16" if (machine or platform.machine()).lower() in {"x86_64", "amd64"} else "float32"
