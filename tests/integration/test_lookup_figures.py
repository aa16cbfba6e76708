"""`multispin bench lookup` and the lookup arm of `multispin bench alone`: by replay, and exact."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.toy_model import END_TOKEN, ToyModel

from multispin.bench.alone import measure_engine, measure_lookup
from multispin.bench.lookup import LookupFigures, lookup_figures, replay
from multispin_models.lookup_alone import LookupBatch, LookupRound, LookupUser
from multispin_models.sampling import Sampling


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.lists(st.integers(1, 4), min_size=1, max_size=30),
    max_tokens=st.integers(1, 40),
    num_draft_tokens=st.integers(1, 8),
    bounds=st.sampled_from([(1, 1), (1, 4), (2, 4), (4, 4)]),
    ignore_end=st.booleans(),
)
def test_a_replay_gives_the_rounds_of_the_run_itself(
    prompt: list[int], max_tokens: int, num_draft_tokens: int, bounds: tuple[int, int], ignore_end: bool
) -> None:
    ends = frozenset[int]() if ignore_end else frozenset({END_TOKEN})
    batch = LookupBatch(
        ToyModel(n_vocab=8),
        [LookupUser(prompt, Sampling(), max_tokens, ends)],
        num_draft_tokens=num_draft_tokens,
        min_ngram=bounds[0],
        max_ngram=bounds[1],
    )
    batch.prefill()
    while batch.step():
        pass
    [text] = batch.texts
    played = replay(
        prompt, text.token_ids, max_tokens, num_draft_tokens=num_draft_tokens, min_ngram=bounds[0], max_ngram=bounds[1]
    )
    assert played == text.rounds


def test_the_figures_are_those_of_a_text_worked_by_hand() -> None:
    #              1 2 3 1 2 | 9 stands nowhere; 1 2 is followed by 3, then 9; 5 stands nowhere
    rounds = replay([1, 2, 3], [1, 2, 9, 1, 2, 9, 5], 7, num_draft_tokens=2, min_ngram=2, max_ngram=4)
    assert rounds == [
        LookupRound(0, 0, 0),  # "3 1" is new
        LookupRound(2, 2, 0),  # "1 2" was followed by 3 1, and is by 9
        LookupRound(0, 0, 0),  # "2 9" is new: 1
        LookupRound(0, 0, 0),  # "9 1" is new: 2
        LookupRound(2, 1, 1),  # "1 2" was followed by 9 last; the last token is the target's own
    ]
    assert lookup_figures(rounds) == LookupFigures(
        rounds=5, coverage=2 / 5, acceptance_rate=1 / 3, tokens_per_round=6 / 5
    )
    assert lookup_figures([]) == LookupFigures(rounds=0, coverage=None, acceptance_rate=None, tokens_per_round=None)


def test_with_and_without_lookup_the_same_number_of_tokens_is_drawn_and_a_repetition_takes_fewer_passes() -> None:
    prompts = [[1, 2, 3] * 4, [0, 3, 0, 3, 0]]
    plain = measure_engine("toy", ToyModel(), prompts, 20)
    model = ToyModel(n_vocab=4)
    looked_up = measure_lookup("toy", model, prompts, 20, num_draft_tokens=4, min_ngram=1)
    assert looked_up.tokens == plain.tokens == 40
    assert plain.tokens_per_round == 1.0
    assert looked_up.tokens_per_round is not None
    assert looked_up.tokens_per_round > 1.0
    assert len(model.passes) < 2 + 20


@pytest.mark.model
def test_the_command_shows_a_line_for_every_match_and_task(run_multispin: Callable[..., Any], tmp_path: Path) -> None:
    lines = [
        {"question_id": 1, "category": "copy", "turns": ["Repeat three times: one two three four five six."]},
        {"question_id": 2, "category": "chat", "turns": ["Why is the sky blue?"]},
    ]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ran = run_multispin(
        *("bench", "lookup", "--prompts", prompts, "--max-tokens", 24, "--lookup-min-ngram", "1,3", "--json")
    )
    assert ran.status == 0, ran.stderr
    found = ran.summary["lines"]
    assert [(line["task"], line["min_ngram"], line["num_matched"]) for line in found] == [
        *[("all", 1, None), ("all", 1, 1), ("all", 1, 2), ("all", 1, 3), ("all", 1, 4), ("copy", 1, None)],
        *[("chat", 1, None), ("all", 3, None), ("all", 3, 3), ("all", 3, 4), ("copy", 3, None), ("chat", 3, None)],
    ]
    by_task = {line["task"]: line for line in found if line["min_ngram"] == 1 and line["num_matched"] is None}
    assert (
        by_task["copy"]["figures"]["rounds"] + by_task["chat"]["figures"]["rounds"]
        == by_task["all"]["figures"]["rounds"]
    )
    ran = run_multispin(
        *("bench", "alone", "--prompts", prompts, "--max-tokens", 8, "--repeat", 1, "--users", 1),
        *("--draft", "none,lookup", "--lookup-min-ngram", "1,2", "--json"),
    )
    assert ran.status == 0, ran.stderr
    plain, *looked_up = ran.summary["results"]
    assert [arm["name"] for arm in looked_up] == [f"{plain['name']} lookup L=4 n>={n}" for n in (1, 2)]
    assert {arm["tokens"] for arm in (plain, *looked_up)} == {8}
    wrong = run_multispin("bench", "alone", "--prompts", prompts, "--draft", "magic")
    assert wrong.status == 2
    assert "allowed are none, lookup" in wrong.stderr
