"""`multispin models bench` and `tune`: acceptance by replay against real rounds, the arithmetic, the commands."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import gguf
import numpy as np
import pytest
from tests.toy_model import END_TOKEN, ToyModel

from multispin.bench.draft import Round, acceptance_of, best_length, replay, row_times, write_texts
from multispin.cli import main
from multispin_agent.drafter import ModelDrafter
from multispin_models.language_model import Rows
from multispin_models.sampling import Sampling, choose
from multispin_models.target_alone import generate_alone

ENDS = frozenset({END_TOKEN})
SAMPLINGS = [Sampling(), Sampling(temperature=0.8, seed=3)]
PROMPTS = [("a", [1, 2, 3]), ("b", [4]), ("a", [5, 6, 7, 8])]


def test_texts_written_side_by_side_are_those_of_the_target_alone() -> None:
    texts = write_texts(ToyModel(max_sequences=6), PROMPTS, SAMPLINGS, 20, ENDS)
    assert [(text.task, text.sampling) for text in texts] == [(task, s) for task, _ in PROMPTS for s in SAMPLINGS]
    for text in texts:
        assert text.token_ids == generate_alone(ToyModel(), text.prompt_ids, text.sampling, 20, ENDS)


@pytest.mark.parametrize("length", [1, 4])
def test_replayed_rounds_are_those_of_drafting_and_verifying(length: int) -> None:
    draft = ToyModel(noise=0.7)
    for text in write_texts(ToyModel(max_sequences=6), PROMPTS, SAMPLINGS, 30, ENDS):
        target, rounds, tokens = ToyModel(), [], [*text.prompt_ids, text.token_ids[0]]
        drafter = ModelDrafter(draft, text.sampling)
        limit = len(text.prompt_ids) + 30
        while tokens[-1] not in ENDS and len(tokens) < limit:
            count = min(length, limit - len(tokens) - 1)
            guess = [d.token_id for d in drafter.draft(tokens, count, ENDS, lambda: False)] if count else []
            sequence = target.open_sequence()
            [rows] = target.forward([Rows(sequence, [*tokens, *guess], len(guess) + 1)])
            target.close_sequence(sequence)
            chosen = [choose(row, len(tokens) + i, text.sampling) for i, row in enumerate(rows)]
            accepted = next((i for i, token in enumerate(guess) if token != chosen[i]), len(guess))
            rounds.append(Round(len(guess), accepted))
            tokens.extend(chosen[: accepted + 1])
        drafter.close()
        assert tokens[len(text.prompt_ids) :] == text.token_ids
        assert replay(draft, text, 30, length, ENDS) == rounds
    assert draft.num_open == 0


def test_the_target_as_its_own_draft_is_always_believed() -> None:
    texts = write_texts(ToyModel(max_sequences=6), PROMPTS, SAMPLINGS, 30, ENDS)
    found = acceptance_of(r for text in texts for r in replay(ToyModel(), text, 30, 4, ENDS))
    assert found.acceptance_rate == 1.0
    assert found.survival == (1.0, 1.0, 1.0, 1.0)


def test_the_best_length_stops_where_a_token_costs_more_than_it_gives() -> None:
    # 0: 100/s; 1: 1.9/12 ms; 2: 2.4/14; 3: 2.5/16
    assert best_length([0.9, 0.5, 0.1], 2.0, 10.0) == (2, pytest.approx(1e3 * 2.4 / 14))
    assert best_length([0.1], 5.0, 10.0) == (0, 100.0)
    assert best_length([], 5.0, 10.0) == (0, 100.0)


def test_rows_are_timed_one_by_one_behind_the_context_and_nothing_stays_open() -> None:
    target, draft = ToyModel(), ToyModel()
    cost = row_times(target, draft, [1, 2, 3], 5)
    assert (cost.rows, cost.context) == (5, 3)
    assert cost.ratio > 0
    for model in (target, draft):
        assert model.passes == [[3], *[[1]] * 8]
        assert model.num_open == 0


def write_pair(folder: Path) -> Path:
    """Write a pair of one tiny model for both ends, with a chat template."""
    from tests.onnx_tiny import write_tiny  # noqa: PLC0415

    plain = write_tiny(folder / "plain.gguf", "llama", tied=True)
    reader, writer = gguf.GGUFReader(plain), gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}>")
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    manifest = folder / "tiny.toml"
    manifest.write_text('name = "tiny"\n[target]\nfile = "tiny.gguf"\n[draft]\nfile = "tiny.gguf"\n')
    return manifest


def test_the_commands_measure_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MULTISPIN_CACHE", str(tmp_path / "cache"))
    pair = write_pair(tmp_path)
    prompts = tmp_path / "prompts.jsonl"
    lines: list[dict[str, Any]] = [{"prompt": f"{n} the cat", "category": "qa" if n % 2 else "chat"} for n in range(5)]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = [str(pair), "--prompts", str(prompts), "--per-task", "2", "--max-tokens", "12", "--rows", "3"]
    flags += ["--target", "onnx:float32", "--draft", "onnx:float32", "--max-context-tokens", "96"]
    plot = tmp_path / "drafts.svg"
    assert main(["models", "bench", *flags, "--json", "--plot", str(plot)]) == 0
    shapes = ET.parse(plot).getroot().iter("{http://www.w3.org/2000/svg}circle")
    assert [shape.get("cy") for shape in shapes] == ["30.0", "30.0"]  # all accepted: at the top, at both temperatures
    report = json.loads(capsys.readouterr().out)
    assert report["texts"] == 8
    [draft] = report["drafts"]
    assert set(draft["acceptance"]) == {f"{task} at {t}" for task in ("all", "qa", "chat") for t in ("0", "0.8")}
    assert draft["acceptance"]["all at 0"]["acceptance_rate"] == 1.0  # the same model at both ends
    assert main(["models", "tune", *flags]) == 0
    shown = capsys.readouterr().out
    assert "serve " in shown
    assert "8 texts" in shown
    assert main(["models", "bench", *flags[:-1], "13"]) != 0
    assert "no prompt has 1 tokens or less" in capsys.readouterr().err
