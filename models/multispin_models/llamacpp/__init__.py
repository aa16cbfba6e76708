"""llama.cpp as an engine, on llama-cpp-python's low-level binding.

Reading order: `engine_log` (what llama.cpp says), `gguf_file` (open a file, refuse what cannot be served), `tokenizer`,
`batch` and `model` (the engine), `loading`, `quantize` (write a file anew in another recipe).
"""

from multispin_models.llamacpp.loading import load_llamacpp
from multispin_models.llamacpp.model import LlamaCppModel
from multispin_models.llamacpp.quantize import QUANTIZE_RECIPES, quantize_gguf
from multispin_models.llamacpp.tokenizer import LlamaCppTokenizer, load_llamacpp_tokenizer

__all__ = [
    "LlamaCppModel",
    "LlamaCppTokenizer",
    "QUANTIZE_RECIPES",
    "load_llamacpp",
    "load_llamacpp_tokenizer",
    "quantize_gguf",
]
