"""The live page in headless Chromium: it loads, follows, shows a request's anatomy, fits a phone, is accessible."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.coordinator.page.test_endpoint import READER, USER, bearer, write
from tests.toy_api import Loopback, play, until

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = next(iter(Path(__file__).parents[3].glob(".venv/axe-core-*/axe.min.js")), None)
# As root it has no sandbox; without the others it looks for hosts of its maker's at every start.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]  # fmt: skip
JUDGED = """axe.run().then((all) => [all.passes.length,
    all.violations.map((one) => [one.id, one.help, one.nodes.map((node) => node.html)])])"""
PHONE = {"width": 360, "height": 740}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: sudo apt install chromium (scripts/test-tools)")


PATIENCE_S = 20.0  # of a busy machine


class Browsed:
    """The page in a browser, and what the browser had to say of it."""

    def __init__(self, page: Any, loopback: Loopback) -> None:
        self.page = page
        self.loopback = loopback
        self.faults: list[str] = []
        self.addresses: set[str] = set()
        page.on("console", lambda told: self.faults.append(told.text) if told.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self.addresses.add(request.url))

    async def open(self) -> None:
        await self.page.goto(f"{self.loopback.alone_http.url}/page")

    async def wait(self, condition: str) -> None:
        """Wait until an expression of the page is true (asked from here: the page's content policy forbids `eval`)."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self.page.evaluate(condition):  # noqa: ASYNC110 - the event is in another process
                await asyncio.sleep(0.02)

    async def text(self) -> str:
        """Return what is committed, as it is on the page."""
        tokens = self.page.locator("#text .tok:not(.rej)")
        return "".join(text for text in await tokens.all_text_contents() if text not in {"⏹", "…"})


def browse(
    part: Callable[[Browsed], Awaitable[None]], *, viewport: dict[str, int] | None = None, **options: Any
) -> None:
    from playwright.async_api import async_playwright  # noqa: PLC0415 - not where there is no browser

    async def run(loopback: Loopback) -> None:
        playing: AbstractAsyncContextManager[Any] = async_playwright()
        async with playing as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = await browser.new_page(viewport=viewport or {"width": 1100, "height": 900})
            page.set_default_timeout(1e3 * PATIENCE_S)
            try:
                await part(Browsed(page, loopback))
            finally:
                await browser.close()
        await until(lambda: loopback.page.num_viewers == 0, "the browser has left")

    play(run, **options)


def test_it_follows_what_happens_and_shows_what_became_of_every_token() -> None:
    async def part(browsed: Browsed) -> None:
        page = browsed.page
        await browsed.open()
        await browsed.wait("document.getElementById('status').textContent === 'live'")
        assert await page.locator("#request-facts").text_content() == "No request yet."
        written = await write(browsed.loopback)
        await browsed.wait("document.querySelector('#request-facts').textContent.includes('ended: length')")
        assert await browsed.text() == written
        [facts] = await page.locator("#request-facts").all_text_contents()
        assert facts.startswith("3 tokens of prompt, 40 written in")
        for kind in ("acc", "rej", "cor"):
            assert await page.locator(f"#text .{kind}").count(), kind
        assert await page.locator("#agents tbody th").all_text_contents() == [" a"]
        assert "not known: the agent has not told yet" in str(await page.locator("#agents").text_content())
        assert await page.locator("#timeline rect").count() >= 10
        assert "passes" in str(await page.locator("#timeline").get_attribute("aria-label"))
        assert await page.locator("#energy-note").text_content() == "Not known: no meter."
        await browsed.wait("document.querySelector('#goodput path.coop').getAttribute('d').length > 20")
        await page.locator("#rejected").uncheck()
        assert not await page.locator("#text .rej").first.is_visible()
        assert browsed.faults == []
        own = browsed.loopback.alone_http.url
        assert all(address.startswith((own, "data:")) for address in browsed.addresses), browsed.addresses

    browse(part)


def test_rounds_are_walked_through_with_the_keyboard_and_pause_holds_the_page() -> None:
    async def part(browsed: Browsed) -> None:
        page = browsed.page
        await write(browsed.loopback)
        await browsed.open()
        await browsed.wait("document.querySelectorAll('#text [role=option]').length > 3")
        await page.locator("#text").focus()
        await page.keyboard.press("Home")
        assert "Round 0: the first token after the prompt" in str(await page.locator("#round").text_content())
        await page.keyboard.press("ArrowRight")
        told = str(await page.locator("#round").text_content())
        assert "Round 1: a draft" in told
        for what in ("at the agent", "network", "queue", "verification", "joules not known"):
            assert what in told
        assert await page.locator("#text").get_attribute("aria-activedescendant") == "round-1"
        assert await page.locator("#text [aria-selected=true]").count() == 1
        await page.get_by_role("button", name="Pause").press("Enter")
        assert await page.get_by_role("button", name="Go on").get_attribute("aria-pressed") == "true"
        requests = await page.locator("#request option").count()
        await write(browsed.loopback)
        held = await page.locator("#request option").count()
        await page.get_by_role("button", name="Go on").press("Enter")
        await browsed.wait(f"document.querySelectorAll('#request option').length === {requests + 1}")
        assert held == requests
        assert browsed.faults == []

    browse(part)


def test_with_keys_it_asks_for_one_and_shows_a_user_figures_without_texts() -> None:
    async def part(browsed: Browsed) -> None:
        page, written = browsed.page, await write(browsed.loopback, bearer(USER))
        await browsed.open()
        await page.get_by_label("Key of this coordinator").fill(USER.decode())
        await page.get_by_role("button", name="Look").click()
        await browsed.wait("document.querySelectorAll('#text [role=option]').length > 3")
        assert set(await browsed.text()) == {"▪"}
        assert "page_keys_file" in str(await page.locator("#texts-note").text_content())
        await page.evaluate("sessionStorage.clear()")
        await page.reload()
        await page.get_by_label("Key of this coordinator").fill(READER.decode())
        await page.get_by_role("button", name="Look").click()
        await browsed.wait("document.querySelectorAll('#text [role=option]').length > 3")
        assert await browsed.text() == written
        assert not any(USER.decode() in address or READER.decode() in address for address in browsed.addresses)

    browse(part, keys=[USER], page_keys=[READER])


@pytest.mark.skipif(AXE is None, reason="no axe-core in .venv: scripts/test-tools brings it where npm is")
def test_it_fits_a_phone_and_is_accessible_in_light_and_dark() -> None:
    async def part(browsed: Browsed) -> None:
        page, grounds = browsed.page, set()
        assert AXE is not None
        await write(browsed.loopback)
        await browsed.open()
        await browsed.wait("document.querySelectorAll('#text [role=option]').length > 3")
        await page.evaluate(AXE.read_text(encoding="utf-8"))
        for width in (PHONE["width"], 1100):
            await page.set_viewport_size({"width": width, "height": PHONE["height"]})
            for scheme in ("light", "dark"):
                await page.emulate_media(color_scheme=scheme)
                grounds.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
                assert await page.evaluate("document.scrollingElement.scrollWidth") <= width
                num_passed, faults = await page.evaluate(JUDGED)
                assert faults == [], (width, scheme)
                assert num_passed > 20, "rules were applied"
        assert len(grounds) == 2
        assert browsed.faults == []

    browse(part, viewport=PHONE)
