"""A text that goes on without its coordinator: by the draft model alone, marked, where the settings ask for it.

What the draft writes alone is not the target's text. So it is the last resort of a request whose coordinator has been
silent past the deadline: the user gets an end to the sentence, and is told from where on nobody has verified it. It
stays so to its end, also if the coordinator comes back: there is no text of the target's to go on from any more.
"""

from collections.abc import Awaitable, Callable, Sequence

from multispin_agent.generation import Generation

__all__ = ["DRAFTED_AT_ONCE", "write_unverified"]

DRAFTED_AT_ONCE = 8


async def write_unverified(
    generation: Generation,
    draft: Callable[[Sequence[int], int], Awaitable[list[int]]],
    on_tokens: Callable[[list[int]], bool],
) -> int:
    """Write a request to its end by the draft alone; return the tokens written.

    Args:
        generation: what is committed; guesses are thrown away.
        draft: returns up to so many tokens that follow these, none if it has no guess.
        on_tokens: called with tokens as they are written; returns whether the text has ended otherwise.
    """
    count = 0
    while not generation.finish:
        token_ids = await draft(generation.tokens, min(DRAFTED_AT_ONCE, generation.room))
        if not token_ids:
            return count
        generation.commit_unverified(token_ids)
        count += len(token_ids)
        if on_tokens(token_ids):
            return count
    return count
