"""`multispin up` as users meet it: the official client of OpenAI, texts that are the target's own, and a clean end."""

import asyncio
import http.client
import json
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from multispin.up_command import tell
from multispin_models.language_model import ChatMessage
from multispin_models.manifest import DEFAULT_PAIR
from multispin_models.prompts import Job
from multispin_models.sampling import Sampling
from multispin_models.target_alone import generate_alone

pytestmark = pytest.mark.model

QUESTION = "Why is the sky blue?"
MAX_TOKENS = 24
KEY = "a-key-for-the-tests-only"


def free_ports(count: int) -> int:
    """Return the first of so many neighbouring free ports."""
    for port in range(20_000, 60_000, count):
        try:
            for offset in range(count):
                with socket.create_server(("127.0.0.1", port + offset)):
                    pass
        except OSError:
            continue
        return port
    raise AssertionError("no free ports")


class Up:
    """`multispin up` with two agents, ready."""

    def __init__(
        self, start_multispin: Callable[..., Any], wait_until: Callable[..., None], folder: Path, num_agents: int = 2
    ) -> None:
        keys = folder / "keys"
        keys.touch(mode=0o600)
        keys.write_text(f"{KEY}\n")
        self.logs = folder / "logs"
        self.port = free_ports(num_agents + 1)
        self.num_agents = num_agents
        self.process = start_multispin(
            *("up", "--agents", num_agents, "--http-port", self.port, "--logs", self.logs, "--policy", "fixed"),
            *("--http-keys-file", keys, "--concurrent-per-agent", 2),
        )
        wait_until("all are ready", lambda: "Ctrl-C" in self.process.stdout or self.process.popen.poll() is not None)
        assert self.process.popen.poll() is None, self.process.stderr

    def client(self, agent: int = 0, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port + agent}/v1", api_key=key, max_retries=0, timeout=60
        )

    def get(self, path: str, agent: int = 0) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port + agent, timeout=30)
        try:
            connection.request("GET", path, headers={"authorization": f"Bearer {KEY}"})
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def is_idle(self, agent: int = 0) -> bool:
        return not any(slot["is_processing"] for slot in self.get("/slots", agent))


@pytest.fixture
def up(start_multispin: Callable[..., Any], wait_until: Callable[..., None], tmp_path: Path, target_alone: Any) -> Up:
    return Up(start_multispin, wait_until, tmp_path)


@pytest.fixture
def client(up: Up) -> Iterator[openai.OpenAI]:
    with up.client() as client:
        yield client


def expected(target_alone: Any, temperature: float = 0.0, seed: int = 0) -> str:
    token_ids = target_alone.token_ids(Job("1", QUESTION, MAX_TOKENS, Sampling(temperature, seed=seed)))
    return target_alone.text(token_ids)


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(
        model=DEFAULT_PAIR,
        messages=[{"role": "user", "content": QUESTION}],
        **{"max_tokens": MAX_TOKENS, "temperature": 0, **fields},
    )


# One start of all daemons for what does not disturb each other.
def test_the_official_client_gets_the_targets_own_text(
    up: Up, client: openai.OpenAI, target_alone: Any, wait_until: Callable[..., None]
) -> None:
    assert [model.id for model in client.models.list()] == [DEFAULT_PAIR]
    greedy, drawn = expected(target_alone), expected(target_alone, 0.8, seed=3)

    with up.client(up.num_agents) as at_coordinator:  # the target alone
        assert ask(at_coordinator).choices[0].message.content == greedy
        history = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": greedy}]
        history.append({"role": "user", "content": "Say it shorter."})
        second = at_coordinator.chat.completions.create(
            model=DEFAULT_PAIR,
            messages=history,  # type: ignore[arg-type]
            max_tokens=MAX_TOKENS,
            temperature=0,
        )
        tokenizer = target_alone.loaded.tokenizer
        text = tokenizer.apply_chat_template([ChatMessage(turn["role"], turn["content"]) for turn in history])
        ids = tokenizer.encode(text, parse_special=True, add_special=True)
        anew = generate_alone(target_alone.loaded.model, ids, Sampling(), MAX_TOKENS, tokenizer.end_token_ids)
        assert second.choices[0].message.content == target_alone.text(anew)
        timings = second.model_extra["timings"]
        assert timings["cache_n"] + timings["prompt_n"] == len(ids)
        assert timings["prompt_n"] < 30 < timings["cache_n"], "the first turn is not computed again"
        drawn_alone = list(ask(at_coordinator, temperature=0.8, seed=3, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in drawn_alone) == drawn
        assert drawn_alone[-1].model_extra["timings"]["draft_n"] == 0
        assert "no agent took part" in drawn_alone[-1].model_extra["energy"]["agent"]["reason"]

    whole = ask(client)
    assert whole.choices[0].message.content == greedy
    assert whole.choices[0].finish_reason == "length"
    assert (whole.usage.completion_tokens, whole.usage.total_tokens - whole.usage.prompt_tokens) == (MAX_TOKENS,) * 2
    assert whole.model_extra["timings"]["draft_n"] >= whole.model_extra["timings"]["draft_n_accepted"] > 0
    assert whole.model_extra["energy"]["agent"]["reason"]

    with up.client(agent=1) as other:
        assert ask(other, temperature=0.8, seed=3).choices[0].message.content == drawn
    chunks = list(ask(client, temperature=0.8, seed=3, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == drawn
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == MAX_TOKENS

    at_agent = client.chat.completions.create(
        model=DEFAULT_PAIR,
        messages=history,  # type: ignore[arg-type]
        max_tokens=MAX_TOKENS,
        temperature=0,
    )
    assert at_agent.choices[0].message.content == second.choices[0].message.content
    timings = at_agent.model_extra["timings"]
    assert timings["cache_n"] + timings["prompt_n"] == len(ids)
    assert timings["prompt_n"] < 30 < timings["draft_cache_n"], "neither end computes the first turn again"
    assert at_agent.usage.prompt_tokens_details.cached_tokens == timings["cache_n"]

    stop = greedy[20:24]
    stopped = ask(client, stop=[stop])
    assert stopped.choices[0].message.content == greedy[: greedy.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"

    turns = [("system", "You are brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", QUESTION)]
    tokenizer = target_alone.loaded.tokenizer
    prompt = tokenizer.apply_chat_template([ChatMessage(role, content) for role, content in turns])
    prompt_ids = tokenizer.encode(prompt, parse_special=True, add_special=True)
    alone = generate_alone(target_alone.loaded.model, prompt_ids, Sampling(), MAX_TOKENS, tokenizer.end_token_ids)
    several = client.chat.completions.create(
        model=DEFAULT_PAIR,
        messages=[{"role": role, "content": content} for role, content in turns],  # type: ignore[misc]
        max_completion_tokens=MAX_TOKENS,
        temperature=0,
    )
    assert several.choices[0].message.content == target_alone.text(alone)
    completion = client.completions.create(model=DEFAULT_PAIR, prompt=prompt, max_tokens=MAX_TOKENS, temperature=0)
    assert completion.choices[0].text == target_alone.text(alone)

    with pytest.raises(openai.BadRequestError) as refusal:
        ask(client, logit_bias={"5": 1})
    assert refusal.value.param == "logit_bias"
    with pytest.raises(openai.BadRequestError, match="prompt has"):
        client.completions.create(model=DEFAULT_PAIR, prompt=[1] * 3000)
    with pytest.raises(openai.NotFoundError, match=DEFAULT_PAIR):
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "x"}])
    with up.client(key="b" * 20) as stranger, pytest.raises(openai.AuthenticationError):
        ask(stranger)

    with ask(client, max_tokens=1500, stream=True, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
        assert not up.is_idle()
    wait_until("the slot of a stream that was closed is free", up.is_idle)
    for log in up.logs.glob("*.log"):
        text = log.read_text()
        assert KEY not in text
        assert "Traceback" not in text


async def _leave(port: int, number: int) -> None:
    """Ask for a long text, read the first bytes of the answer if it is one that has begun, and hang up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"prompt": f"Number {number}", "max_tokens": 1000, "stream": True, "ignore_eos": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {KEY}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    if number % 3 == 0:
        await asyncio.wait({asyncio.ensure_future(reader.read(1))}, timeout=0.3)
    writer.transport.abort()


def test_after_fifty_clients_that_hang_up_the_next_one_is_served_and_nothing_is_left(
    up: Up, client: openai.OpenAI, target_alone: Any, wait_until: Callable[..., None]
) -> None:
    ask(client)
    agent = psutil.Process(up.process.popen.pid).children()[1]
    wait_until("nothing is served", up.is_idle)
    open_files = agent.num_fds()

    async def leave_all() -> None:
        await asyncio.gather(*(_leave(up.port, number) for number in range(50)))

    asyncio.run(leave_all())
    wait_until("all slots are free", up.is_idle)
    wait_until("all connections are closed", lambda: agent.num_fds() <= open_files)
    assert ask(client).choices[0].message.content == expected(target_alone)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_daemons(
    number: signal.Signals, up: Up, wait_until: Callable[..., None], is_alive: Callable[..., bool]
) -> None:
    children = psutil.Process(up.process.popen.pid).children(recursive=True)
    assert len(children) == 3
    up.process.popen.send_signal(number)
    ran = up.process.wait(20)
    assert ran.status == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert not any(is_alive(child) for child in children)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", up.port), timeout=5)


def test_a_coordinator_that_is_killed_is_started_again_and_the_text_goes_on(
    up: Up, client: openai.OpenAI, target_alone: Any
) -> None:
    coordinator = psutil.Process(up.process.popen.pid).children()[0]
    assert "coordinator" in coordinator.cmdline()
    pieces = []
    for chunk in ask(client, stream=True):
        if not pieces:
            coordinator.kill()
        pieces.append(chunk.choices[0].delta.content or "")
    assert "".join(pieces) == expected(target_alone)


def test_what_cannot_be_started_is_said_before_anything_is(run_multispin: Callable[..., Any], tmp_path: Path) -> None:
    ran = run_multispin("up", "--agents", 2, "--http-port", 65_534)
    assert ran.status == 1
    assert "--http-port is 65534, allowed are 1 to 65533" in ran.stderr
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    keys.chmod(0o644)
    for flags, said in (
        (("--http-listen", "0.0.0.0:0"), "is not loopback and no keys are set"),
        (("--http-listen", "127.0.0.1"), "allowed is HOST:PORT"),
        (("--http-listen", "127.0.0.1:0", "--http-keys-file", keys), "allowed is 0600"),
        (("--http-listen", "127.0.0.1:0", "--prompts", keys), "serves users"),
    ):
        if "--prompts" not in flags:
            refused = run_multispin("coordinator", *flags)
            assert refused.status == 1
            assert said in refused.stderr
        ran = run_multispin("agent", *flags)
        assert ran.status == 1
        assert said in ran.stderr
        assert KEY not in ran.stderr
        assert "Traceback" not in ran.stderr


def test_addresses_are_told_to_people_and_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    urls = ["http://127.0.0.1:8080/v1", "http://127.0.0.1:8081/v1"]
    tell(urls, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"agents": urls[:1], "target": urls[1]}
    tell(urls, as_json=False)
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"agent 0  {urls[0]}",
        f"target   {urls[1]}  (alone, without drafts)",
    ]


def test_a_port_that_is_taken_ends_it_with_the_reason(run_multispin: Callable[..., Any], target_alone: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = run_multispin("up", "--http-port", taken.getsockname()[1])
    assert ran.status == 1
    assert "Address already in use" in ran.stderr
    assert "Traceback" not in ran.stderr
