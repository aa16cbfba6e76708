"""A draft that the coordinator offers is swapped in between two requests, and what does not load changes nothing."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.agent.api.test_service import LONG, PROMPT, alone
from tests.toy_api import Loopback, ToyTokenizer, play, until
from tests.toy_model import ToyModel

from multispin_agent import staging, swapping
from multispin_agent.config import Config
from multispin_agent.draft_source import DraftSource, model_source
from multispin_agent.staging import manifest_path
from multispin_agent.swapping import DraftSwapper
from multispin_coordinator.offers import OfferedFile, OfferReader
from multispin_models.engines import Loaded
from multispin_models.errors import ModelError
from multispin_models.messages import DraftOffer

DATA = b"a better draft" * 9000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULTISPIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(staging, "RETRY_S", 0.2)
    return tmp_path


class Models:
    """What the swapper loads: a toy for every pair; one that was offered may fail."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.opened: list[str] = []

    def open(self, config: Config) -> DraftSource:
        self.opened.append(config.pair)
        is_offered = config.pair.endswith(".toml")
        if is_offered and self.fails:
            raise ModelError("its rows are no numbers")
        model = ToyModel(n_ctx=512, max_sequences=3, noise=0.0 if is_offered else 0.5)
        source = model_source(Loaded(model, ToyTokenizer()), keeps=True)
        name = "better" if is_offered else "toy"
        return source._replace(info=msgspec.structs.replace(source.info, name=name, fingerprint=name))


def offer_to(loopback: Loopback, folder: Path, models: Models) -> DraftSwapper:
    """Have the coordinator offer a file, and the agent take it; it is told so with the next Welcome."""
    path = folder / "better.gguf"
    path.write_bytes(DATA)
    offer = DraftOffer(path.name, hashlib.sha256(DATA).hexdigest(), len(DATA), "Q8_0")
    coordinator = loopback.coordinator
    coordinator.dispatcher._offer = offer
    coordinator._reader = OfferReader(OfferedFile(path, offer), coordinator._send)
    config = msgspec.structs.replace(loopback.service._config, accept_drafts=True, fetch_bytes_per_s=1e9)
    swapper = DraftSwapper(config, loopback.client, loopback.service, models.open, lambda _pair, _engine: None)
    loopback.client._say_hello()
    return swapper


async def text(loopback: Loopback) -> Any:
    status, answer = await loopback.ask("POST", "/v1/completions", PROMPT)
    assert status == 200
    reply = msgspec.json.decode(answer)
    assert reply["choices"][0]["text"] == alone(40)
    return reply["timings"]


def fingerprint(loopback: Loopback) -> str:
    [box] = loopback.coordinator.dispatcher.fleet.table("1", 0).boxes
    return box.draft_fingerprint


def test_it_is_swapped_in_when_no_request_is_open_and_drafts_better(cache: Path) -> None:
    models = Models()

    async def part(loopback: Loopback) -> None:
        before = await text(loopback)
        loopback.target.num_passes_left = 4
        asking = asyncio.create_task(loopback.ask("POST", "/v1/completions", LONG))
        await until(lambda: not loopback.target.gate.is_set(), "a request is under way")
        swapper = offer_to(loopback, cache, models)
        loopback.target.num_passes_left = 2
        loopback.target.gate.set()
        await until(lambda: swapper._swapping, "the file is here, and the request goes on")
        assert models.opened == [], "not while it is open"
        loopback.target.num_passes_left = None
        loopback.target.gate.set()
        assert (await asking)[0] == 200
        await until(lambda: loopback.service.source.info.name == "better", "it is swapped in")
        await until(lambda: fingerprint(loopback) == "better", "the coordinator is told")
        after = await text(loopback)
        assert after["draft_n_accepted"] == after["draft_n"] > before["draft_n_accepted"]
        await until(manifest_path(loopback.service._config.pair).exists, "it is kept for the next start")
        swapper.close()
        loopback.draft, loopback.drafts = ToyModel(n_ctx=512), loopback.service.source

    play(part)
    assert len(models.opened) == 1


def test_a_draft_that_does_not_load_changes_nothing_and_is_not_tried_again(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = Models(fails=True)

    async def part(loopback: Loopback) -> None:
        swapper = offer_to(loopback, cache, models)
        await until(lambda: swapper._refused, "it was tried")
        assert loopback.service.source.info.name == "toy"
        await text(loopback)
        swapper._stager.offer = None
        loopback.client._say_hello()
        await until(lambda: swapper._stager.offer is not None, "it is offered again")
        await asyncio.sleep(0.05)
        swapper.close()
        assert len(models.opened) == 2, "the offered one, and the one before"
        assert not manifest_path(loopback.service._config.pair).exists()

    play(part)
    assert "does not load, the one before goes on: its rows are no numbers" in caplog.text


def test_requests_that_come_while_no_moment_is_idle_wait_for_the_swap(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swapping, "IDLE_PATIENCE_S", 0.05)
    models = Models()

    async def part(loopback: Loopback) -> None:
        loopback.target.num_passes_left = 4
        first = asyncio.create_task(loopback.ask("POST", "/v1/completions", LONG))
        await until(lambda: not loopback.target.gate.is_set(), "a request is under way")
        swapper = offer_to(loopback, cache, models)
        loopback.target.num_passes_left = 2
        loopback.target.gate.set()
        await until(lambda: not loopback.service._may_begin.is_set(), "it has waited long enough")
        second = asyncio.create_task(text(loopback))
        await until(lambda: loopback.api.num_present == 2, "another one comes")
        assert models.opened == []
        loopback.target.num_passes_left = None
        loopback.target.gate.set()
        assert (await first)[0] == 200
        timings = await second
        assert timings["draft_n_accepted"] == timings["draft_n"], "it was drafted by the new one"
        swapper.close()

    play(part)
