"""The trainable network: the numbers of the ONNX graph, derivatives as finite differences, a loss worked by hand."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gguf")

from tests.onnx_tiny import write_tiny

from multispin_models.distillation.batches import Batch
from multispin_models.distillation.layer_search import drop_layers
from multispin_models.distillation.loss import GrowingHead, grade, head_of
from multispin_models.distillation.network import Student, student_of
from multispin_models.errors import UnsupportedModel
from multispin_models.language_model import Rows
from multispin_models.onnx.weights import read_network


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "llama", tied=True)


def student(path: Path, layers: tuple[int, ...] = (0, 1)) -> Student:
    return student_of(read_network(path), layers, 32)


def test_a_student_with_all_layers_gives_the_logits_of_the_onnx_engine(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from multispin_models.onnx.engine import load_onnx  # noqa: PLC0415
    from multispin_models.onnx.export import export_onnx  # noqa: PLC0415

    export_onnx(tiny, tmp_path / "float32", "float32")
    model = load_onnx(tmp_path / "float32", n_ctx=32, max_sequences=1, max_rows=32, num_threads=1, cache="float32")
    texts = [[1, 5, 70, 200, 33, 258, 7], [9, 9, 100]]
    expected = []
    for text in texts:
        sequence = model.open_sequence()
        expected.append(model.forward([Rows(sequence, text, len(text))])[0].copy())
        model.close_sequence(sequence)
    ours = student(tiny)
    states, _ = ours.forward([np.array(text, np.int32) for text in texts], np.arange(10))
    np.testing.assert_allclose(states @ ours.embedding.T, np.concatenate(expected), atol=2e-4)


def graded_loss(ours: Student, seed: int = 3) -> Callable[[], tuple[float, np.ndarray]]:
    """Return a function that gives loss and gradient of two short texts against a random target."""
    random = np.random.default_rng(seed)
    sequences = [random.integers(0, 261, 9).astype(np.int32), random.integers(0, 261, 5).astype(np.int32)]
    rows = np.array([3, 4, 5, 8, 10, 13])
    top_ids = np.stack([random.permutation(261)[:6] for _ in rows]).astype(np.uint32)
    shares = np.sort(random.dirichlet(np.ones(8), 6)[:, :6])[:, ::-1]
    head_ids = np.arange(0, 250)
    places = np.full(261, -1, np.int32)
    places[head_ids] = np.arange(250)

    def evaluate() -> tuple[float, np.ndarray]:
        states, trace = ours.forward(sequences, rows)
        graded = grade(states, ours.embedding[head_ids], places, top_ids, np.log(shares).astype(np.float16))
        gradient = np.empty_like(ours.vector)
        ours.backward(graded.gradient, trace, gradient)
        return graded.loss, gradient

    return evaluate


def test_the_derivative_by_every_kind_of_weight_is_that_of_finite_differences(tiny: Path) -> None:
    ours = student(tiny)
    evaluate = graded_loss(ours)
    _, gradient = evaluate()
    start, step = 0, 3e-3
    for weights in ours.weights:
        for name, values in weights.items():
            part = slice(start, start + values.size)
            start += values.size
            direction = gradient[part] / np.linalg.norm(gradient[part])
            before = ours.vector[part].copy()
            ours.vector[part] = before + step * direction
            up, _ = evaluate()
            ours.vector[part] = before - step * direction
            down, _ = evaluate()
            ours.vector[part] = before
            assert (up - down) / (2 * step) == pytest.approx(np.linalg.norm(gradient[part]), rel=0.03), name


def test_a_text_does_not_change_what_stands_beside_it(tiny: Path) -> None:
    ours = student(tiny, (1,))
    first, second = np.array([4, 5, 6], np.int32), np.array([7, 8], np.int32)
    both, _ = ours.forward([first, second], np.arange(5))
    alone, _ = ours.forward([second], np.arange(2))
    np.testing.assert_allclose(both[3:], alone, atol=1e-5)


def test_the_loss_of_a_hand_worked_row() -> None:
    """Head of 3 ids, all logits 0, so q = 1/3 each; the target knows id 4 with p = 1/2, the rest is 1/2."""
    places = np.array([-1, -1, 0, 1, 2], np.int32)
    head = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], np.float32)
    graded = grade(
        np.zeros((1, 2), np.float32), head, places, np.array([[4]], np.uint32), np.log([[0.5]]).astype(np.float16)
    )
    p = float(np.exp(np.float16(math.log(0.5)).astype(np.float32)))
    assert graded.loss == pytest.approx(p * math.log(p * 3) + (1 - p) * math.log((1 - p) * 1.5), abs=1e-5)
    # by logits: known 1/3 - p; others 1/3 (1 - (1-p) / (2/3)); times the head
    known, other = 1 / 3 - p, (1 - 1.5 * (1 - p)) / 3
    np.testing.assert_allclose(graded.gradient, [[other + known, other + known]], atol=1e-6)
    assert not graded.same[0]  # argmax of equal logits is the first, the target's choice is the last


def test_a_target_choice_outside_of_the_head_is_never_agreed_with() -> None:
    places = np.array([0, -1], np.int32)
    graded = grade(
        np.ones((1, 1), np.float32), np.ones((1, 1), np.float32), places, np.array([[1, 0]], np.uint32),
        np.log([[0.9, 0.1]]).astype(np.float16), with_gradient=False,
    )  # fmt: skip
    assert not graded.same[0]


def test_a_family_with_biases_is_refused(tmp_path: Path) -> None:
    network = read_network(write_tiny(tmp_path / "q.gguf", "qwen2"))
    with pytest.raises(UnsupportedModel, match="family qwen2 has biases"):
        student_of(network, (0,), 32)


def test_the_layer_whose_absence_costs_least_is_left_out_first(tiny: Path) -> None:
    network, layers = read_network(tiny), (0, 1, 1, 0)
    random = np.random.default_rng(2)
    texts = [random.integers(0, 261, 12).astype(np.int32), random.integers(0, 261, 7).astype(np.int32)]
    rows = np.arange(4, 18)
    top_ids = np.stack([random.permutation(261)[:6] for _ in rows]).astype(np.uint32)
    shares = np.sort(random.dirichlet(np.ones(8), len(rows))[:, :6])[:, ::-1]
    batch = Batch(texts, rows, rows > 9, top_ids, np.log(shares).astype(np.float16))
    head, places = network.head, np.arange(261, dtype=np.int32)

    def loss(left: tuple[int, ...]) -> float:
        states, _ = student_of(network, [layers[place] for place in left], 32).forward(texts, rows)
        return grade(states, head, places, batch.top_ids, batch.top_log_probabilities).loss / len(rows)

    left = (0, 1, 2, 3)
    for found in drop_layers(student_of(network, layers, 32), head, places, batch, 3):
        tried = {each: loss(tuple(place for place in left if place != each)) for each in left}
        assert found.layer == min(tried, key=lambda each: tried[each])
        assert found.loss == pytest.approx(tried[found.layer], rel=1e-5)
        left = tuple(place for place in left if place != found.layer)
        assert found.left == left
    assert len(left) == 1


def test_a_head_grows_by_the_ids_of_a_text_and_shrinks_again(tiny: Path) -> None:
    whole = student(tiny).embedding
    head = GrowingHead(whole, np.array([3, 50, 200], np.int32))
    for text in ([7, 3, 9, 7], list(range(100, 190)), [200, 50], [9, 8]):
        with head.with_ids_of([np.array(text, np.int32), np.array([3], np.int32)]) as (rows, places):
            own = sorted({*text} - {3, 50, 200})
            assert np.flatnonzero(places >= 0).tolist() == sorted([3, 50, 200, *own])
            np.testing.assert_array_equal(rows[places[own]], whole[own])
            np.testing.assert_array_equal(rows[:3], whole[[3, 50, 200]])
            assert len(rows) == 3 + len(own)
    with head.with_ids_of([np.array([50], np.int32)]) as (rows, places):
        assert np.flatnonzero(places >= 0).tolist() == [3, 50, 200]
        assert len(rows) == 3


def test_pytorch_computes_the_same_passes(tiny: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch (GBs with PyPI's CUDA) is an extra of training alone")
    from multispin_models.distillation.torch_network import TorchStudent  # noqa: PLC0415

    ours = student(tiny)
    random = np.random.default_rng(5)
    sequences = [random.integers(0, 261, 9).astype(np.int32), random.integers(0, 261, 30).astype(np.int32)]
    rows = np.array([0, 3, 8, 9, 20, 38])
    expected, trace = ours.forward(sequences, rows)
    by_state = random.normal(size=expected.shape).astype(np.float32)
    derivative = np.empty_like(ours.vector)
    ours.backward(by_state, trace, derivative)
    for reduced, within in ((False, 1e-5), (True, 0.05)):
        theirs = TorchStudent(ours, reduced=reduced)
        states, graph = theirs.forward(sequences, rows)
        found = np.empty_like(ours.vector)
        theirs.backward(by_state, graph, found)
        assert np.linalg.norm(states - expected) < within * np.linalg.norm(expected)
        assert np.linalg.norm(found - derivative) < within * np.linalg.norm(derivative)


def test_pytorch_grades_the_same_rows(tiny: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch (GBs with PyPI's CUDA) is an extra of training alone")
    from multispin_models.distillation.torch_network import TorchStudent  # noqa: PLC0415

    ours = student(tiny)
    random = np.random.default_rng(6)
    head, places = head_of(ours.embedding, np.arange(5, 200, dtype=np.int32))
    states = random.normal(size=(7, ours.embedding.shape[1])).astype(np.float32)
    top_ids = np.stack([random.choice(261, 8, replace=False) for _ in states]).astype(np.uint32)  # some outside
    shares = -np.sort(-random.dirichlet(np.ones(9), len(states)), axis=1)[:, :8]
    graded = ours.grade(states, head, places, top_ids, np.log(shares).astype(np.float16))
    for reduced, within in ((False, 1e-5), (True, 0.05)):
        theirs = TorchStudent(ours, reduced=reduced)
        found = theirs.grade(states, head, places, top_ids, np.log(shares).astype(np.float16))
        assert found.loss == pytest.approx(graded.loss, rel=within)
        assert np.linalg.norm(found.gradient - graded.gradient) < within * np.linalg.norm(graded.gradient)
        np.testing.assert_array_equal(found.same, graded.same)
