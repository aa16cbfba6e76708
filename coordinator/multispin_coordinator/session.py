"""One request on the coordinator: its committed tokens, what the target's cache holds of them, and its next job.

A job is rows to feed: what is committed and not yet in the cache, then the draft. A prompt is a job without a draft;
a draft of L tokens in steady state is a job of L + 1 rows. The last L + 1 rows of a job are scored. No I/O.

By the lean rule of rejection the agent chooses the token after a rejection among draws: until its next draft says which
(or that none will do), that token is missing here, and all that is committed is in the cache.

A session that goes on alone gives itself the next job, in the round that its agent would have given it: an empty draft,
or one that was looked up in the text. Its agent does not know it and is told token by token, a round for each.
"""

from collections.abc import Sequence

from multispin_models.draft_payload import Weighed
from multispin_models.kept_sequences import Kept
from multispin_models.messages import Open, Verdict
from multispin_models.ngram import shared_length
from multispin_models.sampling import Sampling
from multispin_models.verification import Rule, Undecided, Verification

__all__ = ["FINISH_END", "FINISH_LENGTH", "GOES_ON", "Session"]

GOES_ON, FINISH_END, FINISH_LENGTH = 0, 1, 2


class Session:
    """A request that an agent opened.

    Args:
        opened: its Open.
        agent: routing id of the agent that owns it.
        max_context_tokens: prompt and text together.
        rule: of its drafts, at a temperature above 0.
    """

    def __init__(self, opened: Open, agent: bytes, max_context_tokens: int, rule: Rule = "coupled") -> None:
        self._asked_rule: Rule = rule
        self.request_id = opened.request_id
        self.agent = agent
        self.sequence: int | None = None
        self.copy_of: int | None = None  # without a sequence: one that a new one starts as a copy of, in the next pass
        self.num_cached = 0  # the first tokens of `tokens` that the sequence holds, and nothing else once cut back
        self.running = False  # its rows are in the pass that the engine computes now
        self.num_reused = 0  # tokens that a kept sequence held when this session took it over
        self.num_faults = 0
        self.tokens: list[int] = []
        self._restart(opened, max_context_tokens)

    def _restart(self, opened: Open, max_context_tokens: int) -> None:
        tokens = list(opened.token_ids)
        self.num_cached = min(_common_prefix(self.tokens[: self.num_cached], tokens), len(tokens) - 1)
        self.tokens = tokens
        self.sampling: Sampling = opened.sampling
        self.rule: Rule = self._asked_rule if opened.sampling.temperature > 0.0 else "coupled"
        self.weighed: Weighed | None = None  # what the job was drawn from
        self.candidates: tuple[int, ...] = ()  # among which the agent chooses
        self.first_candidate = opened.first_candidate  # above 0: the job asks for draws from this number on
        self.ignore_end = opened.ignore_end
        self.end_length = min(opened.num_prompt_tokens + opened.max_tokens, max_context_tokens)
        self.round = opened.round
        self.has_first_token = False  # after the tokens of the Open
        self.verdicts: list[Verdict] = []  # since the agent's last message, which shows that it had those before
        self.job: tuple[int, ...] | None = ()  # the draft to be verified; () is "one token, please"
        self.received_ns = 0
        self.is_opening = True  # the job answers an Open
        self.is_own = False  # the job is the session's own
        self._start_account()

    def reopen(self, opened: Open, max_context_tokens: int) -> None:
        """Start again from the tokens of another Open, keeping what the cache holds of them."""
        assert not self.running
        self._restart(opened, max_context_tokens)

    def expects(self, num_committed: int, choice: int | None, num_drafted: int) -> bool:
        """Return whether a draft follows what is committed: the choice that it makes is one that it has."""
        if not self.candidates:
            return choice is None and num_committed == len(self.tokens)
        if choice is None or choice > len(self.candidates):
            return False
        if choice == len(self.candidates):  # none will do
            return num_committed == len(self.tokens) and num_drafted == 0
        return num_committed == len(self.tokens) + 1 < self.end_length

    def choose(self, choice: int) -> None:
        """Commit the draw that the agent has taken, or ask for those behind them all."""
        if choice < len(self.candidates):
            self.tokens.append(self.candidates[choice])
            self.first_candidate = 0
        else:
            self.first_candidate += len(self.candidates)
            self.num_cached = min(self.num_cached, len(self.tokens) - 1)  # the last one once more, for its logits
        self.candidates = ()

    def submit(
        self,
        round_number: int,
        draft_token_ids: Sequence[int],
        received_ns: int,
        weighed: Weighed | None = None,
    ) -> None:
        """Take a draft as the next job, cut to the room that is left."""
        assert self.job is None
        assert not self.candidates
        room = self.end_length - len(self.tokens)
        assert room >= 1
        self.job = tuple(draft_token_ids[: room - 1])
        self.weighed = weighed
        self.round = round_number
        self.verdicts = []
        self.received_ns = received_ns
        self.is_opening = self.is_own = False
        self._start_account()

    def _start_account(self) -> None:
        self.verify_us = 0
        self.energy_nj: int | None = 0

    def bear(self, verify_us: int, energy_nj: int | None) -> None:
        """Add what a pass with rows of this job took; joules that are not known make the sum unknown."""
        self.verify_us += verify_us
        self.energy_nj = None if energy_nj is None or self.energy_nj is None else self.energy_nj + energy_nj

    def go_on_from(self, kept: Kept) -> None:
        """Take over a sequence; at least the last token is left to be fed, for its logits."""
        self.sequence, self.copy_of = kept.sequence, None
        self.num_cached = self.num_reused = min(shared_length(kept.token_ids, self.tokens), len(self.tokens) - 1)

    def start_from(self, kept: Kept | None, num_shared: int) -> None:
        """Start from a copy of what is shared with a kept sequence, if the next pass has room; null starts anew."""
        self.copy_of = None if kept is None else kept.sequence
        self.num_cached = self.num_reused = min(num_shared, len(self.tokens) - 1)

    def go_on_alone(self, now_ns: int, draft_token_ids: Sequence[int] = ()) -> None:
        """Take as the next job an empty draft, as if the agent had sent it, or one that was looked up."""
        verdicts = self.verdicts
        self.submit(self.round + 1, draft_token_ids, now_ns)
        self.verdicts = verdicts
        self.is_own = True

    def verdicts_from(self, round_number: int) -> list[Verdict]:
        """Return the verdicts from a round on, as far as they are given; none for a round before the agent's last."""
        if not self.verdicts or round_number < self.verdicts[0].round:
            return []
        return self.verdicts[round_number - self.verdicts[0].round :]

    @property
    def num_rows(self) -> int:
        """Rows that the job still has to feed."""
        assert self.job is not None
        return len(self.tokens) - self.num_cached + len(self.job)

    def rows(self, count: int) -> list[int]:
        """Return the next `count` tokens to feed."""
        assert self.job is not None
        committed = self.tokens[self.num_cached : self.num_cached + count]
        return committed + list(self.job[: count - len(committed)])

    def fed(self, count: int) -> None:
        """Note that `count` rows of a prompt, not the last ones, are in the cache."""
        self.num_cached += count

    def commit(self, verification: Verification, end_token_ids: frozenset[int]) -> tuple[int, int, int]:
        """Append what a verification accepted; return (num_accepted, next_token_id, finish).

        An end token among the accepted ends the text there: it becomes the next token, and the last.
        """
        assert self.job is not None
        accepted = list(self.job[: verification.num_accepted])
        next_token = verification.next_token_id
        if not self.ignore_end:
            for index, token in enumerate(accepted):
                if token in end_token_ids:
                    accepted, next_token = accepted[:index], token
                    break
        self.tokens += [*accepted, next_token]
        self.num_cached = len(self.tokens) - 1
        self.has_first_token = True
        self.job = None
        if next_token in end_token_ids and not self.ignore_end:
            return len(accepted), next_token, FINISH_END
        if len(self.tokens) >= self.end_length:
            return len(accepted), next_token, FINISH_LENGTH
        return len(accepted), next_token, GOES_ON

    def commit_undecided(self, verdict: Undecided, end_token_ids: frozenset[int]) -> tuple[int, int, int] | None:
        """Append what was accepted and wait for the agent's choice; return what `commit` does if the text ends in it.

        Whether the text ends with the token that will be chosen: `is_last`.
        """
        assert self.job is not None
        accepted = self.job[: verdict.num_accepted]
        if not self.ignore_end and any(token in end_token_ids for token in accepted):
            return self.commit(Verification(verdict.num_accepted, verdict.candidates[0].token_id), end_token_ids)
        self.tokens += accepted
        self.num_cached = len(self.tokens)
        self.has_first_token = True
        self.job = None
        self.candidates = tuple(token for token, _ in verdict.candidates)
        self.first_candidate = verdict.first
        return None

    @property
    def is_last(self) -> bool:
        """Whether one more token ends the text."""
        return len(self.tokens) + 1 >= self.end_length

    def lost_cache(self) -> None:
        """Forget the sequence after a fault: everything must be fed again."""
        self.sequence = self.copy_of = None
        self.num_cached = self.num_reused = 0


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))
