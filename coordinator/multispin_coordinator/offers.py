"""The draft that agents should run: offered after their Welcome, read in parts from this machine's disk as they ask.

Who asks says where it goes on, so nothing is kept of anybody here, and an agent that was away for a day goes on where
it was. How fast a file goes out, the agents say: each asks for its next part when its own pace allows.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from multispin_coordinator.dispatcher import Send, Wanted
from multispin_models.engine_thread import EngineThread
from multispin_models.engines import DEFAULT_ENGINE, load_tokenizer, log_progress
from multispin_models.errors import ConfigError
from multispin_models.manifest import load_pair, resolve_source
from multispin_models.messages import DraftOffer, FileChunk, FileWanted

__all__ = ["OfferReader", "OfferedFile", "open_offer"]

log = logging.getLogger(__name__)


class OfferedFile(NamedTuple):
    """A file on this machine, and the offer of it."""

    path: Path
    offer: DraftOffer


def open_offer(pair_name: str, vocabulary_hash: str) -> OfferedFile:
    """Return the offer of a pair's draft, brought to this machine if it is not here.

    Args:
        pair_name: packaged name, or path of a manifest.
        vocabulary_hash: of the target.

    Raises:
        ConfigError: the draft has another vocabulary.
        ModelError: the pair or its file is not usable.
    """
    draft = load_pair(pair_name).draft
    path, sha256 = resolve_source(draft, log_progress)
    found = load_tokenizer(pair_name, "draft", DEFAULT_ENGINE, log_progress).vocabulary_hash
    if found != vocabulary_hash:
        raise ConfigError(
            f"draft_offer is {pair_name!r}, whose draft has vocabulary {found[:16]}, the target has "
            f"{vocabulary_hash[:16]}: offer a draft of the target's vocabulary"
        )
    offer = DraftOffer(path.name, sha256, path.stat().st_size, draft.recipe, draft.onnx_recipe)
    return OfferedFile(path, offer)


class OfferReader:
    """Reads parts in a thread of its own.

    Args:
        offered: the file.
        send: takes the parts.
    """

    def __init__(self, offered: OfferedFile, send: Callable[[list[Send]], None]) -> None:
        self._send = send
        self._thread = EngineThread()
        self._closed = False
        self._file = os.open(offered.path, os.O_RDONLY)

    def read(self, wanted: Sequence[Wanted]) -> None:
        """Read parts, and send each when it is read; one that cannot be read is asked again."""
        for agent, part in wanted:
            self._thread.run(self._chunk, part).add_done_callback(partial(self._answer, agent))

    def close(self) -> None:
        """Send nothing more, and close the file."""
        self._closed = True
        self._thread.shutdown()
        os.close(self._file)

    def _chunk(self, part: FileWanted) -> FileChunk:
        offset = min(part.offset, 1 << 62)
        return FileChunk(part.sha256, part.offset, os.pread(self._file, part.max_bytes, offset))

    def _answer(self, agent: bytes, read: asyncio.Future[FileChunk]) -> None:
        if self._closed or read.cancelled():
            return
        try:
            self._send([Send(agent, read.result())])
        except OSError as error:
            log.warning("a part of the offered draft cannot be read: %s", error)
