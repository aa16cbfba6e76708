"""The text that the target writes alone, one token a pass: what every cooperative text is compared with."""

from collections.abc import Sequence

from multispin_models.language_model import LanguageModel, Rows, prefill
from multispin_models.sampling import Sampling, choose

__all__ = ["count_differences", "generate_alone"]


def generate_alone(
    model: LanguageModel,
    prompt_ids: Sequence[int],
    sampling: Sampling,
    max_tokens: int,
    end_token_ids: frozenset[int],
) -> list[int]:
    """Return the tokens that follow a prompt, the end token included.

    Args:
        model: the target, with a free sequence.
        prompt_ids: at least one token.
        sampling: how tokens are drawn.
        max_tokens: most tokens to generate; the context is the other bound.
        end_token_ids: the text ends with one of these; an empty set goes on to `max_tokens`.
    """
    length = min(len(prompt_ids) + max_tokens, model.info.n_ctx)
    sequence = model.open_sequence()
    try:
        tokens = list(prompt_ids)
        logits = prefill(model, sequence, tokens, model.info.max_rows)
        while True:
            tokens.append(choose(logits[-1], len(tokens), sampling))
            if tokens[-1] in end_token_ids or len(tokens) >= length:
                return tokens[len(prompt_ids) :]
            [logits] = model.forward([Rows(sequence, tokens[-1:], 1)])
    finally:
        model.close_sequence(sequence)


def count_differences(got: Sequence[int], expected: Sequence[int]) -> int:
    """Return at how many positions two texts differ; a missing or surplus token is a difference.

    >>> count_differences([1, 2, 3], [1, 5])
    2
    """
    same = sum(1 for a, b in zip(got, expected, strict=False) if a == b)
    return max(len(got), len(expected)) - same
