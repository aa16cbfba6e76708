"""What a request's guesses were drawn from, and the choice after a rejection: the agent's part of the rejection rules.

    rejection         every draft carries the distributions of its tokens; the verdict is the coordinator's
    rejection-lean    every draft carries the weight of its tokens alone. After a rejection the coordinator sends draws
                      from the target; the first that passes here is the next token; the next draft says which it was

If none passes, an empty draft asks for more of them. Until then the position is undecided, and what was rejected there
is kept, also over a reconnect: a fresh token of the target in its place would change the distribution of the text.
No I/O.
"""

from collections.abc import Sequence
from typing import NamedTuple

from multispin_models.draft_distribution import DraftDistribution
from multispin_models.draft_payload import pack_distributions, pack_weights, unpack_candidates
from multispin_models.messages import UndecidedVerdict
from multispin_models.verification import Rule, choose_candidate

__all__ = ["Decision", "Weighing"]


class Decision(NamedTuple):
    """What became of an undecided verdict: the token that was taken, null if no draw passed."""

    token_id: int | None


class Weighing:
    """The state of one request.

    Args:
        rule: not the coupled one.
        seed: of the request.

    Attributes:
        guess: what each guessed token was drawn from.
        choice: to be sent with the next draft; null if there is none to make.
    """

    def __init__(self, rule: Rule, seed: int) -> None:
        self.rule: Rule = rule
        self.guess: list[DraftDistribution] = []
        self.choice: int | None = None
        self._seed = seed
        self._flight: tuple[DraftDistribution, ...] = ()
        self._undecided: tuple[DraftDistribution, int] | None = None  # what was rejected, and the next draw's number

    @property
    def first_candidate(self) -> int:
        """Number of the draw from which on an undecided position goes on; 0 if it is decided."""
        return 0 if self._undecided is None else self._undecided[1]

    def send(self, token_ids: Sequence[int]) -> bytes | None:
        """Return what the first guesses were drawn from, as their draft carries it; they are then in flight."""
        self._flight = tuple(self.guess[: len(token_ids)])
        if not token_ids:
            return None
        if self.rule == "rejection":
            return pack_distributions(self._flight)
        pairs = zip(self._flight, token_ids, strict=True)
        return pack_weights([drawn_from.weight(token) for drawn_from, token in pairs])

    def reopen(self) -> None:
        """Forget what was sent: an Open carries all that is committed."""
        self._flight, self.choice = (), None

    def decide(self, verdict: UndecidedVerdict, position: int) -> Decision | None:
        """Choose among draws; None for a verdict that does not answer what was sent.

        Args:
            verdict: of this round.
            position: of the token to be chosen in its sequence.

        Raises:
            WireError: it holds no candidates.
        """
        if self._undecided is not None:
            drawn_from, first = self._undecided
        elif verdict.num_accepted < len(self._flight):
            drawn_from, first = self._flight[verdict.num_accepted], 0
        else:
            return None
        if self.rule != "rejection-lean" or verdict.first != first:
            return None
        candidates = unpack_candidates(verdict.candidates)
        taken = choose_candidate(candidates, drawn_from, self._seed, position, first)
        if taken is None:
            self._undecided, self.choice = (drawn_from, first + len(candidates)), len(candidates)
            return Decision(None)
        self._undecided, self.choice = None, taken
        return Decision(candidates[taken].token_id)
