"""The llama.cpp engine on tiny models, and on the default target where real weights matter."""

import ctypes
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import llama_cpp.llama_cpp as lib
import numpy as np
import pytest

from multispin_models.errors import ConfigError, EngineFault, ModelError
from multispin_models.language_model import ChatMessage, Logits, Rows, prefill
from multispin_models.llamacpp import (
    QUANTIZE_RECIPES,
    LlamaCppModel,
    load_llamacpp,
    load_llamacpp_tokenizer,
    quantize_gguf,
)
from multispin_models.probes import probe_exactness
from multispin_models.vocabulary import vocabulary_hash

N_VOCAB = 261
TEXT = (
    "The coordinator verifies what the agents draft. A draft is a guess at the next tokens, made by a small model that "
    "runs close to the user; the target reads all of it in one pass and keeps the part on which both agree. "
)


def load(path: Path, **changes: int) -> LlamaCppModel:
    return load_llamacpp(path, **{"n_ctx": 128, "max_sequences": 4, "max_rows": 16, "num_threads": 1, **changes})


@pytest.fixture
def tiny(tiny_gguf: Callable[[str], Path]) -> Iterator[LlamaCppModel]:
    model = load(tiny_gguf("llama"))
    yield model
    model.close()


def row_by_row(model: LlamaCppModel, tokens: list[int]) -> Logits:
    sequence = model.open_sequence()
    rows = [model.forward([Rows(sequence, [token], 1)])[0].copy() for token in tokens]
    model.close_sequence(sequence)
    return np.concatenate(rows)


def test_a_pass_that_fails_leaves_the_sequences_as_they_were(tiny: LlamaCppModel) -> None:
    """Aborted from outside, as llama.cpp allows: it returns 2 and may keep what it had computed."""
    expected = row_by_row(tiny, [5, 6, 7])
    one, two = tiny.open_sequence(), tiny.open_sequence()
    tiny.forward([Rows(one, [5, 6], 0)])
    calls = iter(range(1_000_000))
    # The batch takes two passes (unequal rows); the first is let through.
    abort = lib.ggml_abort_callback(lambda _data: next(calls) > 40)
    lib.llama_set_abort_callback(tiny._context, abort, None)
    with pytest.raises(EngineFault, match=r"llama_decode returned 2 .*was cut back"):
        tiny.forward([Rows(one, [7], 1), Rows(two, [5, 6, 7], 3)])
    lib.llama_set_abort_callback(tiny._context, ctypes.cast(None, lib.ggml_abort_callback), None)
    assert (tiny.length(one), tiny.length(two)) == (2, 0)
    of_one, of_two = tiny.forward([Rows(one, [7], 1), Rows(two, [5, 6, 7], 3)])
    np.testing.assert_array_equal(of_one, expected[2:])
    np.testing.assert_array_equal(of_two, expected)


def test_a_rewind_that_llama_cpp_did_not_do_is_an_engine_fault(
    tiny: LlamaCppModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence = tiny.open_sequence()
    tiny.forward([Rows(sequence, [5, 6], 0)])
    monkeypatch.setattr(lib, "llama_memory_seq_rm", lambda *_: True)  # says yes, removes nothing
    with pytest.raises(EngineFault, match="holds 2 tokens after it was cut from 2 to 1"):
        tiny.rewind(sequence, 1)


def test_the_info_says_what_is_loaded(tiny: LlamaCppModel, tiny_gguf: Callable[[str], Path]) -> None:
    path = tiny_gguf("llama")
    info = tiny.info
    assert (info.name, info.engine, info.recipe, info.exact) == ("tiny llama", "llamacpp", "F32", None)
    assert (info.n_vocab, info.n_ctx, info.max_sequences, info.max_rows) == (N_VOCAB, 128, 4, 16)
    assert info.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.vocabulary_hash == tiny.tokenizer.vocabulary_hash
    # File-sized weights, and keys and values of 2 layers, 4 sequences of 256 (llama.cpp rounds up), 16 wide, 2 bytes.
    at_least = lib.llama_model_size(tiny._file.model) + 2 * 2 * 4 * 256 * 16 * 2
    assert at_least - 20_000 < info.memory_bytes < at_least + 10_000_000  # the log has two decimals of a MiB


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "cannot be read: No such file"),
        (b"", "starts with b''"),
        (b"PK\x03\x04 a zip", "starts with b'PK"),
        (b"GGUF\x03\x00\x00\x00", "failed to read header"),
    ],
)
def test_a_file_that_is_no_model_is_named_with_its_fault(tmp_path: Path, content: bytes | None, fault: str) -> None:
    path = tmp_path / "some.gguf"
    if content is not None:
        path.write_bytes(content)
    for loader in (load, load_llamacpp_tokenizer):
        with pytest.raises(ModelError, match=rf"some\.gguf.*{fault}"):
            loader(path)


def test_a_file_is_requantized_whole_or_not_at_all(tmp_path: Path, tiny_gguf: Callable[[str], Path]) -> None:
    destination = tmp_path / "out.gguf"
    quantize_gguf(tiny_gguf("llama"), destination, "BF16", 1)
    model = load(destination)
    assert model.info.recipe == "BF16"
    model.close()
    before = destination.read_bytes()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_gguf("llama").read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"cannot write .*broken\.gguf as Q8_0"):
        quantize_gguf(broken, destination, "Q8_0", 1)
    assert destination.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.gguf", "out.gguf"]


def test_an_unknown_recipe_is_refused_with_those_allowed(tmp_path: Path, tiny_gguf: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="recipe is 'Q5', allowed are F32, BF16, Q8_0, Q6_K, Q4_K_M, Q4_0, Q2_K"):
        quantize_gguf(tiny_gguf("llama"), tmp_path / "out.gguf", "Q5", 1)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("recipe", QUANTIZE_RECIPES)
def test_the_default_target_can_be_written_in_every_recipe(
    quantized_target: Callable[[str], Path], recipe: str
) -> None:
    model = load(quantized_target(recipe))
    sequence = model.open_sequence()
    [logits] = model.forward([Rows(sequence, model.tokenizer.encode("The capital of France is"), 1)])
    assert model.info.recipe == recipe
    if recipe in {"F32", "BF16", "Q8_0", "Q6_K"}:  # the others are too coarse for 135M weights
        assert model.tokenizer.token_bytes(int(logits[0].argmax())) == b" Paris"
    model.close()


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["BF16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_every_row_is_the_same_to_the_last_bit_in_every_batch_shape(
    quantized_target: Callable[[str], Path], recipe: str, num_threads: int
) -> None:
    model = load(quantized_target(recipe), n_ctx=124, max_rows=64, num_threads=num_threads)
    if "LLAMAFILE=0 REPACK=0" not in model.info.engine_version:
        pytest.skip(f"not the exact build: {model.info.engine_version}")
    report = probe_exactness(model, budget_s=1e6)  # the context sets the size
    model.close()
    assert report.rows_compared >= 200
    assert (report.rows_different, report.max_difference, report.exact) == (0, 0.0, True)


@pytest.mark.model
def test_rows_are_the_same_across_the_edge_where_the_cache_grows(quantized_target: Callable[[str], Path]) -> None:
    """llama.cpp attends to the cache in steps of 256 cells: a batch across the edge sees more than single rows do."""
    model = load(quantized_target("Q8_0"), n_ctx=512, max_rows=64)
    if "LLAMAFILE=0 REPACK=0" not in model.info.engine_version:
        pytest.skip(f"not the exact build: {model.info.engine_version}")
    tokens = model.tokenizer.encode(TEXT * 8)[:264]
    one, two = model.open_sequence(), model.open_sequence()
    prefill(model, one, tokens[:248], 64)
    model.restore(two, model.save(one))
    single = np.concatenate([model.forward([Rows(one, [token], 1)])[0].copy() for token in tokens[248:]])
    [together] = model.forward([Rows(two, tokens[248:], 16)])
    np.testing.assert_array_equal(single, together)
    model.close()


@pytest.mark.model
def test_the_probe_sees_that_flash_attention_is_not_exact(target_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multispin_models.llamacpp.loading._FLASH_ATTENTION_OFF", 1)
    model = load(target_gguf, n_ctx=144, max_rows=64)
    report = probe_exactness(model, budget_s=1e6)  # 76 tokens of context, 64 compared
    model.close()
    assert not report.exact
    assert report.rows_different > 0
    assert report.max_difference > 0.0


@pytest.mark.model
def test_the_vocabulary_hash_is_that_of_the_file(target_gguf: Path) -> None:
    """Read by the gguf package, without llama.cpp: the same bytes."""
    field = gguf.GGUFReader(target_gguf).get_field("tokenizer.ggml.tokens")
    assert field is not None
    tokens = [field.parts[index].tobytes() for index in field.data]
    assert len(tokens) == 49152
    assert load_llamacpp_tokenizer(target_gguf).vocabulary_hash == vocabulary_hash(tokens)


@pytest.mark.model
@pytest.mark.parametrize("text", ["", "Hello", " two  spaces\n\ttab", "naïve 東京 🚀", "<|im_start|>", "a\0b", TEXT])
def test_the_bytes_of_the_tokens_are_the_text(target_gguf: Path, text: str) -> None:
    tokenizer = load_llamacpp_tokenizer(target_gguf)
    tokens = tokenizer.encode(text)
    assert b"".join(tokenizer.token_bytes(token) for token in tokens) == text.encode()


@pytest.mark.model
def test_a_conversation_becomes_the_tokens_that_the_model_was_trained_on(target_gguf: Path) -> None:
    tokenizer = load_llamacpp_tokenizer(target_gguf)
    prompt = tokenizer.apply_chat_template([ChatMessage("user", "Hi")])
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    tokens = tokenizer.encode(prompt, parse_special=True, add_special=True)
    assert tokens.count(1) == 3  # <|im_start|>: is also the BOS token, and the metadata adds none
    assert tokens.count(2) == 2
    assert tokens[0] == 1
    assert tokenizer.token_bytes(1) == b""
    assert {0, 2} <= tokenizer.end_token_ids
    assert 1 not in tokenizer.end_token_ids


def test_a_prompt_gets_one_beginning_whoever_brings_it(tiny: LlamaCppModel) -> None:
    tokenizer = tiny.tokenizer
    prompt = tokenizer.apply_chat_template([ChatMessage("user", "cat")])
    assert prompt == "<s>cat</s>>"
    with_template = tokenizer.encode(prompt, parse_special=True, add_special=True)
    assert with_template.count(1) == 1
    assert with_template[0] == 1
    assert tokenizer.encode("cat", add_special=True)[0] == 1
    assert 1 not in tokenizer.encode("cat")
    assert 1 not in tokenizer.encode("<s>cat")  # text is text unless special tokens are asked for


def test_a_template_that_refuses_a_conversation_says_why(tiny: LlamaCppModel, tiny_gguf: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match=r"refuses this conversation \(user, tool\): no role tool"):
        tiny.tokenizer.apply_chat_template([ChatMessage("user", "cat"), ChatMessage("tool", "x")])
    without = load_llamacpp_tokenizer(tiny_gguf("gemma2"))
    with pytest.raises(ModelError, match="has no chat template"):
        without.apply_chat_template([ChatMessage("user", "cat")])


def test_a_token_outside_the_vocabulary_has_no_bytes(tiny: LlamaCppModel) -> None:
    for token in (-1, N_VOCAB):
        with pytest.raises(ValueError, match="allowed are 0 to 260"):
            tiny.tokenizer.token_bytes(token)


def test_the_tokenizer_outlives_the_model(tiny_gguf: Callable[[str], Path]) -> None:
    model = load(tiny_gguf("llama"))
    tokenizer = model.tokenizer
    before = tokenizer.encode("the cat")
    model.close()
    del model
    assert tokenizer.encode("the cat") == before
