"""Write a GGUF file anew in another recipe, with llama.cpp's own quantizer."""

import ctypes
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from multispin_models.errors import ConfigError, ModelError
from multispin_models.llamacpp.engine_log import recent_errors, recorded_log

__all__ = ["QUANTIZE_RECIPES", "TENSOR_TYPES", "quantize_gguf"]

_FTYPES = {
    "F32": lib.LLAMA_FTYPE_ALL_F32,
    "BF16": lib.LLAMA_FTYPE_MOSTLY_BF16,
    "Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q6_K": lib.LLAMA_FTYPE_MOSTLY_Q6_K,
    "Q4_K_M": lib.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q2_K": lib.LLAMA_FTYPE_MOSTLY_Q2_K,
}
QUANTIZE_RECIPES = tuple(_FTYPES)
_TENSOR_TYPES = {
    "F32": lib.GGML_TYPE_F32,
    "F16": lib.GGML_TYPE_F16,
    "Q8_0": lib.GGML_TYPE_Q8_0,
    "Q6_K": lib.GGML_TYPE_Q6_K,
    "Q5_1": lib.GGML_TYPE_Q5_1,
    "Q5_0": lib.GGML_TYPE_Q5_0,
    "Q4_K": lib.GGML_TYPE_Q4_K,
    "Q4_1": lib.GGML_TYPE_Q4_1,
    "Q4_0": lib.GGML_TYPE_Q4_0,
    "Q2_K": lib.GGML_TYPE_Q2_K,
}
TENSOR_TYPES = tuple(_TENSOR_TYPES)


def quantize_gguf(
    source: Path,
    destination: Path,
    recipe: str,
    num_threads: int,
    *,
    embedding: str | None = None,
    head: str | None = None,
    tensors: Mapping[str, str] | None = None,
    drop_layers: Sequence[int] = (),
) -> None:
    """Write `source` in another recipe to `destination`, which appears complete or not at all.

    Args:
        source: GGUF file; one that is quantized already loses what it lost before.
        destination: is replaced; its folder must exist.
        recipe: one of QUANTIZE_RECIPES.
        num_threads: threads that work.
        embedding: type of the embedding, one of TENSOR_TYPES; the recipe's own if not given. Where the file has no
            head of its own, this is the head's too.
        head: type of the head, likewise.
        tensors: part of a tensor's name ("ffn_down") -> its type; the first that is found in the name counts.
        drop_layers: left out, counted from 0; those behind them move up.

    Raises:
        ConfigError: no such recipe or type, or a layer to drop twice or below 0.
        ModelError: the source cannot be read or the destination not be written.
    """
    if recipe not in _FTYPES:
        raise ConfigError(f"recipe is {recipe!r}, allowed are {', '.join(QUANTIZE_RECIPES)}")
    if not source.is_file():
        raise ModelError(f"model file {source} does not exist")
    if len(set(drop_layers)) < len(drop_layers) or min(drop_layers, default=0) < 0:
        raise ConfigError(f"layers to drop are {list(drop_layers)}: give different numbers from 0 up")
    params = lib.llama_model_quantize_default_params()
    params.ftype = _FTYPES[recipe]
    params.nthread = num_threads
    params.allow_requantize = True
    if embedding:
        params.token_embedding_type = _tensor_type(embedding)
    if head:
        params.output_tensor_type = _tensor_type(head)
    # Both arrays end with an entry that says so; they must live until the call is over.
    overrides = (lib.llama_model_tensor_override * (len(tensors or {}) + 1))()
    for entry, (part, kind) in zip(overrides, (tensors or {}).items(), strict=False):
        entry.pattern, entry.type = re.escape(part).encode(), _tensor_type(kind)
    dropped = (ctypes.c_int32 * (len(drop_layers) + 1))(*drop_layers, -1)
    params.tt_overrides = overrides if tensors else None
    params.prune_layers = dropped if drop_layers else None
    lib.llama_backend_init()
    try:
        handle, partial = tempfile.mkstemp(prefix=f".{destination.name}.", dir=destination.parent)
        os.close(handle)
    except OSError as error:
        raise ModelError(f"cannot write into {destination.parent}: {error.strerror or error}") from error
    try:
        _quantize(source, partial, recipe, params)
        os.chmod(partial, 0o644)  # mkstemp gives 0600; a model is no secret
        os.replace(partial, destination)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _tensor_type(name: str) -> int:
    if name not in _TENSOR_TYPES:
        raise ConfigError(f"type of a tensor is {name!r}, allowed are {', '.join(TENSOR_TYPES)}")
    return int(_TENSOR_TYPES[name])


def _quantize(source: Path, partial: str, recipe: str, params: Any) -> None:
    with recorded_log():
        if lib.llama_model_quantize(str(source).encode(), partial.encode(), params) != 0:
            raise ModelError(f"llama.cpp cannot write {source} as {recipe}: {recent_errors()}")
