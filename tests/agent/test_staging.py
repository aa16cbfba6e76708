"""A draft on its way to a box: in parts, lost ones asked again, gone on with after a restart, checked at the end."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from multispin_agent import staging
from multispin_agent.config import Config
from multispin_agent.staging import StagedDrafts, Stager, manifest_path, settled_config
from multispin_models.cache import cached_path
from multispin_models.manifest import load_pair
from multispin_models.messages import (
    MAX_CHUNK_BYTES,
    AgentMessage,
    DraftOffer,
    FileChunk,
    FileWanted,
    Refused,
)

PAIR = "smollm2-135m"
DATA = bytes(range(256)) * 1000 + b"end"  # three parts and a bit
OFFER = DraftOffer("better.gguf", hashlib.sha256(DATA).hexdigest(), len(DATA), "Q8_0", "int8-block32")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULTISPIN_CACHE", str(tmp_path))
    monkeypatch.setattr(staging, "RETRY_S", 0.05)
    monkeypatch.setattr(staging, "RETRY_MAX_S", 0.05)
    return tmp_path


class Desk:
    """A coordinator that gives parts of DATA, or what a test wants, and an agent's stager."""

    def __init__(self, data: bytes = DATA) -> None:
        self.asked: list[FileWanted] = []
        self.data = data
        self.answer: Callable[[FileWanted], FileChunk | Refused | None] = self.part
        self.staged: list[Path] = []
        self.stager = Stager(self.send, StagedDrafts(PAIR), 1e9, lambda _offer, path: self.staged.append(path))

    def part(self, wanted: FileWanted) -> FileChunk:
        return FileChunk(wanted.sha256, wanted.offset, self.data[wanted.offset :][: wanted.max_bytes])

    def send(self, message: AgentMessage) -> None:
        assert isinstance(message, FileWanted)
        self.asked.append(message)
        if (answer := self.answer(message)) is not None:
            self.stager.on_message(answer)

    async def take(self, *, until: Callable[[], object] | None = None) -> None:
        self.stager.on_message(OFFER)
        is_over = self.stager._fetching.done if until is None else until
        ends = time.monotonic() + 20
        while not is_over():
            assert time.monotonic() < ends
            await asyncio.sleep(0.002)


def test_a_file_comes_in_parts_and_its_manifest_has_the_agents_target() -> None:
    desk = Desk()
    asyncio.run(desk.take())
    assert [wanted.offset for wanted in desk.asked] == [0, MAX_CHUNK_BYTES, 2 * MAX_CHUNK_BYTES, 3 * MAX_CHUNK_BYTES]
    assert cached_path(OFFER.sha256, OFFER.file_name).read_bytes() == DATA
    [manifest] = desk.staged
    pair = load_pair(manifest)
    assert pair.target == load_pair(PAIR).target
    assert (pair.draft.sha256, pair.draft.recipe, pair.draft.onnx_recipe) == (OFFER.sha256, "Q8_0", "int8-block32")
    assert Path(str(pair.draft.file)).read_bytes() == DATA


def test_what_is_lost_late_or_of_another_place_is_asked_again() -> None:
    desk = Desk()
    troubles = iter(
        [
            lambda wanted: None,
            lambda wanted: Refused("no_such_file", "wait"),
            lambda wanted: FileChunk(wanted.sha256, wanted.offset + 7, b"elsewhere"),
            lambda wanted: FileChunk("another", wanted.offset, b"file"),
        ]
    )

    def answer(wanted: FileWanted) -> FileChunk | Refused | None:
        return next(troubles, desk.part)(wanted)

    desk.answer = answer
    asyncio.run(desk.take())
    assert [wanted.offset for wanted in desk.asked][:5] == [0] * 5
    assert cached_path(OFFER.sha256, OFFER.file_name).read_bytes() == DATA


def test_after_a_restart_it_goes_on_where_it_was() -> None:
    first = Desk()
    first.answer = lambda wanted: first.part(wanted) if wanted.offset < 2 * MAX_CHUNK_BYTES else None

    async def stop_in_the_middle() -> None:
        await first.take(until=lambda: len(first.asked) >= 3)
        first.stager.close()
        await asyncio.sleep(0)

    asyncio.run(stop_in_the_middle())
    second = Desk()
    asyncio.run(second.take())
    assert second.asked[0].offset == 2 * MAX_CHUNK_BYTES
    assert cached_path(OFFER.sha256, OFFER.file_name).read_bytes() == DATA
    third = Desk()
    asyncio.run(third.take())
    assert (third.asked, len(third.staged)) == ([], 1), "it is here already"


def test_a_file_that_is_not_what_was_offered_is_deleted_and_not_asked_for_again(
    caplog: pytest.LogCaptureFixture, cache: Path
) -> None:
    desk = Desk(DATA[:-1] + b"X")
    asyncio.run(desk.take())
    assert desk.staged == []
    assert "is not the one that was offered" in caplog.text
    assert not list(cache.glob("incoming/*"))
    asked = len(desk.asked)

    async def offer_again() -> None:
        desk.stager.offer = None
        desk.stager.on_message(OFFER)
        await asyncio.sleep(0.05)

    asyncio.run(offer_again())
    assert len(desk.asked) == asked


def test_a_start_takes_the_draft_of_before_only_while_offers_are_taken() -> None:
    config = Config(accept_drafts=True)
    assert settled_config(config) is config
    manifest_path(config.pair).parent.mkdir(parents=True)
    manifest_path(config.pair).write_text("x")
    assert settled_config(config).pair == str(manifest_path(config.pair))
    refusing = Config()
    assert settled_config(refusing) is refusing
