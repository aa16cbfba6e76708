"""Where an agent's drafts come from: its draft model, the request's own text, or the text before the model.

model           the pair's draft model
lookup          what followed the end of the text when it stood there before; of the models' files only the
                tokenizer is read
lookup+model    the text where it knows, the model otherwise
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

from multispin_agent.config import Config
from multispin_agent.draft_cache import DraftCache
from multispin_agent.drafter import Drafter, ModelDrafter
from multispin_agent.lookup import LookupDrafter, LookupFirstDrafter
from multispin_models.engines import Loaded, load_side, load_tokenizer, log_progress
from multispin_models.language_model import ModelInfo, Tokenizer
from multispin_models.ngram import NgramIndex
from multispin_models.probes import probe_rollback
from multispin_models.sampling import Sampling

__all__ = ["DraftSource", "lookup_first_source", "lookup_source", "model_source", "open_draft_source"]

log = logging.getLogger(__name__)


class DraftSource(NamedTuple):
    """What opens a drafter for every request, and what the wire and the records say of it.

    Attributes:
        info: of the draft model, or of the lookup.
        tokenizer: of the pair.
        open_drafter: called for each request with how it draws, and from how many tokens (null by the coupled rule);
            what it returns is used in the engine's thread only.
        close: frees the model.
        num_kept: sequences of the model that are kept for a next turn.
    """

    info: ModelInfo
    tokenizer: Tokenizer
    open_drafter: Callable[[Sampling, int | None], Drafter]
    close: Callable[[], None]
    num_kept: Callable[[], int] = lambda: 0


def model_source(loaded: Loaded, *, keeps: bool = False) -> DraftSource:
    """Return drafts by a model that is loaded.

    Args:
        loaded: the draft model.
        keeps: keep sequences after their request, as far as the model has room.
    """
    model, cache = loaded.model, DraftCache(loaded.model, keeps=keeps)
    return DraftSource(
        model.info,
        loaded.tokenizer,
        lambda sampling, entries: ModelDrafter(model, sampling, cache, entries),
        model.close,
        lambda: cache.num_kept,
    )


def lookup_source(tokenizer: Tokenizer, config: Config) -> DraftSource:
    """Return drafts by lookup alone."""
    ngrams = f"{config.lookup_min_ngram}-{config.lookup_max_ngram}"
    info = ModelInfo(
        name="lookup",
        fingerprint=f"lookup:{ngrams}",
        vocabulary_hash=tokenizer.vocabulary_hash,
        engine="lookup",
        engine_version="1",
        recipe=ngrams,
        n_vocab=tokenizer.n_vocab,
        n_ctx=config.max_context_tokens,
        max_sequences=config.max_concurrent,
        max_rows=1,
        num_threads=1,
        exact=None,
        memory_bytes=0,
    )
    return DraftSource(info, tokenizer, lambda _sampling, _entries: _lookup(config), lambda: None)


def lookup_first_source(model: DraftSource, config: Config) -> DraftSource:
    """Return drafts by lookup where it has a match, by a model otherwise; named in records as the model."""
    return model._replace(
        open_drafter=lambda sampling, entries: LookupFirstDrafter(
            _lookup(config), model.open_drafter(sampling, entries)
        )
    )


def _lookup(config: Config) -> LookupDrafter:
    return LookupDrafter(NgramIndex(config.lookup_min_ngram, config.lookup_max_ngram))


def open_draft_source(config: Config) -> DraftSource:
    """Load what the settings ask for.

    Raises:
        ConfigError: the engine is not known, or not installed.
        ModelError: the pair or one of its files is not usable.
    """
    if config.draft == "lookup":
        tokenizer = load_tokenizer(config.pair, "draft", config.engine, log_progress)
        log.info("drafting by lookup: no model is loaded, only the tokenizer of pair %s", config.pair)
        return lookup_source(tokenizer, config)
    loaded = load_side(
        config.pair,
        "draft",
        config.engine,
        n_ctx=config.max_context_tokens,
        max_sequences=config.max_concurrent + config.kept_sequences,
        max_rows=64,
        num_threads=config.threads,
        progress=log_progress,
    )
    probe_rollback(loaded.model)
    drafts = model_source(loaded, keeps=config.kept_sequences > 0)
    return drafts if config.draft == "model" else lookup_first_source(drafts, config)
