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

from collections.abc import Sequence

from multispin_agent.draft_length import DraftHistory, num_worth_drafting
from multispin_agent.weighing import Weighing
from multispin_models.draft_distribution import DraftDistribution
from multispin_models.messages import MOST_DRAFTED, PRICE_UNIT, Draft, Open, UndecidedVerdict, Verdict, WeighedDraft
from multispin_models.sampling import Sampling
from multispin_models.verification import Rule

__all__ = ["Generation", "Round"]


class Round:
    """What one verdict did.

    Attributes:
        token_ids: committed by it, the accepted ones and the next token.
        next_token_id: of them; null if it is not decided yet.
        ahead_hit: what was drafted ahead began with the next token; null if nothing was drafted ahead.
    """

    def __init__(self, token_ids: list[int], next_token_id: int | None, ahead_hit: bool | None) -> None:
        self.token_ids = token_ids
        self.next_token_id = next_token_id
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
        self.draft_ahead = draft_ahead
        self._end_token_ids = frozenset() if ignore_end else end_token_ids
        self._opened = False
        self._num_opens = 0
        self._resting = False
        self._times_us = (0, 0)
        self._rule: Rule = "coupled"
        self._weighing: Weighing | None = None  # by a rejection rule
        self._extras: tuple[bytes | None, int | None] = (None, None)  # of the draft in flight, by such a rule
        self.limit_draft(num_draft_tokens)

    def limit_draft(self, num_draft_tokens: int) -> None:
        """Draft at most so many tokens a round from now on."""
        self._limit = num_draft_tokens

    def verify_by(self, rule: Rule) -> bool:
        """Take the coordinator's rule before the request is opened; return false if it is another one than before."""
        if self._num_opens:
            return rule == self._rule
        self._rule = rule
        if rule != "coupled" and self.sampling.temperature > 0.0:
            self._weighing = Weighing(rule, self.sampling.seed)
        return True

    @property
    def rule(self) -> Rule:
        """The rule of its rounds."""
        return "coupled" if self._weighing is None else self._weighing.rule

    @property
    def weighs(self) -> bool:
        """Whether drafts are sampled, and say from what; at temperature 0 every rule is the coupled one."""
        return self._weighing is not None

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
        if self.finish or self._resting or most == 0 or self._is_undecided:
            return 0
        if self.alone:
            return int(not self.guess and self.room > 1)
        in_flight = self.flight is not None or not self._opened
        if in_flight and not self.draft_ahead:
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
        # Whether a sampled token is sent must not depend on which token it is: of those left out the target draws anew.
        confidences = [] if self.weighs else self._confidences[held:]
        return num_worth_drafting(confidences, acceptance.tolist(), self._price, most)

    @property
    def _is_undecided(self) -> bool:
        return self._weighing is not None and self._weighing.first_candidate > 0

    def drafted(
        self,
        token_ids: list[int],
        confidences: list[float] | None = None,
        drawn_from: Sequence[DraftDistribution | None] = (),
    ) -> None:
        """Take what the drafter guesses to follow `tokens + guess`; what follows an end token is dropped.

        Args:
            token_ids: guessed.
            confidences: of each, that it is accepted if all before it are; null takes what its place says.
            drawn_from: of each, by a rejection rule.
        """
        for index, token in enumerate(token_ids):
            self.guess.append(token)
            if self._weighing is not None:
                distribution = drawn_from[index]
                assert distribution is not None
                self._weighing.guess.append(distribution)
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
        if self._weighing is not None:
            self._weighing.reopen()
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
            first_candidate=0 if self._weighing is None else self._weighing.first_candidate,
        )

    def can_send(self) -> bool:
        """Return whether a draft is ready and no verdict is awaited."""
        return self._opened and self.flight is None and not self.finish and self.num_to_draft() == 0

    def next_draft(self) -> Draft:
        """Return the Draft of the next round; its tokens are then in flight."""
        assert self.can_send()
        most = min(self._limit, self._allowed, self.room - 1)
        self.flight = () if self._is_undecided else tuple(self.guess[: self._num_worth(0, most)])
        if self._weighing is not None:
            self._extras = self._weighing.send(self.flight), self._weighing.choice
            self._weighing.choice = None
        self.round += 1
        self._times_us = self.history.draft_us, self.history.network_us
        return self._draft_message()

    def _draft_message(self) -> Draft:
        assert self.flight is not None
        if self._weighing is None:
            return Draft(self.request_id, self.round, len(self.tokens), self.flight, *self._times_us)
        return WeighedDraft(self.request_id, self.round, len(self.tokens), self.flight, *self._times_us, *self._extras)

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
        """Commit what a verdict accepts; return what it did, or None for one that is not awaited.

        Raises:
            WireError: it leaves a choice that is none.
        """
        if self.flight is None or verdict.round != self.round or self.finish:
            return None
        if verdict.num_accepted > len(self.flight):
            return None
        was_undecided = self._is_undecided
        next_token_id: int | None = verdict.next_token_id
        if isinstance(verdict, UndecidedVerdict):
            position = len(self.tokens) + verdict.num_accepted
            decision = None if self._weighing is None else self._weighing.decide(verdict, position)
            if decision is None:
                return None
            next_token_id = decision.token_id
        elif was_undecided:
            return None
        accepted = list(self.flight[: verdict.num_accepted])
        committed = accepted if next_token_id is None else [*accepted, next_token_id]
        if self._opened and not self.alone and not was_undecided:
            self.history.add_round(len(self.flight), verdict.num_accepted)
        is_guessed = next_token_id is not None and self.guess[: len(committed)] == committed
        ahead_hit = is_guessed if len(self.guess) > len(self.flight) else None
        self._drop_guess(len(committed) if is_guessed else len(self.guess))
        self.tokens += committed
        self.flight = None
        self._resting = False
        self._opened = True
        self.finish = self._finish_of(verdict, next_token_id)
        self._go_on(verdict)
        return Round(committed, next_token_id, ahead_hit)

    def commit_unverified(self, token_ids: Sequence[int]) -> None:
        """Commit what nobody has verified, in place of a verdict that does not come."""
        self._drop_guess(len(self.guess))
        self.flight, self.alone = None, False
        self.tokens += token_ids
        if token_ids[-1] in self._end_token_ids:
            self.finish = 1
        elif self.room <= 0:
            self.finish = 2

    def _drop_guess(self, count: int) -> None:
        del self.guess[:count], self._confidences[:count]
        if self._weighing is not None:
            del self._weighing.guess[:count]

    def _finish_of(self, verdict: Verdict, next_token_id: int | None) -> int:
        """Return how the text ends with a verdict; where the agent chose its last token, only the agent can know."""
        if not isinstance(verdict, UndecidedVerdict):
            return verdict.finish
        if next_token_id is None:
            return 0
        return 1 if next_token_id in self._end_token_ids else verdict.finish

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
