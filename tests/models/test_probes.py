"""The probes on a toy engine that can be broken in chosen ways, and on tiny llama.cpp models."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from multispin_models.errors import EngineFault, LimitError, UnsupportedModel
from multispin_models.language_model import LanguageModel, Logits, ModelInfo, Rows, prefill
from multispin_models.probes import ExactnessReport, probe_exactness, probe_rollback
from multispin_models.vocabulary import vocabulary_hash

N_VOCAB = 50


class ToyModel:
    """Logits are a running sum over the tokens held: exact in every shape, rolled back by forgetting tokens."""

    def __init__(self, *, n_ctx: int = 256, max_sequences: int = 4, max_rows: int = 16) -> None:
        self.texts: dict[int, list[int]] = {}
        self.passes: list[list[int]] = []
        self._info = ModelInfo(
            name="toy",
            fingerprint="0" * 64,
            vocabulary_hash="0" * 64,
            engine="toy",
            engine_version="1",
            recipe="F32",
            n_vocab=N_VOCAB,
            n_ctx=n_ctx,
            max_sequences=max_sequences,
            max_rows=max_rows,
            num_threads=1,
            exact=None,
            memory_bytes=0,
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    def open_sequence(self) -> int:
        free = sorted(set(range(self._info.max_sequences)) - set(self.texts))
        if not free:
            raise LimitError("all sequences are open")
        self.texts[free[0]] = []
        return free[0]

    def close_sequence(self, sequence: int) -> None:
        del self.texts[sequence]

    def length(self, sequence: int) -> int:
        return len(self.texts[sequence])

    def score(self, text: list[int], batch_rows: int) -> Logits:
        places = np.arange(1, len(text) + 1, dtype=np.float32)
        return np.outer(np.sum(np.sin(np.array(text) * places)), np.arange(N_VOCAB)).astype(np.float32)[0]

    def forward(self, batch: Sequence[Rows]) -> list[Logits]:
        rows = sum(len(part.token_ids) for part in batch)
        assert 1 <= rows <= self._info.max_rows
        assert len({part.sequence for part in batch}) == len(batch)
        self.passes.append([len(part.token_ids) for part in batch])
        result = []
        for part in batch:
            scored = []
            for token in part.token_ids:
                self.texts[part.sequence].append(token)
                assert len(self.texts[part.sequence]) <= self._info.n_ctx
                scored.append(self.score(self.texts[part.sequence], rows))
            kept = scored[len(scored) - part.num_logits :]
            result.append(np.stack(kept) if kept else np.empty((0, N_VOCAB), np.float32))
        return result

    def rewind(self, sequence: int, length: int) -> None:
        assert 0 <= length <= len(self.texts[sequence])
        del self.texts[sequence][length:]

    def save(self, sequence: int) -> bytes:
        return np.array(self.texts[sequence], np.int32).tobytes()

    def restore(self, sequence: int, state: bytes) -> None:
        assert self.texts[sequence] == []
        self.texts[sequence] = np.frombuffer(state, np.int32).tolist()

    def close(self) -> None:
        self.texts.clear()


class ShapeDependent(ToyModel):
    """Rounds otherwise in passes of more rows than four."""

    def score(self, text: list[int], batch_rows: int) -> Logits:
        return super().score(text, batch_rows) * np.float32(1.0 + 1e-6 * (batch_rows > 4))


class TwentyRowKernel(ToyModel):
    """Computes a token's place in the cache otherwise in passes of 20 rows or more, as a tiled kernel does."""

    def forward(self, batch: Sequence[Rows]) -> list[Logits]:
        result = super().forward(batch)
        if sum(len(part.token_ids) for part in batch) >= 20:
            self.texts[batch[0].sequence][-1] += 1000
        return result


class Tainted(ToyModel):
    """Its state is a sum that a rewind does not undo, like a recurrent model's without snapshots."""

    def __init__(self) -> None:
        super().__init__()
        self.taint: dict[int, float] = {}

    def rewind(self, sequence: int, length: int) -> None:
        if length:
            self.taint[sequence] = float(len(self.texts[sequence]) - length)
        super().rewind(sequence, length)

    def close_sequence(self, sequence: int) -> None:
        self.taint.pop(sequence, None)
        super().close_sequence(sequence)

    def forward(self, batch: Sequence[Rows]) -> list[Logits]:
        pairs = zip(batch, super().forward(batch), strict=True)
        return [logits + np.float32(self.taint.get(part.sequence, 0.0)) for part, logits in pairs]


class NoRewind(ToyModel):
    def rewind(self, sequence: int, length: int) -> None:
        raise EngineFault("cut refused")


class WrongRestore(ToyModel):
    def restore(self, sequence: int, state: bytes) -> None:
        super().restore(sequence, state)
        self.texts[sequence][0] += 1


class UnsavableToy(ToyModel):
    def save(self, sequence: int) -> bytes:
        raise LimitError("too long")


def test_an_exact_engine_is_found_exact_and_left_as_it_was() -> None:
    model = ToyModel()
    mine = model.open_sequence()
    model.forward([Rows(mine, [3, 4], 0)])
    report = probe_exactness(model, budget_s=0.05)
    assert report == ExactnessReport(report.rows_compared, 0, 0.0, True)
    assert report.rows_compared >= 8 * 4
    assert model.texts == {mine: [3, 4]}


def test_the_probe_computes_the_shapes_that_serving_has() -> None:
    model = ToyModel()
    probe_exactness(model, budget_s=0.05)
    assert [1] in model.passes
    assert [2] in model.passes
    assert [16] in model.passes  # all that a pass takes
    assert any(len(parts) == 3 and len(set(parts)) > 1 for parts in model.passes)  # sequences with unequal rows


@pytest.mark.parametrize("broken", [ShapeDependent, WrongRestore])
def test_a_difference_in_the_last_bit_is_found(broken: Callable[[], ToyModel]) -> None:
    report = probe_exactness(broken(), budget_s=0.05)
    assert not report.exact
    assert 0 < report.rows_different <= report.rows_compared
    assert report.max_difference > 0.0


def test_a_kernel_that_is_used_from_many_rows_on_is_found() -> None:
    model = TwentyRowKernel(max_rows=32)
    assert not probe_exactness(model, budget_s=0.05).exact
    assert probe_exactness(TwentyRowKernel(max_rows=16), budget_s=0.05).exact  # it never gets 20 rows


@pytest.mark.parametrize(
    "model", [ToyModel(max_sequences=1), ToyModel(max_sequences=2), ToyModel(max_rows=1), ToyModel(n_ctx=24)]
)
def test_the_probe_fits_into_a_small_engine(model: ToyModel) -> None:
    report = probe_exactness(model, budget_s=0.05)
    assert report.exact
    assert report.rows_compared >= 8 * 3
    assert model.texts == {}


def test_an_engine_that_cannot_save_is_compared_without() -> None:
    assert probe_exactness(UnsavableToy(), budget_s=0.05).exact


def test_the_probe_waits_for_a_free_sequence() -> None:
    model = ToyModel(max_sequences=1)
    model.open_sequence()
    with pytest.raises(LimitError):
        probe_exactness(model)


def test_a_model_that_rolls_back_passes() -> None:
    model = ToyModel()
    probe_rollback(model)
    assert model.texts == {}


@pytest.mark.parametrize(("broken", "reason"), [(Tainted, "keeps what was taken back"), (NoRewind, "cut refused")])
def test_a_model_that_cannot_be_rolled_back_is_refused(broken: Callable[[], ToyModel], reason: str) -> None:
    model = broken()
    with pytest.raises(UnsupportedModel, match=reason):
        probe_rollback(model)
    assert model.texts == {}


def test_a_trimmed_head_that_leaves_tokens_out_is_no_difference() -> None:
    class Trimmed(ToyModel):
        def score(self, text: list[int], batch_rows: int) -> Logits:
            logits = super().score(text, batch_rows)
            logits[N_VOCAB // 2 :] = -np.inf
            return logits

    probe_rollback(Trimmed())


def test_logits_that_are_no_numbers_do_not_pass() -> None:
    class Broken(ToyModel):
        def score(self, text: list[int], batch_rows: int) -> Logits:
            return np.full(N_VOCAB, np.nan, np.float32)

    with pytest.raises(UnsupportedModel, match="off by nan"):
        probe_rollback(Broken())


def test_a_prompt_is_prefilled_in_chunks_and_only_its_last_row_scored() -> None:
    model: LanguageModel = (toy := ToyModel())
    sequence = model.open_sequence()
    logits = prefill(model, sequence, list(range(10)), 4)
    assert toy.passes == [[4], [4], [2]]
    np.testing.assert_array_equal(logits, [toy.score(list(range(10)), 2)])


def test_the_vocabulary_hash_separates_tokens_and_counts() -> None:
    """sha256 of 02000000 01000000 "a" 02000000 "bc", as sha256sum gives it."""
    assert vocabulary_hash([b"a", b"bc"]) == "cc99f350d7a7f4b99a76ffb35397de57126064e025842d669d9ef5cf7e39c869"
    hashes = {vocabulary_hash(tokens) for tokens in ([], [b""], [b"", b""], [b"ab", b"c"], [b"a", b"bc"], [b"abc"])}
    assert len(hashes) == 6
