"""From a target to a draft: its text is a function of seed and number, training goes on where it stopped, files fit."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gguf")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from multispin.cli import main
from multispin_models.cache import file_sha256
from multispin_models.distillation.batches import Batches, batch_of
from multispin_models.distillation.corpus import Conversation, CorpusSettings, open_corpus, read_corpus, write_shard
from multispin_models.distillation.draft_file import assemble_draft, frequent_ids_of, read_trained, write_layers_file
from multispin_models.distillation.loss import frequent_ids
from multispin_models.distillation.network import student_of
from multispin_models.distillation.openings import Passages, draw_opening
from multispin_models.distillation.target_text import generate_corpus, top_of
from multispin_models.distillation.training import Progress, Trainer, TrainingSettings
from multispin_models.errors import ConfigError, ModelError
from multispin_models.gguf_metadata import read_gguf_metadata
from multispin_models.gguf_tokenizer import load_gguf_tokenizer
from multispin_models.onnx.engine import load_onnx
from multispin_models.onnx.export import export_onnx
from multispin_models.onnx.weights import read_network

N_CTX = 250
SETTINGS = CorpusSettings("f", "float32", "v", seed=5, max_answer_tokens=12, top=8)
TRAINING = TrainingSettings((0,), steps=12, batch_tokens=200, peak_rate=3e-3, warmup_steps=2, head_size=200, seed=1)


@pytest.fixture(scope="module")
def target(tiny_gguf: Callable[[str], Path]) -> Path:
    return tiny_gguf("llama")


@pytest.fixture(scope="module")
def write_text(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Conversation]]:
    exported = tmp_path_factory.mktemp("exported") / "float32"
    export_onnx(target, exported, "float32")

    def write(
        folder: Path,
        count: int,
        side_by_side: int,
        prompts: tuple[str, ...] = (),
        first_number: int = 0,
        passages: Passages | None = None,
        max_rows: int = 32,
        show: Callable[[int, int], None] = lambda *_: None,
    ) -> list[Conversation]:
        model = load_onnx(
            exported, n_ctx=N_CTX, max_sequences=side_by_side, max_rows=max_rows, num_threads=1, cache="float32"
        )
        try:
            tokenizer = load_gguf_tokenizer(target)
            generate_corpus(model, tokenizer, folder, SETTINGS, count, show, prompts, first_number, passages)
        finally:
            model.close()
        return sorted((c for _, part in read_corpus(folder) for c in part), key=lambda c: c.number)

    return write


@pytest.fixture(scope="module")
def corpus(write_text: Callable[..., list[Conversation]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_text(folder, 9, 4)
    return folder


def test_a_conversation_is_the_same_whatever_is_written_beside_it(
    write_text: Callable[..., list[Conversation]], corpus: Path, tmp_path: Path
) -> None:
    write_text(tmp_path, 4, 2)  # stopped after four, then gone on with, in other company
    again = write_text(tmp_path, 9, 3)
    before = sorted((c for _, part in read_corpus(corpus) for c in part), key=lambda c: c.number)
    assert [c.number for c in again] == list(range(9))
    for one, other in zip(before, again, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        assert (one.task, one.temperature, one.answer_start) == (other.task, other.temperature, other.answer_start)


def test_a_corpus_may_begin_at_any_number_and_be_one_with_another(
    write_text: Callable[..., list[Conversation]], corpus: Path, tmp_path: Path
) -> None:
    write_text(tmp_path / "behind", 3, 2, first_number=6)
    [(_, behind)] = read_corpus(tmp_path / "behind")
    write_text(tmp_path / "before", 6, 3)
    for shard in sorted((tmp_path / "behind").glob("text-*.npz")):
        shard.rename(tmp_path / "before" / f"text-9{shard.name[6:]}")
    together = write_text(tmp_path / "before", 9, 3)  # there is nothing left to write
    assert [c.number for c in together] == list(range(9))
    assert {c.number for c in behind} == {6, 7, 8}
    whole = sorted((c for _, part in read_corpus(corpus) for c in part), key=lambda c: c.number)
    for one, other in zip(whole, together, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)


def test_likeliest_tokens_stand_for_every_position_behind_the_template(corpus: Path) -> None:
    for _, conversations in read_corpus(corpus):
        for c in conversations:
            assert len(c.top_ids) == len(c.tokens) - c.first_scored
            assert c.first_scored < c.answer_start < len(c.tokens)
            if c.temperature == 0.0:
                answer = c.tokens[c.answer_start :]
                np.testing.assert_array_equal(answer, c.top_ids[c.answer_start - c.first_scored :, 0])


def test_the_users_prompts_are_answered_as_they_stand(
    write_text: Callable[..., list[Conversation]], target: Path, tmp_path: Path
) -> None:
    tokenizer = load_gguf_tokenizer(target)
    for c in write_text(tmp_path, 2, 2, ("cat the cat",)):
        asked = b"".join(tokenizer.token_bytes(int(t)) for t in c.tokens[c.first_scored : c.answer_start])
        assert asked.decode().replace("\u2581", " ").split()[:3] == ["cat", "the", "cat"]


def test_what_an_opening_asks_of_a_passage_is_answered_behind_the_whole_of_it(
    write_text: Callable[..., list[Conversation]], target: Path, tmp_path: Path
) -> None:
    tokenizer = load_gguf_tokenizer(target)
    texts = {"English": ["the cat. the dog."], "German": ["cat dog cat. cat dog cat."]}
    found: Counter[str] = Counter()
    for c in write_text(tmp_path, 24, 12, passages=texts):
        turn = b"".join(tokenizer.token_bytes(int(t)) for t in c.tokens[c.first_scored : c.answer_start])
        turn = turn.decode(errors="replace").replace("\u2581", " ")
        if c.task in {"summary", "retrieval"} and "the cat. the dog." in turn:
            found[c.task] += 1
        if "Translate German to English: cat dog cat." in turn:
            found["translation"] += 1
            assert turn.count("cat dog cat.") == 1  # one sentence, not the paragraph
    assert set(found) == {"summary", "retrieval", "translation"}


def test_a_turn_that_is_too_long_is_cut_so_that_question_and_answer_have_room(
    write_text: Callable[..., list[Conversation]], tmp_path: Path
) -> None:
    written = write_text(tmp_path, 24, 12, passages={"English": ["the cat the dog. " * 200]})
    assert {c.task for c in written} >= {"summary", "retrieval"}
    assert max(len(c.tokens) for c in written) <= N_CTX
    assert all(len(c.tokens) > c.answer_start for c in written)


def test_what_is_given_is_read_many_tokens_a_pass_with_the_same_outcome(
    write_text: Callable[..., list[Conversation]], tmp_path: Path
) -> None:
    texts = {"English": ["the cat the dog. " * 20]}
    passes: Counter[int] = Counter()

    def written(max_rows: int) -> list[Conversation]:
        def show(*_: int) -> None:
            passes[max_rows] += 1

        return write_text(tmp_path / str(max_rows), 8, 4, passages=texts, max_rows=max_rows, show=show)

    for one, other in zip(written(16), written(64), strict=True):  # 16 rows: too few to read ahead
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_array_equal(one.top_ids, other.top_ids)
        np.testing.assert_array_equal(one.top_log_probabilities, other.top_log_probabilities)
        assert one.answer_start == other.answer_start
    assert passes[64] < passes[16] / 2


def test_a_corpus_of_other_settings_is_refused(corpus: Path) -> None:
    with pytest.raises(ModelError, match="another seed"):
        open_corpus(corpus, CorpusSettings("f", "float32", "v", seed=6, max_answer_tokens=12, top=8))


def test_a_shard_that_is_cut_short_is_named(corpus: Path, tmp_path: Path) -> None:
    for file in corpus.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = tmp_path / "text-000000.npz"
    shard.write_bytes(shard.read_bytes()[:-400])
    with pytest.raises(ModelError, match=r"text-000000\.npz cannot be read"):
        list(read_corpus(tmp_path))


def test_openings_are_a_function_of_the_seed_and_cover_all_tasks() -> None:
    drawn = [draw_opening(random.Random(f"1/{n}")) for n in range(400)]
    assert drawn == [draw_opening(random.Random(f"1/{n}")) for n in range(400)]
    counts = Counter(opening.task for opening in drawn)
    assert set(counts) >= {"self", "topic", "summary", "rewriting", "retrieval", "mathematics", "translation", "code"}
    assert len({opening.text for opening in drawn}) > 150


def test_real_passages_are_asked_about_in_a_share_of_the_openings() -> None:
    sentences = " ".join(f"Sentence number {n} has seven words here." for n in range(100))
    passages = {
        "English": [sentences, "A short one. And it names Ada Lovelace here."],
        "German": ["Eins ist das. Zwei auch."],
    }
    drawn = [draw_opening(random.Random(f"1/{n}"), passages) for n in range(1200)]
    about = [o for o in drawn if "Sentence number 0" in o.text or "A short one." in o.text]
    translated = [o for o in drawn if "German to English: Eins" in o.text or "German to English: Zwei" in o.text]
    assert 0.35 < (len(about) + len(translated)) / len(drawn) < 0.55
    assert all(o.complete for o in about if o.task != "retrieval")
    assert all(o.complete for o in translated)
    questions = [o for o in about if o.task == "retrieval"]
    assert questions
    assert not any(o.complete for o in questions)
    lengths = sorted(len(opening.text.split()) for opening in about)
    assert lengths[0] >= 40
    assert 500 < lengths[-1] <= 600 + 3 * 8 + 20, "passages end with the sentence that reaches their length"
    named = [o for o in drawn if o.task == "names"]
    assert 0.1 < len(named) / len(drawn) < 0.3
    assert any("Ada Lovelace" in o.text for o in named)
    assert all(o.complete == o.text.endswith((".", "?")) for o in named)
    assert [draw_opening(random.Random(f"1/{n}")) for n in range(50)] == [
        draw_opening(random.Random(f"1/{n}"), {}) for n in range(50)
    ]


def test_the_likeliest_tokens_are_sorted_log_probabilities() -> None:
    logits = np.log(np.array([0.1, 0.5, 0.25, 0.15], np.float32))
    ids, values = top_of(logits, 3)
    assert ids.tolist() == [1, 2, 3]
    np.testing.assert_allclose(np.exp(values.astype(np.float32)), [0.5, 0.25, 0.15], atol=1e-3)


def test_a_row_chooses_the_token_behind_it() -> None:
    c = Conversation(
        1, "t", 0.0, np.array([7, 8, 9, 4, 5], np.int32), 2, 4,
        np.array([[9, 1], [4, 1], [5, 1]], np.uint32), np.zeros((3, 2), np.float16),
    )  # fmt: skip
    batch = batch_of([c, c])
    assert [sequence.tolist() for sequence in batch.sequences] == [[7, 8, 9, 4]] * 2
    assert batch.rows.tolist() == [1, 2, 3, 5, 6, 7]
    assert batch.in_answer.tolist() == [False, False, True] * 2


def test_the_frequent_ids_are_those_of_the_answers_that_their_prompts_do_not_have() -> None:
    c = Conversation(
        1, "t", 0.0, np.array([7, 8, 9, 4, 5, 6], np.int32), 2, 4,
        np.array([[9, 2], [4, 2], [5, 1], [8, 1]], np.uint32), np.zeros((4, 2), np.float16),
    )  # fmt: skip
    assert frequent_ids([c], 4, 10).tolist() == [1, 5]  # 2 stands before the answer alone, 8 is the prompt's own
    assert frequent_ids([c], 1, 10).tolist() == [1]  # has mass 2


def trainer(target: Path, corpus: Path, checkpoint: Path, level: Path | None = None, **changed: int) -> Trainer:
    network = read_network(target)
    settings = TrainingSettings(**{**{f: getattr(TRAINING, f) for f in TRAINING.__struct_fields__}, **changed})
    student = student_of(network, settings.layers, 250)
    batches = Batches(corpus, settings.seed, settings.batch_tokens)
    return Trainer(student, network.head, batches, settings, checkpoint, level)


def test_training_lowers_the_loss_and_a_checkpoint_goes_on_exactly(target: Path, corpus: Path, tmp_path: Path) -> None:
    reports: list[Progress] = []
    whole = trainer(target, corpus, tmp_path / "whole.npz")
    whole.run(reports.append, report_every=3, save_every_s=1e9)
    assert [report.step for report in reports] == [3, 6, 9, 12]
    assert reports[-1].loss < 0.9 * reports[0].loss
    again = trainer(target, corpus, tmp_path / "whole.npz", steps=14)
    np.testing.assert_array_equal(again.student.vector, whole.student.vector)
    assert (again.step, again.tokens) == (12, whole.tokens)
    again.run(reports.append, report_every=1, save_every_s=0.0)
    assert [report.step for report in reports[4:]] == [13, 14]
    with pytest.raises(ConfigError, match=r"is of layers \[0\], asked for are \[1\]"):
        trainer(target, corpus, tmp_path / "whole.npz", layers=(1,))


def test_a_run_in_two_parts_ends_where_one_run_ends(target: Path, corpus: Path, tmp_path: Path) -> None:
    whole = trainer(target, corpus, tmp_path / "whole.npz")
    whole.run(lambda _: None, report_every=100, save_every_s=1e9)
    first = trainer(target, corpus, tmp_path / "parts.npz")
    for _ in range(5):
        first._learn(first._batches.next_batch())
    first.save()
    second = trainer(target, corpus, tmp_path / "parts.npz")
    second.run(lambda _: None, report_every=100, save_every_s=1e9)
    np.testing.assert_array_equal(second.student.vector, whole.student.vector)


def test_a_longer_run_goes_on_from_before_the_rate_fell(target: Path, corpus: Path, tmp_path: Path) -> None:
    trainer(target, corpus, tmp_path / "short.npz", tmp_path / "level.npz").run(
        lambda _: None, report_every=100, save_every_s=1e9
    )
    longer = trainer(target, corpus, tmp_path / "level.npz", steps=24)
    assert longer.step == 8  # of 12; the rate fell over the last 0.3 of them
    longer.run(lambda _: None, report_every=100, save_every_s=1e9)
    whole = trainer(target, corpus, tmp_path / "whole.npz", steps=24)
    whole.run(lambda _: None, report_every=100, save_every_s=1e9)
    np.testing.assert_array_equal(longer.student.vector, whole.student.vector)


def test_held_out_text_is_not_trained_on(target: Path, corpus: Path) -> None:
    batches = Batches(corpus, 1, 100)
    assert [c.number for c in batches.held_out] == [0]
    assert sorted(c.number for c in batches.training) == list(range(1, 9))


def test_a_corpus_that_grows_is_taken_in(corpus: Path, tmp_path: Path) -> None:
    for file in corpus.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    batches = Batches(tmp_path, 1, 100)
    write_shard(tmp_path, [batches.training[0]._replace(number=99)])
    batches.reread()
    assert 99 in {c.number for c in batches.training}


def write_draft(target: Path, folder: Path, tensor_type: str = "F32") -> Path:
    student = student_of(read_network(target), (1,), 64)
    student.weights[0]["down"] *= 2.0
    layers_file = folder / "draft.layers.gguf"
    write_layers_file(
        layers_file, student.architecture, student.weights, target_sha256=file_sha256(target), layers=(1,),
        frequent_ids=[3, 5, 8], recipe=json.dumps({"seed": 1}), name="tiny draft", tensor_type=tensor_type,
    )  # fmt: skip
    return layers_file


def test_a_draft_is_put_together_from_its_layers_and_the_target(target: Path, tmp_path: Path) -> None:
    layers_file = write_draft(target, tmp_path)
    draft = tmp_path / "draft.gguf"
    assemble_draft(target, layers_file, draft)
    found, source = read_network(draft), read_network(target)
    assert found.architecture.num_layers == 1
    np.testing.assert_array_equal(found.embedding, source.embedding)
    np.testing.assert_array_equal(found.layers[0].qkv, source.layers[1].qkv)
    np.testing.assert_array_equal(found.layers[0].down, source.layers[1].down * 2)
    assert load_gguf_tokenizer(draft).vocabulary_hash == load_gguf_tokenizer(target).vocabulary_hash
    assert frequent_ids_of(draft) == (3, 5, 8)
    assert read_trained(layers_file).layers == (1,)


@pytest.mark.parametrize(("tensor_type", "number"), [("F32", 0), ("F16", 1)])
def test_a_draft_is_of_the_type_of_its_layers(target: Path, tmp_path: Path, tensor_type: str, number: int) -> None:
    assemble_draft(target, write_draft(target, tmp_path, tensor_type), tmp_path / "draft.gguf")
    assert read_gguf_metadata(tmp_path / "draft.gguf").get("general.file_type", int) == number


def test_a_draft_is_served_by_llama_cpp_as_by_onnx(target: Path, tmp_path: Path) -> None:
    llamacpp = pytest.importorskip("multispin_models.llamacpp")
    from multispin_models.language_model import Rows  # noqa: PLC0415

    draft = tmp_path / "draft.gguf"
    assemble_draft(target, write_draft(target, tmp_path), draft)
    export_onnx(draft, tmp_path / "onnx", "float32")
    sizes = {"n_ctx": 64, "max_sequences": 1, "max_rows": 16, "num_threads": 1}
    logits = []
    for model in (llamacpp.load_llamacpp(draft, **sizes), load_onnx(tmp_path / "onnx", **sizes, cache="float32")):
        logits.append(model.forward([Rows(model.open_sequence(), [1, 40, 50, 60], 4)])[0].copy())
        model.close()
    np.testing.assert_allclose(logits[0], logits[1], atol=0.05)


def test_layers_of_another_target_or_cut_short_are_refused(target: Path, tmp_path: Path) -> None:
    layers_file = write_draft(target, tmp_path)
    with pytest.raises(ModelError, match="belongs to a target with sha256"):
        assemble_draft(layers_file, layers_file, tmp_path / "no.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(layers_file.read_bytes()[:-3000])
    with pytest.raises(ModelError, match=r"cut\.gguf is cut short"):
        assemble_draft(target, cut, tmp_path / "no.gguf")
    with pytest.raises(ModelError, match=r"multispin\.draft\.format is None"):
        assemble_draft(target, target, tmp_path / "no.gguf")
    assert not (tmp_path / "no.gguf").exists()
    with pytest.raises(ConfigError, match="is 'Q3', allowed are F32"):
        write_draft(target, tmp_path, "Q3")


def test_layers_are_searched_on_the_text_of_a_folder(
    target: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = tmp_path / "tiny.toml"
    side = f'file = "{target}"\nsha256 = "{file_sha256(target)}"\nrecipe = "F32"\n'
    pair.write_text(f'name = "tiny"\n[target]\n{side}[draft]\n{side}')
    words = ["models", "layers", str(tmp_path), "--pair", str(pair), "--tokens", "120"]
    (tmp_path / "corpus").symlink_to(corpus)
    assert main([*words, "--drop", "1", "--json"]) == 0
    [found] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (found["layer"], found["left"]) in ((0, [1]), (1, [0]))
    assert found["loss"] > 0
    assert main([*words, "--drop", "2"]) == 1
    assert "the target has 2 layers: one must stay" in capsys.readouterr().err


def test_passages_without_english_ones_or_beside_prompts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"prompt": "Das ist ein Satz.", "category": "German"}\n')
    assert main(["models", "distill", str(tmp_path / "work"), "--only", "text", "--passages", str(file)]) == 1
    assert f"passages {file}: no line is in English" in capsys.readouterr().err
    both = [
        "models",
        "distill",
        str(tmp_path / "work"),
        "--only",
        "text",
        "--passages",
        str(file),
        "--prompts",
        str(file),
    ]
    assert main(both) == 1
    assert "give one of the two" in capsys.readouterr().err
