"""What every back end must do behind `LanguageModel`, bit for bit; BACKENDS names those that are held to it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.models.backends import BACKENDS, FILE_BACKENDS, Backend, Sizes
from tests.onnx_tiny import write_tiny

from multispin_models.cache import silent
from multispin_models.engines import Loaded, load_side
from multispin_models.errors import ConfigError, EngineFault, LimitError, ModelError
from multispin_models.language_model import LanguageModel, Logits, Rows, prefill
from multispin_models.lookup_alone import LookupBatch, LookupUser
from multispin_models.probes import probe_exactness, probe_rollback
from multispin_models.sampling import Sampling
from multispin_models.target_alone import generate_alone


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Backend], Path]:
    """Return the model of a back end, written once; not to be changed."""
    paths: dict[str, Path] = {}

    def make(backend: Backend) -> Path:
        if backend.name not in paths:
            paths[backend.name] = backend.make(tmp_path_factory.mktemp("made"))
        return paths[backend.name]

    return make


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.param
    return found


@pytest.fixture
def model(backend: Backend, made: Callable[[Backend], Path]) -> Iterator[LanguageModel]:
    loaded = backend.load(made(backend), Sizes())
    yield loaded
    loaded.close()


def row_by_row(model: LanguageModel, tokens: list[int]) -> Logits:
    sequence = model.open_sequence()
    rows = [model.forward([Rows(sequence, [token], 1)])[0].copy() for token in tokens]
    model.close_sequence(sequence)
    return np.concatenate(rows)


def test_the_info_says_what_was_asked_for(model: LanguageModel, backend: Backend) -> None:
    info = model.info
    assert info.engine == backend.name.partition(":")[0]
    assert (info.n_ctx, info.max_sequences, info.max_rows, info.num_threads) == Sizes()
    assert info.name
    assert info.fingerprint
    assert info.vocabulary_hash
    assert info.recipe


def test_logits_are_finite_float32_rows_of_the_vocabulary(model: LanguageModel) -> None:
    [logits] = model.forward([Rows(model.open_sequence(), [5, 6, 7], 2)])
    assert (logits.shape, logits.dtype) == ((2, model.info.n_vocab), np.float32)
    assert np.isfinite(logits).all()


def test_parts_come_back_in_the_order_of_the_batch_with_their_own_rows(model: LanguageModel) -> None:
    """Unequal counts and a gap in the numbers, which an engine may compute in several passes or another order."""
    texts = {0: [5, 6, 7, 8], 1: [9], 3: [10, 11]}
    expected = {number: row_by_row(model, tokens) for number, tokens in texts.items()}
    for _ in range(4):
        model.open_sequence()
    model.close_sequence(2)
    batch = [Rows(number, texts[number], len(texts[number])) for number in (3, 0, 1)]
    for rows, logits in zip(batch, model.forward(batch), strict=True):
        np.testing.assert_array_equal(logits, expected[rows.sequence])
    assert [model.length(number) for number in (0, 1, 3)] == [4, 1, 2]


def test_only_the_last_rows_asked_for_are_returned(model: LanguageModel) -> None:
    one, two = model.open_sequence(), model.open_sequence()
    expected = row_by_row(model, [5, 6, 7])
    none, last_two = model.forward([Rows(one, [5, 6, 7], 0), Rows(two, [5, 6, 7], 2)])
    assert none.shape == (0, model.info.n_vocab)
    np.testing.assert_array_equal(last_two, expected[1:])


@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_a_prompt_in_chunks_ends_as_one_token_at_a_time(model: LanguageModel, chunk: int) -> None:
    tokens = list(range(20, 50))
    sequence = model.open_sequence()
    last = prefill(model, sequence, tokens, chunk).copy()
    assert model.length(sequence) == 30
    np.testing.assert_array_equal(last, row_by_row(model, tokens)[-1:])


def test_a_rejected_draft_leaves_no_trace(model: LanguageModel) -> None:
    expected = row_by_row(model, [5, 6, 7, 8])
    sequence = model.open_sequence()
    model.forward([Rows(sequence, [5, 6, 200, 201, 202], 3)])
    model.rewind(sequence, 2)
    assert model.length(sequence) == 2
    [logits] = model.forward([Rows(sequence, [7, 8], 2)])
    np.testing.assert_array_equal(logits, expected[2:])


def test_a_sequence_can_be_emptied_and_used_again(model: LanguageModel) -> None:
    sequence = model.open_sequence()
    first = model.forward([Rows(sequence, [5, 6], 1)])[0].copy()
    model.rewind(sequence, 0)
    [again] = model.forward([Rows(sequence, [5, 6], 1)])
    np.testing.assert_array_equal(first, again)


def test_a_rewind_forward_is_refused(model: LanguageModel) -> None:
    sequence = model.open_sequence()
    model.forward([Rows(sequence, [5, 6], 0)])
    for length in (-1, 3):
        with pytest.raises(ValueError, match=f"holds 2 tokens and cannot be cut back to {length}"):
            model.rewind(sequence, length)
    assert model.length(sequence) == 2


def test_a_closed_sequence_is_given_out_again_empty(model: LanguageModel) -> None:
    assert [model.open_sequence() for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(LimitError, match="all 4 sequences are open"):
        model.open_sequence()
    model.forward([Rows(1, [5, 6], 0)])
    model.close_sequence(1)
    for call in (model.length, model.close_sequence):
        with pytest.raises(ValueError, match="sequence 1 is not open"):
            call(1)
    assert model.open_sequence() == 1
    assert model.length(1) == 0


def test_a_pass_beyond_a_limit_is_refused_and_changes_nothing(model: LanguageModel) -> None:
    one, two = model.open_sequence(), model.open_sequence()
    prefill(model, one, range(120), 16)
    with pytest.raises(LimitError, match=r"120.*(9|129).*128"):
        model.forward([Rows(two, [5], 1), Rows(one, list(range(9)), 1)])
    with pytest.raises(LimitError, match=r"17 rows.*16"):
        model.forward([Rows(two, list(range(17)), 1)])
    assert (model.length(one), model.length(two)) == (120, 0)
    model.forward([Rows(one, list(range(8)), 1)])
    assert model.length(one) == 128, "the context can be filled to its last place"


@pytest.mark.parametrize(
    "batch",
    [
        [Rows(0, [], 0)],
        [Rows(0, [5], 2)],
        [Rows(0, [5], -1)],
        [Rows(0, [5], 1), Rows(0, [6], 1)],
        [Rows(3, [5], 1)],
        [Rows(-1, [5], 1)],
        [Rows(0, [100_000], 1)],
        [Rows(0, [-1], 1)],
        [Rows(0, [1 << 40], 1)],
    ],
    ids=str,
)
def test_a_batch_that_makes_no_sense_is_refused_and_changes_nothing(model: LanguageModel, batch: list[Rows]) -> None:
    model.open_sequence()
    model.forward([Rows(0, [5], 0)])
    with pytest.raises(ValueError, match=r"sequence"):
        model.forward(batch)
    assert model.length(0) == 1


def test_a_saved_sequence_goes_on_in_another_as_it_would_have(model: LanguageModel) -> None:
    expected = row_by_row(model, [5, 6, 7, 8])
    one, two = model.open_sequence(), model.open_sequence()
    model.forward([Rows(one, [5, 6, 7], 0)])
    state = model.save(one)
    model.close_sequence(one)
    model.restore(two, state)
    assert model.length(two) == 3
    [last] = model.forward([Rows(two, [8], 1)])
    np.testing.assert_array_equal(last, expected[3:])
    model.rewind(two, 1)
    [logits] = model.forward([Rows(two, [6, 7], 2)])
    np.testing.assert_array_equal(logits, expected[1:3])


@pytest.mark.parametrize("damage", [lambda state: state[:-5], lambda _: bytes(100)], ids=["cut", "zeros"])
def test_a_damaged_state_is_refused_and_leaves_the_sequence_empty(
    model: LanguageModel, damage: Callable[[bytes], bytes]
) -> None:
    sequence = model.open_sequence()
    model.forward([Rows(sequence, [5, 6, 7], 0)])
    state = model.save(sequence)
    with pytest.raises(ValueError, match="restore needs an empty one"):
        model.restore(sequence, state)
    model.rewind(sequence, 0)
    with pytest.raises(EngineFault, match="no state for sequence 0"):
        model.restore(sequence, damage(state))
    assert model.length(sequence) == 0
    model.restore(sequence, state)
    assert model.length(sequence) == 3


def test_it_passes_both_probes_and_they_leave_nothing_open(model: LanguageModel) -> None:
    probe_rollback(model)
    report = probe_exactness(model, budget_s=0.1)
    if "LLAMAFILE=1" in model.info.engine_version or "REPACK=1" in model.info.engine_version:
        pytest.skip(f"not the exact build: {model.info.engine_version}")
    assert (report.exact, report.rows_different) == (True, 0)
    assert report.rows_compared > 0
    assert [model.open_sequence() for _ in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, seed=5), Sampling(1.0, 20, 0.9, 6)], ids=str)
def test_a_text_is_the_same_token_by_token_and_with_drafts_of_several_users_in_one_pass(
    model: LanguageModel, sampling: Sampling
) -> None:
    users = [LookupUser(prompt, sampling, 24, frozenset()) for prompt in ([5, 6, 7] * 4, [9, 10], [11, 12, 11, 12, 11])]
    alone = [generate_alone(model, *user) for user in users]
    batch = LookupBatch(model, users, num_draft_tokens=4, min_ngram=1)
    batch.prefill()
    while batch.step():
        pass
    batch.close()
    assert [text.token_ids for text in batch.texts] == alone
    assert any(each.num_draft_tokens > each.num_accepted for text in batch.texts for each in text.rounds)


def test_a_model_can_have_fewer_rows_a_pass_than_sequences(backend: Backend, made: Callable[[Backend], Path]) -> None:
    model = backend.load(made(backend), Sizes(max_rows=1))
    expected = row_by_row(model, [5, 6, 7])
    sequence = model.open_sequence()
    np.testing.assert_array_equal(prefill(model, sequence, [5, 6, 7], 1), expected[2:])
    model.close()


def test_a_closed_model_refuses_to_be_used(backend: Backend, made: Callable[[Backend], Path]) -> None:
    model = backend.load(made(backend), Sizes())
    sequence = model.open_sequence()
    model.close()
    model.close()
    with pytest.raises(ValueError, match="sequence 0 is not open"):
        model.forward([Rows(sequence, [5], 1)])


@pytest.mark.parametrize("backend", FILE_BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize("changes", [{"n_ctx": 0}, {"max_sequences": 0}, {"max_rows": 0}, {"num_threads": -1}], ids=str)
def test_a_size_out_of_range_is_refused(
    backend: Backend, made: Callable[[Backend], Path], changes: dict[str, int]
) -> None:
    [(name, value)] = changes.items()
    with pytest.raises(ConfigError, match=f"{name} is {value}, allowed are 1 to"):
        backend.load(made(backend), Sizes(**changes))


@pytest.mark.parametrize("backend", FILE_BACKENDS, ids=lambda backend: backend.name)
def test_more_context_than_trained_is_refused_with_the_file(backend: Backend, made: Callable[[Backend], Path]) -> None:
    path = made(backend)
    with pytest.raises(ModelError, match=f"n_ctx is 512, model .*{path.name} was trained for 256"):
        backend.load(path, Sizes(n_ctx=512))


@pytest.mark.parametrize(
    ("backend", "damage"),
    [
        pytest.param(backend, damage, id=f"{backend.name}-{damage}")
        for backend in FILE_BACKENDS
        for damage in backend.damages
    ],
)
def test_a_damaged_model_is_named_with_its_fault(
    backend: Backend, damage: str, made: Callable[[Backend], Path], tmp_path: Path
) -> None:
    sound = made(backend)
    path = tmp_path / sound.name
    (shutil.copytree if sound.is_dir() else shutil.copy)(sound, path)
    spoil, fault = backend.damages[damage]
    spoil(path)
    with pytest.raises(ModelError) as caught:
        backend.load(path, Sizes())
    assert path.name in str(caught.value)
    assert fault in str(caught.value)


def test_an_export_with_the_vocabulary_of_another_model_is_refused_before_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny(tmp_path / "tiny.gguf", "llama")
    (tmp_path / "pair.toml").write_text('name = "p"\n[target]\nfile = "tiny.gguf"\n[draft]\nfile = "tiny.gguf"\n')
    monkeypatch.setenv("MULTISPIN_CACHE", str(tmp_path / "cache"))

    def load() -> Loaded:
        sizes = Sizes()._asdict()
        return load_side(str(tmp_path / "pair.toml"), "draft", "onnx:int8-block32", **sizes, progress=silent)

    load().model.close()
    [vocabulary] = (tmp_path / "cache").rglob("vocabulary.gguf")
    vocabulary.write_bytes(vocabulary.read_bytes().replace(b"cat", b"dog"))
    with pytest.raises(ModelError, match=rf"{vocabulary.parent.name}: vocabulary\.gguf is of another model"):
        load()
