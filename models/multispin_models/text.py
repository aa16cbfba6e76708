"""Tokens to text as they come: characters cut between tokens, and stop strings. No I/O."""

import codecs
from collections.abc import Callable, Sequence

__all__ = ["TextAssembler"]


class TextAssembler:
    """The text of one request.

    Args:
        token_bytes: bytes of a token, `Tokenizer.token_bytes`.
        stop: the text ends before the first of these; none may be empty.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], stop: Sequence[str] = ()) -> None:
        self._token_bytes = token_bytes
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""  # may be the beginning of a stop string, so not given out yet
        self.text = ""
        self.num_tokens = 0
        self.stopped = False

    def feed(self, token_ids: Sequence[int]) -> str:
        """Take tokens; return the text that is certain now. After a stop string `stopped` is true.

        The token that completes a stop string is the last that counts in `num_tokens`.
        """
        given = ""
        for token_id in token_ids:
            if self.stopped:
                break
            self.num_tokens += 1
            self._held += self._decoder.decode(self._token_bytes(token_id))
            given += self._release()
        self.text += given
        return given

    def finish(self) -> str:
        """Return the rest: what was held back, and a replacement character for a character cut short."""
        rest = "" if self.stopped else self._held + self._decoder.decode(b"", final=True)
        self._held = ""
        self.text += rest
        return rest

    def _release(self) -> str:
        found = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            released, self._held = self._held[: min(found)], ""
            return released
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        released, self._held = self._held[:cut], self._held[cut:]
        return released


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
