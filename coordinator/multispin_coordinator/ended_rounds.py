"""The last round of requests that have ended, so that a late copy of an Open begins none of their rounds anew.

(request, round) must name one question for an agent. A copy of an Open that comes when its text has ended would open
the same round again, and what the control decides the second time can be another thing than the first time, whose
verdicts may still be on their way.
"""

from typing import Final

__all__ = ["EndedRounds"]

MOST: Final = 65_536


class EndedRounds:
    """Last rounds by agent and request, the oldest first.

    Args:
        keep_s: how long one is kept after the end.
        most: that are kept.
    """

    def __init__(self, keep_s: float, most: int = MOST) -> None:
        self._keep_ns = int(keep_s * 1e9)
        self._most = most
        self._ended: dict[tuple[bytes, int], tuple[int, int]] = {}  # round, clock

    def add(self, agent: bytes, request_id: int, last_round: int, now_ns: int) -> None:
        """Take a request that ends now."""
        before, _ = self._ended.pop((agent, request_id), (last_round, 0))
        self._ended[agent, request_id] = max(before, last_round), now_ns
        while self._ended:
            oldest = next(iter(self._ended))
            if len(self._ended) <= self._most and self._ended[oldest][1] >= now_ns - self._keep_ns:
                break
            del self._ended[oldest]

    def last(self, agent: bytes, request_id: int) -> int:
        """Return the last round of a request of an agent, -1 if it is not known."""
        return self._ended.get((agent, request_id), (-1, 0))[0]
