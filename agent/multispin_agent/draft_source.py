"""Where an agent's drafts come from: its draft model, the request's own text, or the text before the model.

model           the pair's draft model
lookup          what followed the end of the text when it stood there before; of the models' files only the
                tokenizer is read
lookup+model    the text where it knows, the model otherwise

An agent of users may also go without (`without_draft`): then the coordinator writes its texts alone.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from multispin_agent.config import Config
from multispin_agent.draft_cache import DraftCache
from multispin_agent.drafter import Drafted, Drafter, ModelDrafter
from multispin_agent.lookup import LookupDrafter, LookupFirstDrafter
from multispin_models.engines import DEFAULT_ENGINE, Loaded, Side, load_side, load_tokenizer, log_progress
from multispin_models.errors import MultispinError
from multispin_models.language_model import ModelInfo, Tokenizer
from multispin_models.ngram import NgramIndex
from multispin_models.probes import probe_rollback
from multispin_models.sampling import Sampling

__all__ = ["DraftSource", "lookup_first_source", "lookup_source", "model_source", "no_source", "open_draft_source"]

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
        missing: why nothing is drafted; "" if it is.
    """

    info: ModelInfo
    tokenizer: Tokenizer
    open_drafter: Callable[[Sampling, int | None], Drafter]
    close: Callable[[], None]
    num_kept: Callable[[], int] = lambda: 0
    missing: str = ""


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
    info = _info("lookup", "lookup", ngrams, tokenizer, config)
    return DraftSource(info, tokenizer, lambda _sampling, _entries: _lookup(config), lambda: None)


class _NoDrafter:
    """Never has a guess."""

    num_reused = 0

    def draft(
        self,
        tokens: Sequence[int],  # noqa: ARG002
        count: int,  # noqa: ARG002
        end_token_ids: frozenset[int],  # noqa: ARG002
        interrupted: Callable[[], bool],  # noqa: ARG002
    ) -> list[Drafted]:
        """Return no token."""
        return []

    def rewind(self, tokens: Sequence[int]) -> None:
        """Hold nothing."""

    def close(self) -> None:
        """Hold nothing."""


def no_source(tokenizer: Tokenizer, config: Config, why: str) -> DraftSource:
    """Return no drafts, and why."""
    info = _info(f"none: {why}"[:200], "none", "", tokenizer, config)
    return DraftSource(info, tokenizer, lambda _sampling, _entries: _NoDrafter(), lambda: None, missing=why)


def _info(name: str, engine: str, recipe: str, tokenizer: Tokenizer, config: Config) -> ModelInfo:
    return ModelInfo(
        name=name,
        fingerprint=f"{engine}:{recipe}",
        vocabulary_hash=tokenizer.vocabulary_hash,
        engine=engine,
        engine_version="1",
        recipe=recipe,
        n_vocab=tokenizer.n_vocab,
        n_ctx=config.max_context_tokens,
        max_sequences=config.max_concurrent,
        max_rows=1,
        num_threads=1,
        exact=None,
        memory_bytes=0,
    )


def lookup_first_source(model: DraftSource, config: Config) -> DraftSource:
    """Return drafts by lookup where it has a match, by a model otherwise; named in records as the model."""
    return model._replace(
        open_drafter=lambda sampling, entries: LookupFirstDrafter(
            _lookup(config), model.open_drafter(sampling, entries)
        )
    )


def _lookup(config: Config) -> LookupDrafter:
    return LookupDrafter(NgramIndex(config.lookup_min_ngram, config.lookup_max_ngram))


def open_draft_source(config: Config, *, may_go_without: bool = False) -> DraftSource:
    """Load what the settings ask for.

    Args:
        config: of the agent.
        may_go_without: serve without drafts where they are missing, if the settings have it so.

    Raises:
        ConfigError: the engine is not known, or not installed.
        ModelError: the pair or one of its files is not usable.
    """
    try:
        return _open_drafts(config)
    except MultispinError as error:
        tokenizer = _tokenizer_alone(config) if may_go_without and config.without_draft == "serve" else None
        if tokenizer is None:
            raise
        log.error("nothing is drafted here (L = 0), the coordinator writes alone: %s", error)  # noqa: TRY400
        return no_source(tokenizer, config, str(error))


def _tokenizer_alone(config: Config) -> Tokenizer | None:
    """Return the tokenizer of the pair from whatever file of it is here; without one nothing can be served."""
    places: tuple[tuple[Side, str], ...]
    places = ("draft", config.engine), ("draft", DEFAULT_ENGINE), ("target", DEFAULT_ENGINE)
    for side, engine in places:
        try:
            return load_tokenizer(config.pair, side, engine, log_progress)
        except MultispinError as error:
            log.info("no tokenizer of the pair's %s with %s: %s", side, engine, error)
    return None


def _open_drafts(config: Config) -> DraftSource:
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
