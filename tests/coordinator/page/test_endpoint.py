"""The page over HTTP: who is let in, who sees texts, how many may look, what is left when they are gone."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.toy_api import PATIENCE_S, Loopback, play, until

from multispin_coordinator.config import Config, PageName
from multispin_coordinator.page.access import check_page
from multispin_models.errors import ConfigError

PROMPT = {"prompt": [1, 2, 3], "max_tokens": 40, "temperature": 0.8, "seed": 5, "ignore_eos": True}
HERE = "host: 127.0.0.1\r\n"
USER, READER = b"a-key-of-one-user", b"a-key-for-the-page"


def bearer(key: bytes) -> str:
    return HERE + f"authorization: Bearer {key.decode()}\r\n"


class Viewer:
    """One that looks at the stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def event(self) -> Any:
        """Return the next event."""
        line = b""
        while not line.startswith(b"data: "):
            line = await asyncio.wait_for(self._reader.readline(), PATIENCE_S)
            assert line, "the stream has ended"
        return msgspec.json.decode(line[len(b"data: ") :])

    async def until(self, condition: Callable[[Any], object]) -> Any:
        """Return the first event of which a condition holds."""
        while not condition(event := await self.event()):
            pass
        return event

    def leave(self) -> None:
        self._writer.transport.abort()


async def view(loopback: Loopback, headers: str = HERE) -> Viewer:
    loopback.at_coordinator = True
    reader, writer = await loopback.send("GET", "/page/events", headers=headers)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    assert head.startswith(b"HTTP/1.1 200"), head
    assert b"text/event-stream" in head
    return Viewer(reader, writer)


async def refused(loopback: Loopback, headers: str) -> tuple[int, str]:
    loopback.at_coordinator = True
    status, body = await loopback.ask("GET", "/page/events", headers=headers)
    return status, msgspec.json.decode(body)["error"]["code"]


async def write(loopback: Loopback, headers: str = "") -> str:
    """Have an agent write a text; return it."""
    loopback.at_coordinator = False
    status, body = await loopback.ask("POST", "/v1/completions", PROMPT, headers)
    assert status == 200, body
    return str(msgspec.json.decode(body)["choices"][0]["text"])


def text_of(rounds: list[Any]) -> str:
    """Return what was committed in the rounds, as the page puts it together."""
    return "".join("".join([*entry[5][: entry[4]], entry[6]]) for entry in rounds)


def test_a_viewer_sees_what_was_before_it_came_and_what_comes_then() -> None:
    async def part(loopback: Loopback) -> None:
        before = await write(loopback)
        viewer = await view(loopback)
        first = await viewer.event()
        assert first["begin"]["target"] == "toy"
        assert "texts_reason" not in first["begin"] or first["begin"]["texts_reason"] is None
        assert text_of(first["rounds"]) == before
        assert [row["name"] for row in first["agents"]] == ["a"]
        assert first["agents"][0]["reasons"]["power_w"] == "the agent has not told yet"
        assert await write(loopback) == before
        news = await viewer.until(lambda event: event.get("rounds"))
        assert {entry[0] for entry in news["rounds"]} != {first["requests"][0]["key"]}
        viewer.leave()
        await until(lambda: loopback.page.num_viewers == 0, "it has left")
        await until(loopback.is_idle, "nothing is left")

    play(part)


def test_a_page_without_texts_keeps_none() -> None:
    async def part(loopback: Loopback) -> None:
        await write(loopback)
        first = await (await view(loopback)).event()
        assert first["rounds"]
        assert all(entry[5] is None and entry[6] is None for entry in first["rounds"])
        assert 'page = "figures"' in first["begin"]["texts_reason"]

    play(part, page="figures")


def test_a_users_key_opens_the_figures_and_only_a_page_key_the_texts() -> None:
    async def part(loopback: Loopback) -> None:
        text = await write(loopback, bearer(USER))
        assert await refused(loopback, HERE) == (401, "invalid_api_key")
        assert await refused(loopback, bearer(b"a-key-of-nobody-here")) == (401, "invalid_api_key")
        user = await (await view(loopback, bearer(USER))).event()
        assert all(entry[5] is None and entry[6] is None for entry in user["rounds"])
        assert "page_keys_file" in user["begin"]["texts_reason"]
        assert text_of((await (await view(loopback, bearer(READER))).event())["rounds"]) == text
        assert (await loopback.ask("POST", "/v1/completions", PROMPT, bearer(READER)))[0] == 401, (
            "it opens nothing else"
        )
        assert (await loopback.ask("GET", "/page"))[0] == 200, "the files hold nothing of anybody"

    play(part, keys=[USER], page_keys=[READER])


def test_without_keys_the_page_is_for_this_machine_alone() -> None:
    async def part(loopback: Loopback) -> None:
        assert await refused(loopback, "host: evil.example\r\n") == (403, "not_local")
        assert await refused(loopback, HERE + "sec-fetch-site: cross-site\r\n") == (403, "not_local")
        for host in ("localhost:8080", "[::1]:8080", "127.0.0.1:9"):
            (await view(loopback, f"host: {host}\r\nsec-fetch-site: same-origin\r\n")).leave()

    async def nowhere(loopback: Loopback) -> None:
        loopback.at_coordinator = True
        assert (await loopback.ask("GET", "/page"))[0] == 404

    play(part)
    play(nowhere, page="off")


def test_viewers_are_bounded_and_free_their_place() -> None:
    async def part(loopback: Loopback) -> None:
        viewers = [await view(loopback) for _ in range(8)]
        assert await refused(loopback, HERE) == (503, "too_many_viewers")
        viewers[3].leave()
        await until(lambda: loopback.page.num_viewers == 7, "one has left")
        await view(loopback)

    play(part)


def test_before_the_target_is_there_the_page_says_so_and_at_the_end_streams_end() -> None:
    async def early(loopback: Loopback) -> None:
        assert await refused(loopback, HERE) == (503, "loading")

    async def late(loopback: Loopback) -> None:
        viewer = await view(loopback)
        await viewer.event()
        loopback.page.stop()
        await until(lambda: loopback.page.num_viewers == 0, "it was told")

    play(early, opened=False)
    play(late)


def test_the_files_name_no_other_host_and_carry_a_policy_that_would_not_let_them() -> None:
    async def part(loopback: Loopback) -> None:
        loopback.at_coordinator = True
        reader, _ = await loopback.send("GET", "/page")
        answer = (await asyncio.wait_for(reader.read(), PATIENCE_S)).decode()
        assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in answer
        for path in ("/page", "/page/page.css", "/page/page.js", "/page/charts.js"):
            status, body = await loopback.ask("GET", path)
            assert status == 200
            bare = body.replace(b"http://www.w3.org/2000/svg", b"")  # a name, not an address
            assert b"http://" not in bare
            assert b"https://" not in bare

    play(part)


@pytest.mark.parametrize(
    ("page", "users", "readers", "is_refused"),
    [
        ("texts", None, None, False),
        ("texts", "users", None, True),
        ("texts", "users", "readers", False),
        ("figures", "users", None, False),
    ],
)
def test_settings_that_would_show_users_each_others_texts_are_refused(
    page: PageName, users: str | None, readers: str | None, is_refused: bool
) -> None:
    config = Config(page=page, http_keys_file=users, page_keys_file=readers)
    if is_refused:
        with pytest.raises(ConfigError, match="give page_keys_file"):
            check_page(config)
    else:
        check_page(config)
