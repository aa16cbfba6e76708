"""One request on the agent, without I/O: what to send, how far to draft, what a verdict commits.

tokens   what is committed: prompt and text
flight   the draft whose verdict is awaited; () while an Open is answered; None when nothing is under way
guess    what the drafter expects after `tokens`: first the flight, then the bonus token, then the next draft

Drafting ahead is nothing but a longer guess: when the verdict is what was guessed, the rest of the guess is the next
draft, ready to go; when it is not, the guess is thrown away.
"""

from multispin_models.messages import Draft, Open, Verdict
from multispin_models.sampling import Sampling

__all__ = ["Generation", "Round"]


class Round:
    """What one verdict did.

    Attributes:
        token_ids: committed by it, the accepted ones and the next token.
        ahead_hit: what was drafted ahead began with the next token; null if nothing was drafted ahead.
    """

    def __init__(self, token_ids: list[int], ahead_hit: bool | None) -> None:
        self.token_ids = token_ids
        self.ahead_hit = ahead_hit


class Generation:
    """The state of one request.

    Args:
        request_id: 64 random bits.
        prompt_ids: at least one token.
        sampling: as the coordinator draws.
        max_tokens: most tokens to generate.
        num_draft_tokens: L.
        draft_ahead: whether to draft while a verdict is awaited.
        end_token_ids: the draft stops after one of these; none with `ignore_end`.
    """

    def __init__(
        self,
        request_id: int,
        prompt_ids: list[int],
        sampling: Sampling,
        *,
        max_tokens: int,
        num_draft_tokens: int,
        draft_ahead: bool,
        end_token_ids: frozenset[int],
        ignore_end: bool = False,
    ) -> None:
        self.request_id = request_id
        self.tokens = list(prompt_ids)
        self.num_prompt = len(prompt_ids)
        self.sampling = sampling
        self.guess: list[int] = []
        self.flight: tuple[int, ...] | None = None
        self.round = 0
        self.finish = 0
        self._max_tokens = max_tokens
        self._ignore_end = ignore_end
        self._draft_ahead = draft_ahead
        self._end_token_ids = frozenset() if ignore_end else end_token_ids
        self._opened = False
        self._num_opens = 0
        self._resting = False
        self.limit_draft(num_draft_tokens)

    def limit_draft(self, num_draft_tokens: int) -> None:
        """Draft at most so many tokens a round from now on."""
        self._num_draft_tokens = num_draft_tokens

    @property
    def generated(self) -> list[int]:
        """The text so far, as token ids."""
        return self.tokens[self.num_prompt :]

    @property
    def room(self) -> int:
        """Tokens that may still be committed."""
        return self._max_tokens - (len(self.tokens) - self.num_prompt)

    # -- drafting -----------------------------------------------------------------------------------------------------

    def num_to_draft(self) -> int:
        """Return how many more tokens should be guessed now; 0 when the drafter should rest."""
        if self.finish or self._resting:
            return 0
        in_flight = self.flight is not None or not self._opened
        if in_flight and (not self._draft_ahead or self._num_draft_tokens == 0):
            return 0
        # The last token is always the target's: a draft that reaches the limit would be one token too long.
        held = len(self.flight or ()) + 1 if in_flight else 0
        wanted = min(held + self._num_draft_tokens, self.room - 1) - len(self.guess)
        if any(token in self._end_token_ids for token in self.guess):
            return 0
        return max(0, wanted)

    def drafted(self, token_ids: list[int]) -> None:
        """Take what the drafter guesses to follow `tokens + guess`; what follows an end token is dropped."""
        for token in token_ids:
            self.guess.append(token)
            if token in self._end_token_ids:
                return

    def rest(self) -> None:
        """Let the drafter rest until something is committed: it has no guess to follow `tokens + guess`.

        What is guessed goes out as it is, were it nothing: then the target goes on by itself.
        """
        self._resting = True

    # -- the wire -----------------------------------------------------------------------------------------------------

    def open(self) -> Open:
        """Return the Open that starts the request, or resumes it from what is committed, in a round of its own."""
        self.round += self._num_opens > 0
        self._num_opens += 1
        self.flight = ()
        self._opened = False
        return self._open_message()

    def _open_message(self) -> Open:
        return Open(
            request_id=self.request_id,
            round=self.round,
            token_ids=tuple(self.tokens),
            num_prompt_tokens=self.num_prompt,
            max_tokens=self._max_tokens,
            sampling=self.sampling,
            ignore_end=self._ignore_end,
        )

    def can_send(self) -> bool:
        """Return whether a draft is ready and no verdict is awaited."""
        return self._opened and self.flight is None and not self.finish and self.num_to_draft() == 0

    def next_draft(self) -> Draft:
        """Return the Draft of the next round; its tokens are then in flight."""
        assert self.can_send()
        self.flight = tuple(self.guess[: min(self._num_draft_tokens, self.room - 1)])
        self.round += 1
        return self._draft_message()

    def _draft_message(self) -> Draft:
        assert self.flight is not None
        return Draft(self.request_id, self.round, len(self.tokens), self.flight)

    def repeat(self) -> Open | Draft:
        """Return what awaits its verdict once more, to the letter."""
        return self._draft_message() if self._opened else self._open_message()

    @property
    def is_opening(self) -> bool:
        """Whether the answer to an Open is awaited."""
        return not self._opened

    def on_verdict(self, verdict: Verdict) -> Round | None:
        """Commit what a verdict accepts; return what it did, or None for one that is not awaited."""
        if self.flight is None or verdict.round != self.round or self.finish:
            return None
        if verdict.num_accepted > len(self.flight):
            return None
        committed = [*self.flight[: verdict.num_accepted], verdict.next_token_id]
        ahead_hit = None
        if len(self.guess) > len(self.flight):
            ahead_hit = self.guess[: len(committed)] == committed
        self.guess = self.guess[len(committed) :] if self.guess[: len(committed)] == committed else []
        self.tokens += committed
        self.flight = None
        self._resting = False
        self._opened = True
        self.finish = verdict.finish
        return Round(committed, ahead_hit)
