"""Load a GGUF file as an engine, or say why not.

Settings on which exactness hangs: flash attention off, one cache a sequence (`kv_unified` off), and a build without
LLAMAFILE and REPACK. Measured in DESIGN section 1; `probes.probe_exactness` says whether it holds here.
"""

import logging
import re
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from multispin_models.errors import ConfigError, ModelError, UnsupportedModel
from multispin_models.language_model import ModelInfo
from multispin_models.llamacpp.engine_log import recent_errors, recorded_log
from multispin_models.llamacpp.gguf_file import GgufFile, engine_version, open_gguf
from multispin_models.llamacpp.model import LlamaCppModel
from multispin_models.llamacpp.tokenizer import LlamaCppTokenizer
from multispin_models.probes import probe_rollback

__all__ = ["load_llamacpp"]

_logger = logging.getLogger(__name__)
_FLASH_ATTENTION_OFF = 0
_BUFFER_SIZE = re.compile(r"(?:model|KV|compute|output) buffer size = +([0-9.]+) MiB")


def load_llamacpp(
    path: Path, *, n_ctx: int, max_sequences: int, max_rows: int, num_threads: int, name: str | None = None
) -> LlamaCppModel:
    """Return a loaded model.

    Args:
        path: GGUF file.
        n_ctx: longest sequence, in tokens; each sequence has room of its own.
        max_sequences: open at once.
        max_rows: most rows of one pass.
        num_threads: of a pass.
        name: for people; the file's own name if not given.

    Raises:
        ConfigError: a number out of range.
        ModelError: the file cannot be loaded, or memory does not suffice.
        UnsupportedModel: the model cannot be rolled back: recurrent, hybrid, or a sliding window that fails its probe.
    """
    _check_limits(n_ctx=n_ctx, max_sequences=max_sequences, max_rows=max_rows, num_threads=num_threads)
    with recorded_log() as log:
        file = open_gguf(path, vocab_only=False)
        trained = lib.llama_model_n_ctx_train(file.model)
        if n_ctx > trained:
            raise ModelError(f"n_ctx is {n_ctx}, model {path} was trained for {trained}: ask for that at most")
        context = _new_context(file, n_ctx, max_sequences, max_rows, num_threads)
    if not lib.llama_get_memory(context):
        lib.llama_free(context)
        raise UnsupportedModel(f"model {path} keeps no key/value cache: it is an encoder, take a decoder-only model")
    tokenizer = LlamaCppTokenizer(file)
    mebibytes = sum(float(match.group(1)) for line in log if (match := _BUFFER_SIZE.search(line)))
    info = ModelInfo(
        name=name or file.metadata("general.name") or path.stem,
        fingerprint=file.sha256(),
        vocabulary_hash=tokenizer.vocabulary_hash,
        engine="llamacpp",
        engine_version=engine_version(),
        recipe=file.recipe,
        n_vocab=tokenizer.n_vocab,
        n_ctx=n_ctx,
        max_sequences=max_sequences,
        max_rows=max_rows,
        num_threads=num_threads,
        exact=None,
        memory_bytes=int(mebibytes * (1 << 20)),
    )
    model = LlamaCppModel(file, context, info, tokenizer)
    window = lib.llama_model_n_swa(file.model)
    if 0 < window < n_ctx:
        _probe_window(model, window)
    return model


def _check_limits(**limits: int) -> None:
    """Refuse numbers that llama.cpp would meet with an assertion, which ends the process."""
    most = {"max_sequences": int(lib.llama_max_parallel_sequences()), "max_rows": 1 << 16, "num_threads": 512}
    for name, value in limits.items():
        if not 1 <= value <= most.get(name, 1 << 24):
            raise ConfigError(f"{name} is {value}, allowed are 1 to {most.get(name, 1 << 24)}")


def _probe_window(model: LlamaCppModel, window: int) -> None:
    """Refuse a sliding-window model that forgets what a rollback across the window's edge needs."""
    _logger.info("model %s has a sliding window of %d tokens: probing its rollback", model.info.name, window)
    try:
        probe_rollback(model, min(window + 8, model.info.n_ctx - 4))
    except UnsupportedModel:
        model.close()
        raise


def _new_context(file: GgufFile, n_ctx: int, max_sequences: int, max_rows: int, num_threads: int) -> Any:
    params = lib.llama_context_default_params()
    # A pass is cut to the whole context: a short one with few sequences must still hold the rows of a pass.
    params.n_ctx = max(n_ctx * max_sequences, max_rows)
    params.n_seq_max = max_sequences
    # llama.cpp asserts (and ends the process) unless a row for every sequence fits.
    rows = max(max_rows, max_sequences)
    params.n_batch = params.n_ubatch = params.n_outputs_max = params.n_outputs_max_per_seq = rows
    params.n_threads = params.n_threads_batch = num_threads
    params.flash_attn_type = _FLASH_ATTENTION_OFF  # attention would depend on the batch's shape
    params.offload_kqv = params.op_offload = False
    params.kv_unified = False
    params.swa_full = True  # keep positions that left the window, so that they can be rolled back to
    params.no_perf = True
    context = lib.llama_init_from_model(file.model, params)
    asked = f"{max_sequences} sequences of {n_ctx} tokens, {max_rows} rows"
    if not context:
        raise ModelError(f"llama.cpp cannot hold {asked} of {file.path}: {recent_errors()}; ask for less")
    given = (lib.llama_n_seq_max(context), lib.llama_n_ctx_seq(context), lib.llama_n_ubatch(context))
    if given[0] < max_sequences or given[1] < n_ctx or given[2] < max_rows:
        lib.llama_free(context)
        raise ModelError(f"llama.cpp gave {given[0]} sequences of {given[1]}, {given[2]} rows; asked were {asked}")
    return context
