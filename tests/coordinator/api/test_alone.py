"""The coordinator's own HTTP interface: the target's text without agents, in the passes that serve agents too."""

import asyncio
from typing import Any

import msgspec
import pytest
from tests.toy_api import Loopback, ToyTokenizer, play, until
from tests.toy_model import ToyModel

from multispin_models.api.settings import HttpSettings
from multispin_models.sampling import Sampling
from multispin_models.target_alone import generate_alone

PROMPT = {"prompt": [1, 2, 3], "max_tokens": 40, "temperature": 0.8, "seed": 5, "ignore_eos": True}
LONG = {**PROMPT, "max_tokens": 400}
DETAILED = HttpSettings(stop_grace_s=0.0, metrics="detailed")


def alone(max_tokens: int, seed: int = 5) -> str:
    target = ToyModel(n_ctx=512)
    ids = generate_alone(target, [1, 2, 3], Sampling(0.8, seed=seed), max_tokens, frozenset())
    return b"".join(map(ToyTokenizer().token_bytes, ids)).decode()


async def reply(loopback: Loopback, body: Any) -> Any:
    status, answer = await loopback.ask("POST", "/v1/completions", body)
    assert status == 200, answer
    return msgspec.json.decode(answer)


def test_the_text_is_the_targets_own_and_its_figures_say_that_nobody_drafted() -> None:
    async def part(loopback: Loopback) -> None:
        loopback.at_coordinator = True
        got = await reply(loopback, PROMPT)
        assert got["choices"][0] == {"text": alone(40), "finish_reason": "length", "index": 0, "logprobs": None}
        assert got["usage"]["completion_tokens"] == got["timings"]["predicted_n"] == 40
        assert (got["timings"]["prompt_n"], got["timings"]["draft_n"]) == (3, 0)
        assert got["metrics"]["speculative_decoding"]["mean_acceptance_length"] is None
        assert "no agent took part" in got["energy"]["agent"]["reason"]
        assert got["energy"]["coordinator"]["joules"] is None
        assert "no meter" in got["energy"]["coordinator"]["reason"]
        assert not any(slot["speculative"] for slot in await loopback.slots())
        await until(loopback.is_idle, "nothing is left")

    play(part, DETAILED)


def test_a_stop_string_ends_the_text_and_the_session_that_could_go_on() -> None:
    whole = alone(40)
    stop = whole[10:14]

    async def part(loopback: Loopback) -> None:
        loopback.at_coordinator = True
        got = await reply(loopback, {**LONG, "stop": stop})
        assert got["choices"][0]["text"] == whole[: whole.index(stop)]
        assert got["choices"][0]["finish_reason"] == "stop"
        await until(loopback.is_idle, "nothing is left")

    play(part)


def test_requests_of_both_ends_share_passes_and_none_changes_anothers_text() -> None:
    async def part(loopback: Loopback) -> None:
        loopback.target.gate.clear()
        asking = []
        for seed in range(4):
            loopback.at_coordinator = seed % 2 == 0
            asking.append(asyncio.create_task(reply(loopback, {**PROMPT, "seed": seed})))
            await until(lambda: len(loopback.coordinator.dispatcher.sessions) == len(asking), "its request is open")
        loopback.target.gate.set()
        texts = [got["choices"][0]["text"] for got in await asyncio.gather(*asking)]
        assert texts == [alone(40, seed) for seed in range(4)]
        mixed = [rows for rows in loopback.target.passes if len(rows) == 4 and 1 in rows and max(rows) > 1]
        assert mixed, "rows of agents and of the coordinator's own users never met in a pass"
        await until(loopback.is_idle, "nothing is left")

    play(part, max_concurrent=4)


@pytest.mark.parametrize("stream", [False, True])
def test_fifty_clients_that_leave_at_once_leave_nothing_behind(stream: bool) -> None:
    async def part(loopback: Loopback) -> None:
        loopback.at_coordinator = True
        loopback.target.num_passes_left = 30
        connections = await asyncio.gather(
            *(loopback.send("POST", "/v1/completions", {**LONG, "seed": n, "stream": stream}) for n in range(50))
        )
        await until(lambda: loopback.alone_api.num_present == 50, "all are served or wait")
        await until(lambda: not loopback.target.gate.is_set(), "the target is held in mid-text")
        for _, writer in connections:
            writer.transport.abort()
        await until(lambda: loopback.alone_api.num_present == 0, "all are gone")
        loopback.target.gate.set()
        await until(loopback.is_idle, "nothing is left")
        assert (await reply(loopback, PROMPT))["choices"][0]["text"] == alone(40)

    play(part, HttpSettings(max_connections=64, max_waiting=48, stop_grace_s=0.0))


def test_a_pass_that_fails_is_computed_again_and_a_target_that_keeps_failing_ends_the_request_with_500() -> None:
    async def part(loopback: Loopback) -> None:
        loopback.at_coordinator = True
        loopback.target.faults = 1
        assert (await reply(loopback, PROMPT))["choices"][0]["text"] == alone(40)
        loopback.target.faults = 100
        status, body = await loopback.ask("POST", "/v1/completions", PROMPT)
        assert (status, msgspec.json.decode(body)["error"]["code"]) == (500, "engine_fault")
        await until(loopback.is_idle, "nothing is left")

    play(part)


def test_a_prompt_beyond_the_bounds_is_refused() -> None:
    async def part(loopback: Loopback) -> None:
        loopback.at_coordinator = True
        status, body = await loopback.ask("POST", "/v1/completions", {**PROMPT, "prompt": [1] * 301})
        assert (status, msgspec.json.decode(body)["error"]["code"]) == (400, "context_length_exceeded")

    play(part)


def test_without_a_key_nothing_is_served() -> None:
    async def part(loopback: Loopback) -> None:
        loopback.at_coordinator = True
        assert (await loopback.ask("POST", "/v1/completions", PROMPT))[0] == 401
        assert (await loopback.ask("GET", "/health"))[0] == 200

    play(part, keys=[b"a-key-of-one-user"])


def test_stopping_ends_what_is_under_way_with_an_error_that_says_so() -> None:
    async def part(loopback: Loopback) -> None:
        loopback.at_coordinator = True
        loopback.target.num_passes_left = 8
        whole, _ = await loopback.send("POST", "/v1/completions", LONG)
        await until(lambda: not loopback.target.gate.is_set(), "the target is held in mid-text")
        await loopback.alone_api.stop()
        loopback.target.gate.set()
        assert (await asyncio.wait_for(whole.read(), 10)).startswith(b"HTTP/1.1 503")

    play(part)


def test_the_second_turn_of_a_conversation_computes_what_is_new() -> None:
    async def part(loopback: Loopback) -> None:
        loopback.at_coordinator = True
        first = await reply(loopback, PROMPT)
        assert (first["timings"]["cache_n"], first["timings"]["prompt_n"]) == (0, 3)
        said = ToyTokenizer().encode(first["choices"][0]["text"])
        prompt = [1, 2, 3, *said, 7, 7]
        second = await reply(loopback, {**PROMPT, "prompt": prompt})
        # The last token of the first turn was chosen and never fed.
        assert (second["timings"]["cache_n"], second["timings"]["prompt_n"]) == (len(prompt) - 3, 3)
        assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == len(prompt) - 3
        target = ToyModel(n_ctx=512)
        ids = generate_alone(target, prompt, Sampling(0.8, seed=5), 40, frozenset())
        assert second["choices"][0]["text"] == b"".join(map(ToyTokenizer().token_bytes, ids)).decode()

    play(part)
