"""A draft model on its way from the coordinator to this box: in parts, at a pace, going on where it was, checked.

    offer --> cache/incoming/SHA256.part, part after part --> sha256 right? --> cache/models/SHA/NAME --> a manifest

One part is asked for at a time. What has come is on disk: after an interruption, or a restart, the next part is asked
for from its end. A file whose sha256 is not the offered one is deleted, and not asked for again before the next start.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from multispin_agent.config import Config
from multispin_models.cache import cache_directory, cached_path, file_sha256, staging
from multispin_models.manifest import ModelFile, Pair, load_pair
from multispin_models.messages import MAX_CHUNK_BYTES, AgentMessage, DraftOffer, FileChunk, FileWanted, Refused

__all__ = ["StagedDrafts", "Stager", "manifest_path", "settled_config"]

log = logging.getLogger(__name__)

RETRY_S: Final = 2.0
RETRY_MAX_S: Final = 60.0
_Answer = FileChunk | Refused


def manifest_path(pair: str) -> Path:
    """Return where the manifest of the last draft that was taken stands, for agents of a pair."""
    name = hashlib.sha256(pair.encode()).hexdigest()[:16]
    return cache_directory() / "offered" / f"{name}.toml"


def settled_config(config: Config) -> Config:
    """Return the settings with the last draft that was taken, if there is one and offers are still to be taken."""
    path = manifest_path(config.pair) if config.accept_drafts else None
    return config if path is None or not path.exists() else msgspec.structs.replace(config, pair=str(path))


class StagedDrafts:
    """Files of offers on this box's disk; no network.

    Args:
        pair: of the agent's settings; the target of the manifests that are made.
    """

    def __init__(self, pair: str) -> None:
        self._pair = pair

    def part_of(self, offer: DraftOffer) -> Path:
        """Return where the file is while it is not whole."""
        return cache_directory() / "incoming" / f"{offer.sha256}.part"

    def num_bytes(self, offer: DraftOffer) -> int:
        """Return how much of a file is here."""
        if cached_path(offer.sha256, offer.file_name).exists():
            return offer.num_bytes
        part = self.part_of(offer)
        return part.stat().st_size if part.exists() else 0

    def add(self, offer: DraftOffer, offset: int, data: bytes) -> None:
        """Put a part at the end of what is here; one that does not go on there is dropped."""
        part = self.part_of(offer)
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            if file.tell() == offset and offset + len(data) <= offer.num_bytes:
                file.write(data)

    def finish(self, offer: DraftOffer) -> Path | None:
        """Return the manifest of a file that is all here; None if it is not what was offered: then it is deleted."""
        whole = cached_path(offer.sha256, offer.file_name)
        if not whole.exists():
            part = self.part_of(offer)
            if file_sha256(part) != offer.sha256:
                part.unlink()
                return None
            whole.parent.mkdir(parents=True, exist_ok=True)
            part.replace(whole)
        return self._write_manifest(offer, whole)

    def _write_manifest(self, offer: DraftOffer, whole: Path) -> Path:
        pair = load_pair(self._pair)
        draft = ModelFile(file=str(whole), sha256=offer.sha256, recipe=offer.recipe, onnx_recipe=offer.onnx_recipe)
        told = Pair(pair.name, pair.target, draft, f"offered by the coordinator: {offer.file_name}")
        path = manifest_path(self._pair).with_suffix(".new.toml")
        path.parent.mkdir(parents=True, exist_ok=True)
        with staging(path) as partial:
            partial.write_text(_manifest_text(told), encoding="utf-8")
        return path


def _manifest_text(pair: Pair) -> str:
    """Return a manifest as `load_pair` reads it; a JSON string is a TOML string, too."""

    def lines(fields: dict[str, object]) -> list[str]:
        return [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in fields.items() if value]

    head = lines({"name": pair.name, "description": pair.description})
    ends = ((name, msgspec.structs.asdict(end)) for name, end in (("target", pair.target), ("draft", pair.draft)))
    return "\n".join([*head, *(line for name, end in ends for line in ("", f"[{name}]", *lines(end)))]) + "\n"


class Stager:
    """Fetches what is offered.

    Args:
        send: to the coordinator.
        files: on disk.
        bytes_per_s: most, of parts.
        on_staged: called with the offer and its manifest when the file is here and right.
    """

    def __init__(
        self,
        send: Callable[[AgentMessage], object],
        files: StagedDrafts,
        bytes_per_s: float,
        on_staged: Callable[[DraftOffer, Path], object],
    ) -> None:
        self.offer: DraftOffer | None = None
        self._send = send
        self._files = files
        self._bytes_per_s = bytes_per_s
        self._on_staged = on_staged
        self._bad: set[str] = set()  # not what was offered
        self._answers: asyncio.Queue[_Answer] = asyncio.Queue()
        self._fetching: asyncio.Task[None] | None = None

    def on_message(self, message: DraftOffer | FileChunk | Refused) -> None:
        """Take what the coordinator says of files; the same offer comes with every Welcome."""
        if not isinstance(message, DraftOffer):
            self._answers.put_nowait(message)
        elif message != self.offer and message.sha256 not in self._bad:
            self.close()
            self.offer = message
            self._fetching = asyncio.create_task(self._fetch(message))

    def close(self) -> None:
        """Stop; what is here stays."""
        if self._fetching is not None:
            self._fetching.cancel()

    async def _fetch(self, offer: DraftOffer) -> None:
        have = await asyncio.to_thread(self._files.num_bytes, offer)
        log.info("draft %s is offered: %d of %d bytes are here", offer.file_name, have, offer.num_bytes)
        wait_s = RETRY_S
        while have < offer.num_bytes:
            try:
                count = await self._fetch_part(offer, have, wait_s)
            except OSError as error:
                log.warning("the offered draft is not fetched further for now: %s", error)
                count = 0
            wait_s = RETRY_S if count else min(2 * wait_s, RETRY_MAX_S)
            have += count
            await asyncio.sleep(count / self._bytes_per_s if count else wait_s)
        manifest = await asyncio.to_thread(self._files.finish, offer)
        if manifest is None:
            self._bad.add(offer.sha256)
            log.error("the draft that came is not the one that was offered (sha256 %s): it is deleted", offer.sha256)
            return
        log.info("draft %s is here and right", offer.file_name)
        self._on_staged(offer, manifest)

    async def _fetch_part(self, offer: DraftOffer, have: int, wait_s: float) -> int:
        """Return the bytes that came, 0 if none did in time."""
        while not self._answers.empty():  # late ones
            self._answers.get_nowait()
        self._send(FileWanted(offer.sha256, have, min(MAX_CHUNK_BYTES, offer.num_bytes - have)))
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while True:
                    answer = await self._answers.get()
                    if isinstance(answer, Refused):
                        log.warning("the offered draft is not given (%s): %s", answer.code, answer.message)
                        return 0
                    if (answer.sha256, answer.offset) == (offer.sha256, have):
                        await asyncio.to_thread(self._files.add, offer, have, answer.data)
                        return len(answer.data)
        return 0
