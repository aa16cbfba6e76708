"""Write a GGUF file anew in another recipe, with llama.cpp's own quantizer."""

import os
import tempfile
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from multispin_models.errors import ConfigError, ModelError
from multispin_models.llamacpp.engine_log import recent_errors, recorded_log

__all__ = ["QUANTIZE_RECIPES", "quantize_gguf"]

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


def quantize_gguf(source: Path, destination: Path, recipe: str, num_threads: int) -> None:
    """Write `source` in another recipe to `destination`, which appears complete or not at all.

    Args:
        source: GGUF file; one that is quantized already loses what it lost before.
        destination: is replaced; its folder must exist.
        recipe: one of QUANTIZE_RECIPES.
        num_threads: threads that work.

    Raises:
        ConfigError: no such recipe.
        ModelError: the source cannot be read or the destination not be written.
    """
    if recipe not in _FTYPES:
        raise ConfigError(f"recipe is {recipe!r}, allowed are {', '.join(QUANTIZE_RECIPES)}")
    if not source.is_file():
        raise ModelError(f"model file {source} does not exist")
    params = lib.llama_model_quantize_default_params()
    params.ftype = _FTYPES[recipe]
    params.nthread = num_threads
    params.allow_requantize = True
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


def _quantize(source: Path, partial: str, recipe: str, params: Any) -> None:
    with recorded_log():
        if lib.llama_model_quantize(str(source).encode(), partial.encode(), params) != 0:
            raise ModelError(f"llama.cpp cannot write {source} as {recipe}: {recent_errors()}")
