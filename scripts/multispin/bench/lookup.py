"""How often a text's own past says how it goes on, and how often rightly: by replay, exact, without a model.

A draft changes no token, so what a lookup would have drafted for a known text, and what of it would have been accepted,
follows from the text alone. `replay` plays the rounds of one text; `lookup_figures` sums them up.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from multispin_models.lookup_alone import LookupRound
from multispin_models.ngram import NgramIndex, shared_length

__all__ = ["LookupFigures", "lookup_figures", "replay"]


class LookupFigures(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rounds of several texts, summed up.

    Attributes:
        rounds: passes of the target, those without a draft included.
        coverage: share of the rounds with a draft; null without a round.
        acceptance_rate: accepted / drafted; null if nothing was drafted.
        tokens_per_round: 1 + accepted / rounds; null without a round.
    """

    rounds: int
    coverage: float | None
    acceptance_rate: float | None
    tokens_per_round: float | None


def replay(
    prompt_ids: Sequence[int],
    token_ids: Sequence[int],
    max_tokens: int,
    *,
    num_draft_tokens: int,
    min_ngram: int,
    max_ngram: int,
) -> list[LookupRound]:
    """Return the rounds in which a known text would have been written with lookup drafts.

    Args:
        prompt_ids: at least one token.
        token_ids: that the target wrote; the first of them comes with the prompt's pass, in no round.
        max_tokens: that could have been written; a draft leaves room for the target's own last token.
        num_draft_tokens: most that are looked up a round.
        min_ngram, max_ngram: shortest and longest match.

    >>> replay([1, 2, 3, 1, 2], [3, 1, 2, 4], 9, num_draft_tokens=2, min_ngram=1, max_ngram=4)
    [LookupRound(num_matched=3, num_draft_tokens=2, num_accepted=2)]
    """
    index = NgramIndex(min_ngram, max_ngram)
    index.extend([*prompt_ids, *token_ids[:1]])
    rounds: list[LookupRound] = []
    done = 1
    while done < len(token_ids):
        matched, draft = index.find(min(num_draft_tokens, max_tokens - done - 1))
        accepted = shared_length(draft, token_ids[done : done + len(draft)])
        rounds.append(LookupRound(matched if draft else 0, len(draft), accepted))
        index.extend(token_ids[done : done + accepted + 1])
        done += accepted + 1
    return rounds


def lookup_figures(rounds: Iterable[LookupRound]) -> LookupFigures:
    """Return the sums.

    >>> lookup_figures([LookupRound(2, 4, 1), LookupRound(0, 0, 0)]).tokens_per_round
    1.5
    """
    known = list(rounds)
    drafted = sum(each.num_draft_tokens for each in known)
    accepted = sum(each.num_accepted for each in known)
    return LookupFigures(
        rounds=len(known),
        coverage=sum(each.num_draft_tokens > 0 for each in known) / len(known) if known else None,
        acceptance_rate=accepted / drafted if drafted else None,
        tokens_per_round=1.0 + accepted / len(known) if known else None,
    )
