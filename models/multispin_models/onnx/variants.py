"""The graphs of one export: all on the same weights, one for each way to compute what the recipe says.

Attention has two forms (see `attention`), its cache two, and so have the 8-bit weights of w8a8 products:

    cache      Measured with ONNX Runtime 1.32: on x86-64 a row has the same bits in every batch with both. On arm64
               (emulated cortex-a76) only with float32: products of 16-bit numbers differ with the number of rows. A
               float16 cache is half as large; llama.cpp keeps one by default.
    weights    x86-64 processors without VNNI multiply unsigned rows by signed weights two at a time into 16 bits, which
               overflow: 5 % of the results were wrong, by up to 0.9 standard deviations of all results, with ONNX
               Runtime 1.32 on a Zen 3 (576 inputs, normal weights and rows). Unsigned weights are computed exactly
               there, in 1.2 to 1.3 times the time. Where both are exact they give the same integers, so the same bits.
"""

import platform
from pathlib import Path
from typing import Final, Literal, NamedTuple

__all__ = [
    "AttentionForm",
    "CacheForm",
    "VARIANTS",
    "Variant",
    "WeightForm",
    "exact_cache",
    "exact_weights",
    "processor_flags",
]

AttentionForm = Literal["folded", "plain"]
CacheForm = Literal["float16", "float32"]
WeightForm = Literal["signed", "unsigned"]

_X86: Final = frozenset({"x86_64", "amd64"})
_VNNI: Final = frozenset({"avx512_vnni", "avx_vnni"})  # as Linux names them


class Variant(NamedTuple):
    """One graph; see `attention` and above."""

    attention: AttentionForm
    cache: CacheForm
    weights: WeightForm

    @property
    def file_name(self) -> str:
        """Name of its file."""
        return f"{self.attention}-{self.cache}-{self.weights}.onnx"


VARIANTS: Final = tuple(
    Variant(attention, cache, weights)
    for attention in ("folded", "plain")
    for cache in ("float16", "float32")
    for weights in ("signed", "unsigned")
)


def exact_cache(machine: str | None = None) -> CacheForm:
    """Return the smallest form of cache that is exact on a machine, this one if not given."""
    return "float16" if (machine or platform.machine()).lower() in _X86 else "float32"


def exact_weights(machine: str | None = None, flags: frozenset[str] | None = None) -> WeightForm:
    """Return the fastest form of 8-bit weights that is exact on a processor, this one if not given.

    Args:
        machine: as `platform.machine` names it.
        flags: of the processor, as Linux names them.
    """
    if (machine or platform.machine()).lower() not in _X86:
        return "signed"
    return "signed" if _VNNI & (processor_flags() if flags is None else flags) else "unsigned"


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return what Linux says that the processor can do; nothing where that cannot be read."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())
