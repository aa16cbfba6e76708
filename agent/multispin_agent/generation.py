"""One request on the agent, without I/O: what to send, how far to draft, what a verdict commits.

tokens   what is committed: prompt and text
flight   the draft whose verdict is awaited; () while an Open is answered; None when nothing is under way
guess    what the drafter expects after `tokens`: first the flight, then the bonus token, then the next draft

Drafting ahead is nothing but a longer guess: when the verdict is what was guessed, the rest of the guess is the next
draft, ready to go; when it is not, the guess is thrown away.

How long a draft is, verdicts say: so many tokens at most, and each only while its predicted survival is worth the
price. After a verdict that says `alone` the coordinator goes on by itself: it is as if an empty draft were in flight
after each of its verdicts. Beside that stream the agent may be asked to guess one token at a time, to be compared.
"""

from multispin_agent.draft_length import DraftHistory, num_worth_drafting
from multispin_models.messages import MOST_DRAFTED, PRICE_UNIT, Draft, Open, Verdict
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
        num_draft_tokens: L, the most; verdicts may allow less.
        draft_ahead: whether to draft while a verdict is awaited.
        end_token_ids: the draft stops after one of these; none with `ignore_end`.
        history: of the agent's rounds, and added to.
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
        history: DraftHistory | None = None,
    ) -> None:
        self.history = DraftHistory() if history is None else history
        self.request_id = request_id
        self.tokens = list(prompt_ids)
        self.num_prompt = len(prompt_ids)
        self.sampling = sampling
        self.guess: list[int] = []
        self._confidences: list[float | None] = []  # of the guess
        self.alone = False
        self._allowed = MOST_DRAFTED
        self._price = 0.0
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
        self._times_us = (0, 0)
        self.limit_draft(num_draft_tokens)

    def limit_draft(self, num_draft_tokens: int) -> None:
        """Draft at most so many tokens a round from now on."""
        self._limit = num_draft_tokens

    def begin_with(self, num_draft_tokens: int, price: int) -> None:
        """Draft so many tokens, or by this price in thousandths, until a verdict says otherwise."""
        self._allowed, self._price = num_draft_tokens, price / PRICE_UNIT

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
        most = min(self._limit, self._allowed)
        if self.finish or self._resting or most == 0:
            return 0
        if self.alone:
            return int(not self.guess and self.room > 1)
        in_flight = self.flight is not None or not self._opened
        if in_flight and not self._draft_ahead:
            return 0
        if any(token in self._end_token_ids for token in self.guess):
            return 0
        # The last token is always the target's: a draft that reaches the limit would be one token too long.
        held = len(self.flight or ()) + 1 if in_flight else 0
        wanted = min(held + self._num_worth(held, most), self.room - 1) - len(self.guess)
        return max(0, wanted)

    def _num_worth(self, held: int, most: int) -> int:
        """Return the length of the draft that begins after `held` tokens of the guess."""
        if not self._price:
            return most
        acceptance = self.history.survival.conditional()
        return num_worth_drafting(self._confidences[held:], acceptance.tolist(), self._price, most)

    def drafted(self, token_ids: list[int], confidences: list[float] | None = None) -> None:
        """Take what the drafter guesses to follow `tokens + guess`; what follows an end token is dropped.

        Args:
            token_ids: guessed.
            confidences: of each, that it is accepted if all before it are; null takes what its place says.
        """
        for index, token in enumerate(token_ids):
            self.guess.append(token)
            self._confidences.append(None if confidences is None else confidences[index])
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
        # Above every round that the coordinator can have gone to alone, a token each: nothing late is taken for new.
        self.round += self.room if self._num_opens else 0
        self._num_opens += 1
        self.flight = ()
        self._opened = self.alone = False
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
        most = min(self._limit, self._allowed, self.room - 1)
        self.flight = tuple(self.guess[: self._num_worth(0, most)])
        self.round += 1
        self._times_us = self.history.draft_us, self.history.network_us
        return self._draft_message()

    def _draft_message(self) -> Draft:
        assert self.flight is not None
        return Draft(self.request_id, self.round, len(self.tokens), self.flight, *self._times_us)

    def repeat(self) -> Open | Draft:
        """Return what awaits its verdict once more, to the letter; also an empty draft that was taken for granted."""
        return self._draft_message() if self._opened else self._open_message()

    @property
    def is_opening(self) -> bool:
        """Whether the answer to an Open is awaited."""
        return not self._opened

    def has_missed(self, verdict: Verdict) -> bool:
        """Whether a verdict before this one, which the coordinator gave alone, has not come."""
        return not self.finish and verdict.round > self.round

    def on_verdict(self, verdict: Verdict) -> Round | None:
        """Commit what a verdict accepts; return what it did, or None for one that is not awaited."""
        if self.flight is None or verdict.round != self.round or self.finish:
            return None
        if verdict.num_accepted > len(self.flight):
            return None
        committed = [*self.flight[: verdict.num_accepted], verdict.next_token_id]
        if self._opened and not self.alone:
            self.history.add_round(len(self.flight), verdict.num_accepted)
        ahead_hit = None
        if len(self.guess) > len(self.flight):
            ahead_hit = self.guess[: len(committed)] == committed
        kept = len(committed) if self.guess[: len(committed)] == committed else len(self.guess)
        del self.guess[:kept], self._confidences[:kept]
        self.tokens += committed
        self.flight = None
        self._resting = False
        self._opened = True
        self.finish = verdict.finish
        self._go_on(verdict)
        return Round(committed, ahead_hit)

    def _go_on(self, verdict: Verdict) -> None:
        """Take what a verdict says of the rounds to come."""
        if self.finish:
            self.alone = False
            return
        self.begin_with(verdict.num_draft_tokens, verdict.price)
        self.history.verdict = verdict
        self.alone = verdict.alone
        if self.alone:  # an empty draft is taken for granted
            self.flight = ()
            self.round += 1
