"""Text on its way from a generation to a connection that may be slow.

What has not been taken is one piece: a slow reader gets fewer and longer ones, and no more than the text of its own
request is ever held. The generation does not wait for the reader, so it frees its slot as soon as the text is written.
"""

import asyncio

from multispin_models.provenance import Piece

__all__ = ["Outbox"]


class Outbox:
    """Holds the text of one request that waits to be sent."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._filled = asyncio.Event()
        self._closed = False

    def put(self, piece: Piece) -> None:
        """Add a piece of text."""
        self._pieces.append(piece)
        self._filled.set()

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._filled.set()

    async def take(self, patience_s: float) -> Piece | None:
        """Return all the text that is here, waiting for some; an empty piece if none came in time, None at the end."""
        if not self._filled.is_set():
            try:
                async with asyncio.timeout(patience_s):
                    await self._filled.wait()
            except TimeoutError:
                return Piece("")
        piece = self.take_all()
        if self._closed:
            return piece if piece.text else None
        self._filled.clear()
        return piece

    def take_all(self) -> Piece:
        """Return the text that is here."""
        pieces, self._pieces = self._pieces, []
        return Piece("".join(piece.text for piece in pieces), tuple(span for piece in pieces for span in piece.spans))
