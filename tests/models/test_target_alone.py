"""The text that the target writes alone, and the count of what differs from it."""

import numpy as np
import pytest
from tests.toy_model import END_TOKEN, ToyModel

from multispin_models.language_model import Rows
from multispin_models.sampling import Sampling, choose
from multispin_models.target_alone import count_differences, generate_alone


def written_token_by_token(prompt: list[int], sampling: Sampling, max_tokens: int) -> list[int]:
    """Feed everything anew for every token: no cache, no chunks."""
    tokens = list(prompt)
    for _ in range(max_tokens):
        model = ToyModel(max_rows=96)
        [logits] = model.forward([Rows(model.open_sequence(), tokens, 1)])
        tokens.append(choose(logits[0], len(tokens), sampling))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, seed=3), Sampling(1.2, 5, 0.9, 3)])
@pytest.mark.parametrize("length", [1, 4, 5, 30])
def test_it_is_what_feeding_everything_anew_for_every_token_gives(sampling: Sampling, length: int) -> None:
    prompt = [1 + i % 15 for i in range(length)]
    model = ToyModel(max_rows=4)
    assert generate_alone(model, prompt, sampling, 12, frozenset()) == written_token_by_token(prompt, sampling, 12)


def test_the_end_token_is_the_last_and_is_kept() -> None:
    endless = generate_alone(ToyModel(), [1, 2], Sampling(), 20, frozenset())
    end = endless[4]
    assert generate_alone(ToyModel(), [1, 2], Sampling(), 20, frozenset({end})) == endless[: endless.index(end) + 1]


def test_the_context_bounds_the_text() -> None:
    assert len(generate_alone(ToyModel(n_ctx=10), [1, 2, 3], Sampling(), 50, frozenset())) == 7


def test_its_sequence_is_freed_also_after_a_failure() -> None:
    model = ToyModel(max_sequences=1)
    generate_alone(model, [1], Sampling(), 3, frozenset({END_TOKEN}))
    assert model.num_open == 0
    forward = model.forward
    model.forward = lambda batch: [np.full_like(logits, np.nan) for logits in forward(batch)]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="the model is broken"):
        generate_alone(model, [1], Sampling(), 3, frozenset())
    assert model.num_open == 0


@pytest.mark.parametrize(
    ("got", "expected", "differences"),
    [([], [], 0), ([1, 2], [1, 2], 0), ([1, 2], [1, 3], 1), ([1], [1, 2, 3], 2), ([1, 2, 3], [1], 2), ([2, 1], [1], 2)],
)
def test_a_missing_or_surplus_token_is_a_difference(got: list[int], expected: list[int], differences: int) -> None:
    assert count_differences(got, expected) == differences
