"""Open a GGUF file with llama.cpp, and refuse what cannot be served correctly."""

import ctypes
import hashlib
import weakref
from pathlib import Path

import llama_cpp
import llama_cpp.llama_cpp as lib

from multispin_models.errors import ModelError, UnsupportedModel
from multispin_models.llamacpp.engine_log import recent_errors, recorded_log

__all__ = ["GgufFile", "engine_version", "open_gguf"]

_METADATA_BYTES = 1 << 16
_FTYPE_GUESSED = 1024
_RECIPES: dict[int, str] = {
    number: name.partition("_FTYPE_")[2].partition("_")[2]
    for name, number in vars(lib).items()
    if name.startswith(("LLAMA_FTYPE_ALL_", "LLAMA_FTYPE_MOSTLY_"))
}


class GgufFile:
    """A GGUF file opened by llama.cpp; freed when the last user lets go of it.

    Attributes:
        path: of the file.
        model: llama_model pointer.
        vocab: llama_vocab pointer, valid as long as this object.
    """

    def __init__(self, path: Path, model: ctypes.c_void_p) -> None:
        self.path = path
        self.model = model
        self.vocab = lib.llama_model_get_vocab(model)
        weakref.finalize(self, lib.llama_model_free, model)

    def metadata(self, key: str) -> str | None:
        """Return a metadata value as text, None where the file has no such key."""
        buffer = ctypes.create_string_buffer(_METADATA_BYTES)
        size = lib.llama_model_meta_val_str(self.model, key.encode(), buffer, _METADATA_BYTES)
        return None if size < 0 else buffer.value.decode("utf-8", "replace")

    @property
    def recipe(self) -> str:
        """Quantization of most tensors, "BF16", "Q4_K_M", ..."""
        ftype: int = lib.llama_model_ftype(self.model) & ~_FTYPE_GUESSED
        return _RECIPES.get(ftype, f"ftype-{ftype}")

    def sha256(self) -> str:
        """Return the sha256 (hex) of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def engine_version() -> str:
    """Return the versions of the binding and of llama.cpp, and the build flags on which exactness depends."""
    system = lib.llama_print_system_info().decode()
    flags = " ".join(f"{flag}={int(f'{flag} = 1' in system)}" for flag in ("LLAMAFILE", "REPACK"))
    return f"llama-cpp-python {llama_cpp.__version__}, llama.cpp {lib.llama_version().decode()}, {flags}"


def open_gguf(path: Path, *, vocab_only: bool) -> GgufFile:
    """Return an opened file.

    Args:
        path: of a GGUF file.
        vocab_only: read vocabulary and metadata, no weights.

    Raises:
        ModelError: no file, not GGUF, cut short, or not loadable; says which and quotes llama.cpp.
        UnsupportedModel: cannot be rolled back (only when the weights are asked for).
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise ModelError(f"model file {path} cannot be read: {error.strerror or error}") from error
    if magic != b"GGUF":
        raise ModelError(f"model file {path} starts with {magic!r}, a GGUF file with b'GGUF': it is another format")
    lib.llama_backend_init()
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0
    params.vocab_only = vocab_only
    # A build without repacking is one that was made to be exact; AMX, the other extra buffer, is not exact either.
    params.use_extra_bufts = "REPACK = 1" in lib.llama_print_system_info().decode()
    with recorded_log():
        model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            raise ModelError(
                f"llama.cpp cannot load model file {path} ({path.stat().st_size} bytes): {recent_errors()}; "
                "fetch the file again, or take a model that this version of llama.cpp knows"
            )
    file = GgufFile(path, model)
    if not vocab_only:
        _refuse_unsupported(file)
    return file


def _refuse_unsupported(file: GgufFile) -> None:
    """Raise UnsupportedModel for families whose state cannot be cut back token by token."""
    model = file.model
    reasons = (
        (lib.llama_model_is_recurrent(model), "is recurrent: its state cannot be rolled back when a draft is rejected"),
        (lib.llama_model_is_hybrid(model), "is hybrid: its recurrent layers cannot be rolled back"),
        (lib.llama_model_is_diffusion(model), "is a diffusion model: it has no next token"),
        (lib.llama_model_has_encoder(model), "has an encoder: it does not just continue a text"),
        (not lib.llama_model_has_decoder(model), "has no decoder: it gives embeddings, not tokens"),
        (lib.llama_vocab_n_tokens(file.vocab) == 0, "has no vocabulary"),
    )
    for holds, reason in reasons:
        if holds:
            family = file.metadata("general.architecture")
            raise UnsupportedModel(
                f"model {file.path} (architecture {family}) {reason}; take a decoder-only transformer, "
                "for instance of the Llama, Qwen2.5 or Qwen3 families"
            )
