"""Sequences of an engine that are kept after their request, for a next one that begins with the same tokens. No I/O.

A next turn of a conversation is all of the turns before, then what is new: of its prompt only that is computed. One
that begins as a conversation does and then goes another way, as two with the same system prompt do, starts from a copy
of what they share. What is kept takes no memory of its own, since engines hold room for all their sequences from the
start; it goes, the least recently used first, as soon as a request needs the room. On an engine whose rows are the same
in every batch shape a sequence that is cut back holds just what computing its tokens anew would give, so texts do not
change.
"""

from collections.abc import Sequence
from typing import NamedTuple

from multispin_models.ngram import shared_length

__all__ = ["Kept", "KeptSequences"]

LEAST_COPIED = 16  # tokens; fewer are computed as fast as a sequence is copied


class Kept(NamedTuple):
    """A sequence of an engine, and the tokens that it holds first; what is behind them is not known."""

    sequence: int
    token_ids: tuple[int, ...]


class KeptSequences:
    """The kept sequences of one engine, the least recently used first."""

    def __init__(self) -> None:
        self._kept: list[Kept] = []

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, sequence: int, token_ids: Sequence[int]) -> None:
        """Keep a sequence; it is the most recently used one."""
        self._kept.append(Kept(sequence, tuple(token_ids)))

    def take(self, token_ids: Sequence[int]) -> Kept | None:
        """Return the sequence that shares most with a text, no longer kept; None if none is worth being cut back.

        One that would lose more than half of what it holds is left for its own next turn.
        """
        best: Kept | None = None
        most = 0
        for kept in self._kept:
            shared = shared_length(kept.token_ids, token_ids)
            if shared >= max(most, 1) and 2 * shared >= len(kept.token_ids):
                best, most = kept, shared
        if best is not None:
            self._kept.remove(best)
        return best

    def nearest(self, token_ids: Sequence[int]) -> tuple[Kept, int] | None:
        """Return the sequence that shares most with a text, and how many tokens; it stays kept, to be copied from.

        None if none shares so many that copying them is worth it.
        """
        shared = [(shared_length(kept.token_ids, token_ids), place) for place, kept in enumerate(self._kept)]
        most, place = max(shared, default=(0, 0))
        return (self._kept[place], most) if most >= LEAST_COPIED else None

    def take_oldest(self) -> Kept:
        """Return the least recently used sequence, no longer kept; there must be one."""
        return self._kept.pop(0)
