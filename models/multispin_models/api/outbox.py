"""Text on its way from a generation to a connection that may be slow.

What has not been taken is one string: a slow reader gets fewer and longer pieces, and no more than the text of its own
request is ever held. The generation does not wait for the reader, so it frees its slot as soon as the text is written.
"""

import asyncio

__all__ = ["Outbox"]


class Outbox:
    """Holds the text of one request that waits to be sent."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._filled = asyncio.Event()
        self._closed = False

    def put(self, text: str) -> None:
        """Add a piece of text."""
        self._pieces.append(text)
        self._filled.set()

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._filled.set()

    async def take(self, patience_s: float) -> str | None:
        """Return all the text that is here, waiting for some; "" if none came in time, None when there is no more."""
        if not self._filled.is_set():
            try:
                async with asyncio.timeout(patience_s):
                    await self._filled.wait()
            except TimeoutError:
                return ""
        text = "".join(self._pieces)
        self._pieces.clear()
        if not self._closed:
            self._filled.clear()
        return (text or None) if self._closed else text
