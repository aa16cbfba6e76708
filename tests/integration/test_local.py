"""`multispin local` on the default models: the same text however it is cut into processes, drafts and rounds."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multispin_models.prompts import JobDefaults, read_jobs
from multispin_models.records import (
    ConditionsRecord,
    EnergyRecord,
    FieldNotes,
    RequestRecord,
    RoundRecord,
    RunHeader,
    read_jsonl,
)
from multispin_models.sampling import Sampling

pytestmark = pytest.mark.model

MAX_TOKENS = 16
PROMPTS = [
    {"id": "sky", "prompt": "Why is the sky blue?"},
    {"question_id": 81, "turns": ["Write two lines about the sea.", "Now in French."]},
    {"id": "yes", "prompt": "Answer with the single word yes.", "max_tokens": 24},
    {"id": "yes-on", "prompt": "Answer with the single word yes.", "max_tokens": 24, "ignore_end": True},
    {"id": "warm", "prompt": "Name a colour and a fruit.", "temperature": 0.8, "seed": 7},
    {"id": "nucleus", "prompt": "Tell me about cats.", "temperature": 1.2, "seed": 8, "top_k": 40, "top_p": 0.9},
    {"id": "stopped", "prompt": "List the days of the week.", "max_tokens": 24},
    {"prompt": "Grüße auf Japanisch?", "temperature": 0.8, "seed": 9},
]
IDS = ["sky", "81", "yes", "yes-on", "warm", "nucleus", "stopped", "8"]
SUMMARY_KEYS = {
    "requests",
    "completed",
    "tokens",
    "text_differences",
    "acceptance_rate",
    "mean_acceptance_length",
    "goodput_tokens_per_s",
    "ttft_s_median",
    "tpot_s_median",
    "payload_up_bytes_per_token",
    "payload_down_bytes_per_token",
    "energy_j_per_token",
    "energy_label",
    "energy_reason",
    "energy_agent_j_per_token",
    "energy_agent_label",
    "energy_agent_reason",
    "energy_coordinator_j_per_token",
    "energy_coordinator_label",
    "energy_coordinator_reason",
    "energy_network_j_per_token",
    "energy_network_label",
    "energy_network_reason",
    "exact",
    "per_request",
}
REQUEST_KEYS = {
    "id",
    "token_ids",
    "text",
    "tokens",
    "acceptance_rate",
    "mean_acceptance_length",
    "goodput_tokens_per_s",
    "ttft_s",
    "tpot_s",
    "payload_up_bytes_per_token",
    "payload_down_bytes_per_token",
    "energy_j_per_token",
    "energy_label",
    "energy_reason",
}


@pytest.fixture(scope="module")
def stop(tmp_path_factory: pytest.TempPathFactory, target_alone: Any) -> str:
    """Two characters that the target first writes where one token ends and the next begins, on whatever machine."""
    path = tmp_path_factory.mktemp("stop") / "prompts.jsonl"
    path.write_text(json.dumps(next(line for line in PROMPTS if line.get("id") == "stopped")) + "\n")
    [token_ids] = target_alone.of_file(path, JobDefaults()).values()
    whole = target_alone.text(token_ids)
    begun = [target_alone.text(token_ids[:count]) for count in range(6, len(token_ids))]
    return next(found for text in begun if (found := whole[len(text) - 1 : len(text) + 1]) not in text)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory, stop: str) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines = [{**line, "stop": [stop]} if line.get("id") == "stopped" else line for line in PROMPTS]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def expected(prompts: Path, stop: str, target_alone: Any) -> dict[str, list[int]]:
    """What the target writes alone; the stop string's request is cut by `stopped_at`."""
    texts = target_alone.of_file(prompts, JobDefaults(max_tokens=MAX_TOKENS))
    return {**texts, "stopped": stopped_at(texts["stopped"], stop, target_alone)}


def stopped_at(token_ids: list[int], stop: str, target_alone: Any) -> list[int]:
    """Return the shortest beginning of a text that holds the stop string, or all of it."""
    beginnings = (token_ids[:n] for n in range(len(token_ids) + 1))
    return next((text for text in beginnings if stop in target_alone.text(text)), token_ids)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "plain"


@pytest.fixture(scope="module")
def plain(run_multispin: Callable[..., Any], prompts: Path, out: Path) -> Any:
    """One agent, L = 4, checked by the command itself."""
    return run_multispin(
        *("local", "--agents", 1, "--prompts", prompts, "--out", out, "--max-tokens", MAX_TOKENS, "--policy", "fixed"),
        *("--check-text", "--json"),
    )


def test_the_command_finds_no_difference_and_ends_with_0(plain: Any) -> None:
    assert plain.status == 0, plain.stderr
    assert plain.summary["text_differences"] == 0
    assert plain.summary["exact"] is True


def test_the_json_object_has_every_promised_key(plain: Any) -> None:
    assert set(plain.summary) == SUMMARY_KEYS
    assert [request["id"] for request in plain.summary["per_request"]] == IDS
    for request in plain.summary["per_request"]:
        assert set(request) >= REQUEST_KEYS


def test_the_texts_are_those_that_an_independent_run_of_the_target_writes(
    plain: Any, expected: dict[str, list[int]]
) -> None:
    assert plain.token_ids == expected


def test_token_ids_decode_to_the_text(plain: Any, stop: str, target_alone: Any) -> None:
    for request in plain.summary["per_request"]:
        token_ids = list(request["token_ids"])
        if request["finish"] == "end":
            assert token_ids.pop() in target_alone.loaded.tokenizer.end_token_ids
        decoded = target_alone.text(token_ids)
        assert decoded.partition(stop)[0] == request["text"] if request["id"] == "stopped" else request["text"]


def test_requests_end_as_their_lines_ask(plain: Any, stop: str, target_alone: Any) -> None:
    requests = {request["id"]: request for request in plain.summary["per_request"]}
    assert {name: request["finish"] for name, request in requests.items()} == {
        **dict.fromkeys(IDS, "length"),
        "yes": "end",
        "stopped": "stop",
    }
    ends = target_alone.loaded.tokenizer.end_token_ids
    assert len(requests["yes"]["token_ids"]) < 24
    assert len(requests["yes-on"]["token_ids"]) == 24
    assert requests["yes-on"]["token_ids"][: len(requests["yes"]["token_ids"])] == requests["yes"]["token_ids"]
    assert ends & set(requests["yes-on"]["token_ids"][:-1])
    assert stop not in requests["stopped"]["text"]
    assert len(requests["sky"]["token_ids"]) == MAX_TOKENS


def test_the_figures_follow_from_the_records(plain: Any, out: Path) -> None:
    summary = plain.summary
    records = read_jsonl(out / "requests.jsonl", RequestRecord).records
    rounds = [record for record in read_jsonl(out / "rounds.jsonl", RoundRecord).records if not record.is_open]
    accepted = sum(record.num_accepted for record in rounds)
    assert summary["requests"] == summary["completed"] == len(PROMPTS)
    assert summary["tokens"] == sum(record.num_generated for record in records)
    assert summary["acceptance_rate"] == accepted / sum(record.num_draft_tokens for record in rounds)
    assert summary["mean_acceptance_length"] == 1 + accepted / len(rounds)
    up_bytes = sum(record.payload_up_bytes for record in records)
    assert summary["payload_up_bytes_per_token"] == up_bytes / summary["tokens"]
    span_s = (max(record.ended_ns for record in records) - min(record.started_ns for record in records)) / 1e9
    assert summary["goodput_tokens_per_s"] == pytest.approx(summary["tokens"] / span_s)


def test_the_records_are_whole(plain: Any, out: Path) -> None:
    [header] = read_jsonl(out / "run.jsonl", RunHeader).records
    requests = read_jsonl(out / "requests.jsonl", RequestRecord)
    rounds = read_jsonl(out / "rounds.jsonl", RoundRecord)
    assert requests.torn is None
    assert rounds.torn is None
    assert [record.id for record in requests.records] == IDS
    assert {record.run_id for record in (*requests.records, *rounds.records)} == {header.run_id}
    assert requests.records[0].prompt_sha256 == hashlib.sha256(b"Why is the sky blue?").hexdigest()
    for record in requests.records:
        own = [r for r in rounds.records if r.wire_request_id == record.wire_request_id]
        assert [r.round for r in own] == list(range(len(own)))
        assert [r.is_open for r in own] == [True] + [False] * (len(own) - 1)
        assert sum(r.num_accepted + 1 for r in own) == record.num_generated
        assert sum(r.payload_up_bytes for r in own) <= record.payload_up_bytes


def test_the_header_says_what_was_run(plain: Any, out: Path) -> None:
    [header] = read_jsonl(out / "run.jsonl", RunHeader).records
    assert header.exact is True
    assert header.target.exact is True
    assert header.target.vocabulary_hash == header.draft.vocabulary_hash
    assert header.target.fingerprint != header.draft.fingerprint
    assert (header.num_draft_tokens, header.policy, header.verification) == (4, "fixed", "coupled")
    assert header.configuration["num_agents"] == 1
    assert header.command_line[:2] == ("multispin", "local")
    [end] = header.energy_meters
    assert end.end == "machine"


def test_a_round_of_four_drafted_tokens_fits_its_budget_of_bytes(plain: Any, out: Path) -> None:
    rounds = [r for r in read_jsonl(out / "rounds.jsonl", RoundRecord).records if r.num_draft_tokens == 4]
    assert len(rounds) >= 10
    assert max(r.payload_up_bytes for r in rounds) <= 64
    assert max(r.payload_up_bytes + r.payload_down_bytes for r in rounds) <= 128


@pytest.mark.parametrize(
    "flags",
    [
        ("--agents", 3),
        ("--agents", 2, "--policy", "lookup"),
        ("--num-draft-tokens", 1),
        ("--num-draft-tokens", 8, "--agents", 2),
        ("--num-draft-tokens", 0),
        ("--no-draft-ahead", "--policy", "fixed"),
        ("--concurrent-per-agent", 2),
        ("--draft", "lookup", "--lookup-min-ngram", 1, "--agents", 2, "--num-draft-tokens", 4),
        ("--draft", "lookup+model", "--num-draft-tokens", 6),
    ],
    ids=lambda flags: " ".join(map(str, flags)),
)
def test_the_text_does_not_depend_on_how_it_is_drafted(
    run_multispin: Callable[..., Any],
    prompts: Path,
    expected: dict[str, list[int]],
    tmp_path: Path,
    flags: tuple[object, ...],
) -> None:
    ran = run_multispin(
        "local", "--prompts", prompts, "--out", tmp_path / "run", "--max-tokens", MAX_TOKENS, "--json", *flags
    )
    assert ran.status == 0, ran.stderr
    assert ran.token_ids == expected
    assert ran.summary["text_differences"] is None  # not asked for
    rounds = read_jsonl(tmp_path / "run" / "rounds.jsonl", RoundRecord).records
    if "--num-draft-tokens" in flags:
        most = flags[flags.index("--num-draft-tokens") + 1]
        assert max(record.num_draft_tokens for record in rounds) == most
    if flags == ("--agents", 3):
        assert len({record.agent_id for record in rounds}) == 3
    if "--no-draft-ahead" in flags:
        assert {record.ahead_hit for record in rounds} == {None}
    if "--draft" in flags:
        assert any(record.num_accepted for record in rounds)


def test_an_agent_that_drafts_by_lookup_loads_no_model_and_says_so(
    run_multispin: Callable[..., Any], tmp_path: Path, prompts: Path
) -> None:
    out = tmp_path / "run"
    ran = _warm(run_multispin, prompts, out, "--draft", "lookup", "--policy", "fixed")
    assert ran.status == 0, ran.stderr
    [header] = read_jsonl(out / "run.jsonl", RunHeader).records
    assert (header.draft.engine, header.draft.recipe, header.draft.memory_bytes) == ("lookup", "2-4", 0)
    assert header.draft.vocabulary_hash == header.target.vocabulary_hash
    assert "no model is loaded" in (out / "agent-0" / "agent.log").read_text()
    rounds = [r for r in read_jsonl(out / "rounds.jsonl", RoundRecord).records if not r.is_open]
    assert any(r.num_draft_tokens == 0 for r in rounds), "where the text says nothing, nothing is drafted"


def test_a_poor_draft_of_the_users_own_manifest_is_accepted_less_and_changes_no_token(
    run_multispin: Callable[..., Any],
    prompts: Path,
    stop: str,
    llamacpp_target_alone: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    default_pair_files: tuple[Path, Path],
) -> None:
    target, shipped = default_pair_files
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\ndescription = "a draft that errs"\n'
        f'[target]\nfile = "{target}"\nrecipe = "as-shipped"\n[draft]\nfile = "{shipped}"\nrecipe = "Q4_0"\n'
    )
    monkeypatch.setenv("MULTISPIN_CACHE", str(tmp_path / "cache"))
    ran = run_multispin(
        *(
            "local",
            "--pair",
            "mine.toml",
            "--engine",
            "llamacpp",
            "--prompts",
            prompts,
            "--out",
            "run",
            "--policy",
            "fixed",
        ),
        *("--max-tokens", MAX_TOKENS, "--json"),
        cwd=tmp_path,
    )
    assert ran.status == 0, ran.stderr
    expected = llamacpp_target_alone.of_file(prompts, JobDefaults(max_tokens=MAX_TOKENS))
    expected["stopped"] = stopped_at(expected["stopped"], stop, llamacpp_target_alone)
    assert ran.token_ids == expected
    assert ran.summary["acceptance_rate"] < 0.9  # of the default draft 0.97


def _warm(run_multispin: Callable[..., Any], prompts: Path, out: Path, *flags: object) -> Any:
    """Run the first two prompts, without draws of their own, under the flags."""
    return run_multispin(
        "local", "--prompts", prompts, "--limit", 2, "--max-tokens", 12, "--out", out, "--json", *flags
    )


def test_the_flags_say_how_all_are_drawn_and_another_seed_is_another_text(
    run_multispin: Callable[..., Any], prompts: Path, tmp_path: Path, target_alone: Any
) -> None:
    ran = _warm(run_multispin, prompts, tmp_path / "run", "--temperature", 0.8, "--top-k", 50, "--seed", 1)
    assert ran.status == 0, ran.stderr

    def alone(seed: int) -> dict[str, list[int]]:
        defaults = JobDefaults(12, Sampling(temperature=0.8, top_k=50, seed=seed))
        return {job.job_id: target_alone.token_ids(job) for job in read_jobs(str(prompts), defaults, 2)}

    assert ran.token_ids == alone(seed=1)
    assert all(ran.token_ids[name] != other for name, other in alone(seed=2).items())


NOTES = ("--note", "supply=bench supply", "--note", "network_nj_per_byte=50", "--note", "network_source=a guess")


def test_the_seed_changes_nothing_at_temperature_0_and_a_replayed_meter_gives_joules_with_a_label(
    run_multispin: Callable[..., Any], prompts: Path, tmp_path: Path, expected: dict[str, list[int]]
) -> None:
    recording = tmp_path / "power.csv"
    recording.write_text("# covers: module\nt_s,power_w\n0,4.0\n600,4.0\n")
    ran = _warm(run_multispin, prompts, tmp_path / "run", "--seed", 5, "--meter", f"replay:{recording}", *NOTES)
    assert ran.status == 0, ran.stderr
    assert ran.token_ids == {name: expected[name][:12] for name in ("sky", "81")}
    [record] = read_jsonl(tmp_path / "run" / "energy.jsonl", EnergyRecord).records
    window_s = (record.ended_ns - record.started_ns) / 1e9
    assert record.energy_j == pytest.approx(4.0 * window_s, rel=1e-6)  # 4 W all along
    assert record.sampler_cpu_s is not None
    assert 0.0 < record.sampler_cpu_s < window_s
    conditions = [
        each.conditions for each in read_jsonl(tmp_path / "run" / "conditions.jsonl", ConditionsRecord).records
    ]
    assert (conditions[0].when, conditions[-1].when) == ("before", "after")
    assert conditions[0].t_ns < record.started_ns < record.ended_ns < conditions[-1].t_ns
    assert ran.summary["energy_j_per_token"] == pytest.approx(4.0 * window_s / ran.summary["tokens"], rel=1e-6)
    [header] = read_jsonl(tmp_path / "run" / "run.jsonl", RunHeader).records
    assert header.notes == FieldNotes(supply="bench supply", network_nj_per_byte=50.0, network_source="a guess")
    assert ran.summary["energy_network_label"] == "modelled"
    assert ran.summary["energy_label"] == "measured"
    assert "not the energy of this run" in ran.summary["energy_reason"]
    for request in ran.summary["per_request"]:  # one meter for all: no request has joules of its own
        assert request["energy_j_per_token"] is None
        assert request["energy_reason"]


def test_without_a_meter_energy_is_null_with_its_reason(
    run_multispin: Callable[..., Any], prompts: Path, tmp_path: Path
) -> None:
    ran = _warm(run_multispin, prompts, tmp_path / "run", "--meter", "none")
    assert ran.status == 0, ran.stderr
    assert ran.summary["energy_j_per_token"] is None
    assert ran.summary["energy_label"] is None
    assert "switched off" in ran.summary["energy_reason"]


def test_the_table_has_a_line_for_every_request_and_a_total(
    run_multispin: Callable[..., Any], prompts: Path, tmp_path: Path
) -> None:
    ran = run_multispin(
        "local", "--prompts", prompts, "--limit", 2, "--max-tokens", 4, "--out", tmp_path / "run", "--check-text"
    )
    assert ran.status == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith(("sky", "81", "total "))] == ["sky", "81", "total"]
    assert "text: 0 tokens differ" in ran.stdout
    assert "requests: 2/2" in ran.stderr


def test_a_prompt_beyond_the_context_fails_alone_with_its_reason(
    run_multispin: Callable[..., Any], tmp_path: Path
) -> None:
    lines = [{"id": "long", "prompt": "word " * 300}, {"id": "short", "prompt": "Why is the sky blue?"}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ran = run_multispin(
        *("local", "--prompts", tmp_path / "prompts.jsonl", "--out", tmp_path / "run", "--max-tokens", 4),
        *("--max-context-tokens", 256, "--json"),
    )
    assert ran.status == 1
    assert (ran.summary["requests"], ran.summary["completed"]) == (2, 1)
    long, short = ran.summary["per_request"]
    assert "prompt_too_long" in long["error"]
    assert (long["finish"], long["token_ids"]) == ("error", [])
    assert (short["finish"], len(short["token_ids"])) == ("length", 4)


def test_joules_of_requests_sum_to_the_runs_of_both_ends_with_replayed_meters(
    run_multispin: Callable[..., Any], prompts: Path, tmp_path: Path
) -> None:
    (tmp_path / "agent.csv").write_text("t_s,power_w\n0,4.0\n0.7,6.0\n1.3,5.0\n2.0,4.5\n")
    (tmp_path / "coordinator.csv").write_text("t_s,energy_j\n0,0\n1,12\n2,30\n3,40\n")
    out = tmp_path / "run"
    ran = run_multispin(
        *("local", "--agents", 2, "--concurrent-per-agent", 2, "--prompts", prompts, "--out", out, "--limit", 5),
        *("--max-tokens", 8, "--idle-s", 0.2, "--coordinator-meter", f"replay:{tmp_path}/coordinator.csv,loop"),
        *("--agent-meter", f"replay:{tmp_path}/agent.csv,loop", "--json"),
    )
    assert ran.status == 0, ran.stderr
    records = {record.end: record for record in read_jsonl(out / "energy.jsonl", EnergyRecord).records}
    requests = read_jsonl(out / "requests.jsonl", RequestRecord).records
    rounds = read_jsonl(out / "rounds.jsonl", RoundRecord).records
    assert set(records) == {"coordinator", "agent:agent-0", "agent:agent-1"}
    for record in records.values():
        assert record.energy_j is not None
        assert record.attributed_j is not None
        assert record.unattributed_j is not None
        assert record.attributed_j + record.unattributed_j == pytest.approx(record.energy_j, rel=1e-9)
        assert record.idle is not None
        assert 3.0 < (record.idle.power_w or 0.0) < 20.0
    # Of a request, all of its rounds; of an end, all of its requests.
    for request in requests:
        own = [record for record in rounds if record.wire_request_id == request.wire_request_id]
        for name in ("energy_agent_j", "energy_coordinator_j"):
            assert sum(getattr(record, name) for record in own) == pytest.approx(getattr(request, name), rel=1e-9)
        opening = sum(record.energy_coordinator_j or 0.0 for record in own if record.is_open)
        assert opening == pytest.approx(request.energy_coordinator_prefill_j, rel=1e-9)
    coordinator_j = sum(request.energy_coordinator_j or 0.0 for request in requests)
    assert coordinator_j == pytest.approx(records["coordinator"].attributed_j, rel=1e-9)
    prefill_j = sum(request.energy_coordinator_prefill_j or 0.0 for request in requests)
    assert prefill_j == pytest.approx(records["coordinator"].prefill_j, rel=1e-9)
    for agent in ("agent-0", "agent-1"):
        joules = sum(request.energy_agent_j or 0.0 for request in requests if request.agent_id == agent)
        assert joules == pytest.approx(records[f"agent:{agent}"].attributed_j, rel=1e-9)
    summary = ran.summary
    parts = (summary["energy_agent_j_per_token"], summary["energy_coordinator_j_per_token"])
    assert sum(parts) == pytest.approx(summary["energy_j_per_token"], rel=1e-9)
    assert {summary[f"energy_{end}label"] for end in ("", "agent_", "coordinator_")} == {"measured"}
    assert sum(record.energy_j or 0.0 for record in records.values()) == pytest.approx(
        summary["energy_j_per_token"] * summary["tokens"], rel=1e-9
    )
