"""The draft that the coordinator offers, run in place of the one before: prepared beside, swapped when idle, kept."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from multispin_agent.api.service import AgentService
from multispin_agent.client import Client
from multispin_agent.config import Config
from multispin_agent.draft_source import DraftSource, no_source, open_draft_source
from multispin_agent.staging import StagedDrafts, Stager, manifest_path, settled_config
from multispin_models.cache import silent
from multispin_models.engines import prepare_side
from multispin_models.errors import MultispinError
from multispin_models.messages import DraftOffer

__all__ = ["DraftSwapper"]

log = logging.getLogger(__name__)

IDLE_PATIENCE_S = 600.0


class DraftSwapper:
    """Takes offers for as long as the agent serves.

    Args:
        config: as the agent was started, with its own pair.
        client: the connection; its `on_files` is taken.
        service: whose drafts are swapped.
        open_source: as `open_draft_source`.
        prepare: makes the engine's files of a manifest, beside the requests that are served.
    """

    def __init__(
        self,
        config: Config,
        client: Client,
        service: AgentService,
        open_source: Callable[[Config], DraftSource] = open_draft_source,
        prepare: Callable[[str, str], object] | None = None,
    ) -> None:
        self._config = config
        self._client = client
        self._service = service
        self._open_source = open_source
        self._prepare = _prepare if prepare is None else prepare
        self._refused: set[str] = set()  # did not load here
        self._swapping: asyncio.Task[None] | None = None
        self._stager = Stager(client.send, StagedDrafts(config.pair), config.fetch_bytes_per_s, self._on_staged)
        client.on_files = self._stager.on_message

    def close(self) -> None:
        """Take no more."""
        self._client.on_files = None
        self._stager.close()
        if self._swapping is not None:
            self._swapping.cancel()

    def _on_staged(self, offer: DraftOffer, manifest: Path) -> None:
        kept = manifest_path(self._config.pair)
        if offer.sha256 in self._refused or (kept.exists() and kept.read_bytes() == manifest.read_bytes()):
            return
        self._swapping = asyncio.create_task(self._swap(offer, manifest))

    async def _swap(self, offer: DraftOffer, manifest: Path) -> None:
        wanted = msgspec.structs.replace(self._config, pair=str(manifest))
        loaded = False

        def change(old: DraftSource) -> DraftSource:
            nonlocal loaded
            old.close()  # first: a small box has no memory for both
            try:
                new = self._open_source(wanted)
                loaded = True
            except MultispinError as error:
                log.error("the offered draft %s does not load, the one before goes on: %s", offer.file_name, error)  # noqa: TRY400
                return self._reopened(old)
            return new

        try:
            await asyncio.to_thread(self._prepare, str(manifest), wanted.engine)
            await self._service.swap(change, IDLE_PATIENCE_S)
        except MultispinError as error:
            log.error("the offered draft %s cannot be run here: %s", offer.file_name, error)  # noqa: TRY400
        if loaded:
            await asyncio.to_thread(manifest.replace, manifest_path(self._config.pair))
            log.info("drafting with %s from now on", offer.file_name)
        else:
            self._refused.add(offer.sha256)

    def _reopened(self, old: DraftSource) -> DraftSource:
        """Return the drafts of before; none if they do not load any more."""
        try:
            return self._open_source(settled_config(self._config))
        except MultispinError as error:
            log.error("nothing is drafted here (L = 0), the coordinator writes alone: %s", error)  # noqa: TRY400
            return no_source(old.tokenizer, self._config, str(error))


def _prepare(pair: str, engine: str) -> None:
    prepare_side(pair, "draft", engine, silent)
