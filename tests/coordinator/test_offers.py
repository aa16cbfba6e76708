"""The draft that a coordinator offers: to whom, and in what parts."""

import asyncio
import time
from pathlib import Path

import pytest
from tests.coordinator.test_dispatcher import ENDS, LIMITS
from tests.toy_model import ToyModel

from multispin_coordinator import dispatcher as dispatcher_module
from multispin_coordinator.dispatcher import Dispatcher, Send, Wanted
from multispin_coordinator.offers import OfferedFile, OfferReader
from multispin_models.messages import (
    PROTOCOL_VERSION,
    DraftOffer,
    FileChunk,
    FileWanted,
    Hello,
    Refused,
    Welcome,
    encode,
)

OFFER = DraftOffer("better.gguf", "a" * 64, 10, "Q8_0")


def test_an_offer_comes_with_the_welcome_to_agents_that_know_what_it_is() -> None:
    for offer in (OFFER, None):
        dispatcher = Dispatcher(ToyModel().info, ENDS, LIMITS, offer=offer)
        for version in (PROTOCOL_VERSION - 1, PROTOCOL_VERSION):
            hello = Hello(version, f"v{version}", "1", "toy", "toy", "i")
            sends = dispatcher.on_frame(b"v%d" % version, [encode(hello, version)], 0)
            kinds = [type(send.message) for send in sends]
            assert kinds == ([Welcome, DraftOffer] if offer and version == PROTOCOL_VERSION else [Welcome])


def test_parts_are_taken_up_to_a_bound_and_other_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "MAX_WANTED", 2)
    dispatcher = Dispatcher(ToyModel().info, ENDS, LIMITS, offer=OFFER)
    dispatcher.on_frame(b"a", [encode(Hello(PROTOCOL_VERSION, "a", "1", "toy", "toy", "i"))], 0)
    [refused] = dispatcher.on_frame(b"a", [encode(FileWanted("b" * 64, 0, 5))], 0)
    assert isinstance(refused.message, Refused)
    assert refused.message.code == "no_such_file"
    wanted = [FileWanted("a" * 64, offset, 5) for offset in range(3)]
    assert [dispatcher.on_frame(b"a", [encode(each)], 0) for each in wanted] == [[], [], []]
    assert dispatcher.take_wanted() == [Wanted(b"a", each) for each in wanted[:2]]
    assert dispatcher.take_wanted() == []
    assert dispatcher.counters["ignored_wanted_files"] == 1


def test_parts_are_read_from_the_file_and_behind_its_end_there_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "better.gguf"
    path.write_bytes(b"0123456789")
    sent: list[Send] = []

    async def play() -> None:
        reader = OfferReader(OfferedFile(path, OFFER), sent.extend)
        places = [(0, 4), (4, 4), (8, 4), (10, 4), (2**63, 4)]
        reader.read([Wanted(b"a", FileWanted("a" * 64, offset, count)) for offset, count in places])
        ends = time.monotonic() + 20
        while len(sent) < len(places):
            assert time.monotonic() < ends
            await asyncio.sleep(0.002)
        reader.close()

    asyncio.run(play())
    assert [send.agent for send in sent] == [b"a"] * 5
    chunks = [send.message for send in sent]
    assert all(isinstance(chunk, FileChunk) for chunk in chunks)
    assert [chunk.data for chunk in chunks if isinstance(chunk, FileChunk)] == [b"0123", b"4567", b"89", b"", b""]
