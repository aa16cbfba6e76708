"""Loads one end of a pair in the engine that is asked for. Each engine's library is imported only when it is used."""

import logging
from typing import Literal, NamedTuple

from multispin_models.cache import Progress
from multispin_models.errors import ConfigError
from multispin_models.language_model import LanguageModel, Tokenizer
from multispin_models.manifest import load_pair, resolve_model

__all__ = ["ENGINES", "Loaded", "load_side", "log_progress"]

log = logging.getLogger(__name__)

ENGINES = ("llamacpp",)


def log_progress(what: str, done_bytes: int, total_bytes: int | None) -> None:
    """Log the beginning of every step of a fetch, for daemons."""
    if done_bytes == 0:
        log.info("%s%s", what, "" if total_bytes is None else f" ({total_bytes / 1e6:.0f} MB)")


class Loaded(NamedTuple):
    """A model that is ready, and the tokenizer of its vocabulary."""

    model: LanguageModel
    tokenizer: Tokenizer


def load_side(
    pair_name: str,
    side: Literal["target", "draft"],
    engine: str,
    *,
    n_ctx: int,
    max_sequences: int,
    max_rows: int,
    num_threads: int,
    progress: Progress,
) -> Loaded:
    """Return the target or the draft of a pair, loaded; fetched and re-encoded first where that was not done yet.

    Args:
        pair_name: packaged name, or path of a manifest.
        side: which end.
        engine: one of ENGINES.
        n_ctx, max_sequences, max_rows, num_threads: as in ModelInfo.
        progress: told of each step.

    Raises:
        ConfigError: the engine is not known, or not installed.
        ModelError: the pair or one of its files is not usable.
    """
    pair = load_pair(pair_name)
    if engine != "llamacpp":
        raise ConfigError(f"engine is {engine!r}, allowed are {', '.join(ENGINES)}")
    try:
        from multispin_models.llamacpp import load_llamacpp  # noqa: PLC0415 - only who asks for it needs it
    except ImportError as error:
        raise ConfigError(f"engine llamacpp is not installed ({error}): run scripts/setup") from error
    resolved = resolve_model(pair.target if side == "target" else pair.draft, progress)
    model = load_llamacpp(
        resolved.path, n_ctx=n_ctx, max_sequences=max_sequences, max_rows=max_rows, num_threads=num_threads
    )
    return Loaded(model, model.tokenizer)
