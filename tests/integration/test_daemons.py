"""Coordinator and agent as an operator starts them: configuration files, keys, refusals, order of starting, signals."""

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import zmq.auth

from multispin_models.prompts import JobDefaults
from multispin_models.records import RequestRecord, read_jsonl

pytestmark = pytest.mark.model

SMALL = "policy = 'fixed'\n[limits]\nmax_sessions = 2\nmax_context_tokens = 256\n"
LINES = '{"id": "a", "prompt": "Why is the sky blue?"}\n{"id": "b", "prompt": "Name a fruit.", "temperature": 0.8}\n'
MAX_TOKENS = 12


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str, str], Path]:
    """Return a function that writes a configuration file."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def coordinator(start_multispin: Callable[..., Any], config: Callable[[str, str], Path], target_alone: Any) -> Any:
    """A coordinator with small limits on a free port of loopback, serving."""
    process = start_multispin("coordinator", "--config", config("small.toml", SMALL), "--bind", "tcp://127.0.0.1:*")
    process.endpoint = process.wait_ready()
    return process


@pytest.fixture(scope="module")
def expected(target_alone: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    path = tmp_path_factory.mktemp("prompts") / "lines.jsonl"
    path.write_text(LINES)
    return target_alone.of_file(path, JobDefaults(max_tokens=MAX_TOKENS))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def served(out: Path) -> dict[str, list[int]]:
    return {record.id: list(record.token_ids) for record in read_jsonl(out / "requests.jsonl", RequestRecord).records}


def assert_refuses(ran: Any, *parts: str) -> None:
    assert ran.status == 1
    assert "Traceback" not in ran.stderr
    last = ran.stderr.splitlines()[-1]
    assert " ERROR " in last
    for part in parts:
        assert part in last


# -- the coordinator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:*", "tcp://[::]:*", "tcp://*:5599"])
def test_no_coordinator_listens_off_loopback_without_keys(run_multispin: Callable[..., Any], bind: str) -> None:
    assert_refuses(run_multispin("coordinator", "--bind", bind), bind, "not loopback", "security.secret_key_file")


def test_a_port_that_is_taken_is_named(run_multispin: Callable[..., Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert_refuses(run_multispin("coordinator", "--bind", endpoint), endpoint, "Address already in use", "--bind")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("thread = 2\n", ("line 1: ", "is threads meant?")),
        ('threads = "two"\n', ("line 1: threads is 'two'", "allowed: integers")),
        ("[limits]\nmax_rows = 1\n", ("line 2: limits.max_rows is 1", "8")),
        ("[limits]\nmax_session = 1\n", ("line 2: ", "is max_sessions meant?")),
        ("threads = \n", ("cannot be read", "line 1")),
    ],
)
def test_a_bad_setting_in_a_file_is_named_with_its_file(
    run_multispin: Callable[..., Any], config: Callable[[str, str], Path], text: str, said: tuple[str, ...]
) -> None:
    path = config("bad.toml", text)
    for command in ("coordinator", "agent"):
        if command == "agent" and "limits" in text:
            continue
        assert_refuses(run_multispin(command, "--config", path, stdin=LINES), str(path), *said)


def test_a_missing_configuration_file_is_named(run_multispin: Callable[..., Any], tmp_path: Path) -> None:
    assert_refuses(run_multispin("coordinator", "--config", tmp_path / "none.toml"), "none.toml cannot be read")


def test_an_unknown_pair_is_named_with_those_that_there_are(run_multispin: Callable[..., Any]) -> None:
    for command in ("coordinator", "agent"):
        ran = run_multispin(command, "--pair", "llama-9000", stdin=LINES)
        assert_refuses(ran, "'llama-9000'", "smollm2-135m")


def test_sigterm_ends_a_coordinator_within_five_seconds_and_frees_its_port(coordinator: Any) -> None:
    host, _, port = coordinator.endpoint.removeprefix("tcp://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5):
        pass
    coordinator.popen.send_signal(signal.SIGTERM)
    ran = coordinator.wait(5)
    assert ran.status == 0
    assert "Traceback" not in ran.stderr
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)


def test_sigterm_ends_a_coordinator_while_it_loads(
    start_multispin: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    process = start_multispin("coordinator", "--bind", "tcp://127.0.0.1:*")
    wait_until("its settings", lambda: "settings: " in process.stderr)
    process.popen.send_signal(signal.SIGTERM)
    ran = process.wait(30)
    assert ran.status in {0, -signal.SIGTERM}  # before the handler is set it is the kernel's own
    assert "Traceback" not in ran.stderr


# -- the agent --------------------------------------------------------------------------------------------------------


def test_prompts_from_standard_input_come_out_as_texts(
    run_multispin: Callable[..., Any], coordinator: Any, expected: dict[str, list[int]], target_alone: Any
) -> None:
    ran = run_multispin(
        "agent", "--coordinator", coordinator.endpoint, "--max-tokens", MAX_TOKENS, "--meter", "none", stdin=LINES
    )
    assert ran.status == 0, ran.stderr
    texts = [target_alone.text(token_ids) for token_ids in expected.values()]
    assert ran.stdout == "".join(text + "\n" for text in texts)
    ran = run_multispin(
        *("agent", "--coordinator", coordinator.endpoint, "--max-tokens", MAX_TOKENS, "--meter", "none", "--json"),
        stdin=LINES,
    )
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [each["text"] for each in told] == texts
    assert all(each["num_drafted"] >= each["num_accepted"] and each["error"] is None for each in told)
    assert sum(each["num_accepted"] for each in told) > 0


def test_an_agent_that_starts_before_its_coordinator_waits_and_then_serves(
    start_multispin: Callable[..., Any],
    config: Callable[[str, str], Path],
    wait_until: Callable[..., None],
    expected: dict[str, list[int]],
    tmp_path: Path,
) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    agent = start_multispin(
        *("agent", "--coordinator", endpoint, "--max-tokens", MAX_TOKENS, "--out", tmp_path / "out"), stdin=LINES
    )
    wait_until("the agent is loaded", lambda: "2 requests, 0 of them done before" in agent.stderr)
    start_multispin("coordinator", "--config", config("small.toml", SMALL), "--bind", endpoint)
    ran = agent.wait()
    assert ran.status == 0, ran.stderr
    assert served(tmp_path / "out") == expected


def test_an_agent_stopped_by_a_signal_goes_on_where_it_was(
    start_multispin: Callable[..., Any],
    run_multispin: Callable[..., Any],
    coordinator: Any,
    wait_until: Callable[..., None],
    tmp_path: Path,
    target_alone: Any,
) -> None:
    prompts, out = tmp_path / "lines.jsonl", tmp_path / "out"
    lines = [{"id": str(n), "prompt": f"Write about the number {n}.", "ignore_end": True} for n in range(4)]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ("--coordinator", coordinator.endpoint, "--prompts", prompts, "--out", out, "--max-tokens", 32)
    agent = start_multispin("agent", *flags)
    wait_until("a record", lambda: (out / "requests.jsonl").exists() and (out / "requests.jsonl").stat().st_size)
    agent.popen.send_signal(signal.SIGTERM)
    stopped = agent.wait(10)
    assert stopped.status == 130
    assert "Traceback" not in stopped.stderr
    num_done = len(served(out))
    assert 1 <= num_done < 4
    ran = run_multispin("agent", *flags)
    assert ran.status == 0, ran.stderr
    assert f"4 requests, {num_done} of them done before" in ran.stderr
    assert served(out) == target_alone.of_file(prompts, JobDefaults(max_tokens=32))


def test_an_agent_off_loopback_without_keys_does_not_start(run_multispin: Callable[..., Any]) -> None:
    ran = run_multispin("agent", "--coordinator", "tcp://192.0.2.1:5599", stdin=LINES)
    assert_refuses(ran, "tcp://192.0.2.1:5599", "not loopback", "server_key_file")


def test_an_agent_with_another_vocabulary_is_refused_with_a_reason_and_ends(
    run_multispin: Callable[..., Any], coordinator: Any, config: Callable[[str, str], Path], tmp_path: Path
) -> None:
    model = tmp_path / "tiny.gguf"
    write_tiny_llama(model)
    side = f'file = "{model}"\nrecipe = "as-shipped"\n'
    pair = config("tiny.toml", f'name = "tiny"\ndescription = "random"\n[target]\n{side}[draft]\n{side}')
    ran = run_multispin(
        *("agent", "--coordinator", coordinator.endpoint, "--pair", pair, "--engine", "llamacpp"), stdin=LINES
    )
    assert_refuses(ran, "vocabulary_mismatch", "same pair")
    coordinator.popen.send_signal(signal.SIGTERM)
    assert "'refused_vocabulary_mismatch': " in coordinator.wait(10).stderr  # each Hello until the first answer


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Certificates of a coordinator and two agents; only the first agent's is among the authorized."""
    folder = tmp_path / "keys"
    folder.mkdir()
    for name in ("coordinator", "known", "stranger"):
        zmq.auth.create_certificates(folder, name)
    for secret in folder.glob("*.key_secret"):
        secret.chmod(0o600)
    (folder / "authorized").mkdir()
    (folder / "known.key").rename(folder / "authorized" / "known.key")
    return folder


def agent_config(keys: Path, name: str) -> str:
    secret, server = keys / f"{name}.key_secret", keys / "coordinator.key"
    return f'agent_id = "{name}"\n[security]\nsecret_key_file = "{secret}"\nserver_key_file = "{server}"\n'


def coordinator_config(keys: Path) -> str:
    secret, authorized = keys / "coordinator.key_secret", keys / "authorized"
    return f'{SMALL}[security]\nsecret_key_file = "{secret}"\nauthorized_keys_dir = "{authorized}"\n'


def test_with_keys_an_authorized_agent_is_served_and_a_stranger_is_not_heard(
    start_multispin: Callable[..., Any],
    run_multispin: Callable[..., Any],
    config: Callable[[str, str], Path],
    keys: Path,
    expected: dict[str, list[int]],
    wait_until: Callable[..., None],
    tmp_path: Path,
) -> None:
    coordinator = start_multispin(
        "coordinator", "--config", config("c.toml", coordinator_config(keys)), "--bind", "tcp://127.0.0.1:*"
    )
    endpoint = coordinator.wait_ready()
    stranger = start_multispin(
        *("agent", "--config", config("s.toml", agent_config(keys, "stranger")), "--coordinator", endpoint), stdin=LINES
    )
    keyless = start_multispin("agent", "--agent-id", "keyless", "--coordinator", endpoint, stdin=LINES)
    for agent in (stranger, keyless):
        wait_until("the agent is loaded", lambda agent=agent: "2 requests, 0 of them" in agent.stderr)
    ran = run_multispin(
        *("agent", "--config", config("k.toml", agent_config(keys, "known")), "--coordinator", endpoint),
        *("--max-tokens", MAX_TOKENS, "--out", tmp_path / "out"),
        stdin=LINES,
    )
    assert ran.status == 0, ran.stderr
    assert served(tmp_path / "out") == expected
    assert coordinator.stderr.count(" joined, version") == 1
    for agent in (stranger, keyless):
        assert agent.popen.poll() is None  # still waiting
        assert agent.stdout == ""


def test_a_secret_key_that_others_can_read_is_refused(
    run_multispin: Callable[..., Any], config: Callable[[str, str], Path], keys: Path
) -> None:
    (keys / "coordinator.key_secret").chmod(0o644)
    ran = run_multispin("coordinator", "--config", config("c.toml", coordinator_config(keys)))
    assert_refuses(ran, "coordinator.key_secret", "0644", "0600")


def test_a_coordinator_without_the_folder_of_authorized_keys_is_refused(
    run_multispin: Callable[..., Any], config: Callable[[str, str], Path], keys: Path
) -> None:
    text = coordinator_config(keys).partition("authorized_keys_dir")[0]
    ran = run_multispin("coordinator", "--config", config("c.toml", text), "--bind", "tcp://127.0.0.1:*")
    assert_refuses(ran, "authorized_keys_dir is missing")
    missing = coordinator_config(keys).replace("/authorized", "/nowhere")
    ran = run_multispin("coordinator", "--config", config("c.toml", missing), "--bind", "tcp://127.0.0.1:*")
    assert_refuses(ran, "authorized_keys_dir", "nowhere")


def write_tiny_llama(path: Path) -> None:
    """Write a model of random weights whose vocabulary is the 256 bytes."""
    width, feed_forward, vocabulary = 32, 48, [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256))]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(feed_forward)
    writer.add_block_count(1)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(vocabulary)
    writer.add_token_scores([0.0] * len(vocabulary))
    writer.add_token_types([gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    shapes = {"token_embd.weight": (len(vocabulary), width), "output_norm.weight": (width,)}
    shapes |= {f"blk.0.attn_{name}.weight": (width, width) for name in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.{name}_norm.weight": (width,) for name in ("attn", "ffn")}
    shapes |= {f"blk.0.ffn_{name}.weight": (feed_forward, width) for name in ("gate", "up")}
    shapes["blk.0.ffn_down.weight"] = (width, feed_forward)
    random = np.random.default_rng(7)
    for name, shape in shapes.items():
        writer.add_tensor(name, random.normal(float("norm" in name), 0.2, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
