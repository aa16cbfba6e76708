"""The draft's sequences over several requests: what a next turn computes, what makes room, what a fault leaves."""

import pytest
from tests.toy_model import ToyModel

from multispin_agent.draft_cache import DraftCache
from multispin_agent.drafter import ModelDrafter
from multispin_models.errors import EngineFault, LimitError
from multispin_models.sampling import Sampling
from multispin_models.target_alone import generate_alone

SYSTEM = [1 + place % 15 for place in range(20)]


def draft(model: ToyModel, cache: DraftCache, prompt: list[int], count: int = 4) -> int:
    """Draft for a request that ends after it, and check the tokens; return how many of its prompt were reused."""
    drafter = ModelDrafter(model, Sampling(), cache)
    drafted = [each.token_id for each in drafter.draft(prompt, count, frozenset(), lambda: False)]
    assert drafted == generate_alone(ToyModel(), prompt, Sampling(), count, frozenset())
    drafter.close()
    return drafter.num_reused


def test_a_next_turn_computes_what_is_new() -> None:
    model = ToyModel()
    cache = DraftCache(model, keeps=True)
    prompt = [1, 2, 3]
    assert draft(model, cache, prompt) == 0
    text = generate_alone(ToyModel(), prompt, Sampling(), 4, frozenset())
    model.passes.clear()
    assert draft(model, cache, [*prompt, *text, 9, 8]) == 6, "all but the token that was drafted last and never fed"
    assert model.passes[0] == [3]
    assert (model.num_open, cache.num_kept) == (1, 1)


def test_the_same_prompt_again_is_fed_its_last_token_for_its_logits() -> None:
    model = ToyModel()
    cache = DraftCache(model, keeps=True)
    assert [draft(model, cache, SYSTEM) for _ in range(2)] == [0, 19]


def test_conversations_that_share_a_system_prompt_compute_it_once_and_keep_their_own_turns() -> None:
    model = ToyModel()
    cache = DraftCache(model, keeps=True)
    one, other = [*SYSTEM, *[5] * 30], [*SYSTEM, *[6] * 30]
    assert draft(model, cache, one) == 0
    model.passes.clear()
    assert draft(model, cache, other) == 20
    assert sum(model.passes[0]) == 30
    assert draft(model, cache, [*one, 4]) >= 50
    assert draft(model, cache, [*other, 4]) >= 50
    assert cache.num_kept == 2


def test_what_is_kept_makes_room_the_least_recently_used_first() -> None:
    model = ToyModel(max_sequences=2)
    cache = DraftCache(model, keeps=True)
    for prompt in ([1, 2, 3], [4, 5, 6], [1, 2, 3, 9], [7, 8, 9]):
        draft(model, cache, prompt)
        assert model.num_open == cache.num_kept <= 2
    assert draft(model, cache, [1, 2, 3, 9, 5]) == 4
    assert draft(model, cache, [4, 5, 6, 5]) == 0, "it had to go"


def test_a_request_never_waits_for_what_is_kept_and_is_refused_when_all_are_held() -> None:
    model = ToyModel(max_sequences=2)
    cache = DraftCache(model, keeps=True)
    draft(model, cache, [1, 2, 3])
    draft(model, cache, [4, 5, 6])
    held = [cache.open([7, 7])[0], cache.open([8, 8])[0]]
    assert sorted(held) == [0, 1]
    with pytest.raises(LimitError):
        cache.open([9, 9])
    for sequence in held:
        cache.discard(sequence)
    assert model.num_open == 0


def test_a_sequence_on_which_the_engine_failed_is_freed_and_not_kept() -> None:
    model = ToyModel()
    cache = DraftCache(model, keeps=True)
    drafter = ModelDrafter(model, Sampling(), cache)
    model.faults = 1
    with pytest.raises(EngineFault):
        drafter.draft([1, 2, 3], 1, frozenset(), lambda: False)
    drafter.close()
    assert (model.num_open, cache.num_kept) == (0, 0)


def test_a_state_that_cannot_be_restored_leaves_no_sequence_open(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ToyModel()
    cache = DraftCache(model, keeps=True)
    draft(model, cache, [*SYSTEM, *[5] * 30])
    monkeypatch.setattr(model, "save", lambda sequence: b"")
    with pytest.raises(EngineFault):
        cache.open([*SYSTEM, 6])
    assert model.num_open == cache.num_kept == 1


def test_beyond_a_sliding_window_all_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ToyModel()
    cache = DraftCache(model, keeps=True)
    draft(model, cache, [*SYSTEM, *[5] * 30])

    def refuse(sequence: int) -> bytes:
        raise LimitError("longer than the window")

    monkeypatch.setattr(model, "save", refuse)
    assert draft(model, cache, [*SYSTEM, *[6] * 30]) == 0
