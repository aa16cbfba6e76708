"""`multispin config check`: what a daemon would refuse is refused here, with its place."""

import json
import stat
from pathlib import Path

import pytest

from multispin import config_command
from multispin.cli import main
from multispin_models.keys.key_files import make_pair, write_pair


def check(name: str, text: str, folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    (folder / f"{name}.toml").write_text(text)
    status = main(["config", "check", f"--{name}", str(folder / f"{name}.toml"), *more])
    return status, capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("agent", "agent_id = 'a b'", r"line 1: agent_id is 'a b'; allowed: text that matches"),
        ("agent", "\ndraft = 'guess'", "line 2: draft is 'guess'; allowed: 'lookup', 'lookup+model', 'model'"),
        ("agent", "[http]\nmax_waitin = 1", "line 2: http.max_waitin unknown setting"),
        ("agent", "lookup_min_ngram = 9\nlookup_max_ngram = 2", "lookup_min_ngram is 9, allowed are 1 to"),
        ("agent", "coordinator = 'tcp://10.0.0.1:5599'", "is not loopback and no keys are set"),
        ("coordinator", "[limits]\nmax_rows = 9", "max_rows is 9, allowed are at least"),
        ("coordinator", "policy = 'pric'", "line 1: policy is 'pric'; allowed: 'alone', 'exact', 'fixed'"),
        ("coordinator", "bind = 'tcp://0.0.0.0:5599'", "is not loopback and no keys are set"),
        ("coordinator", "bind = '0.0.0.0'", "allowed is tcp://HOST:PORT"),
        ("coordinator", "bind = tcp", "line 1"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    name: str, text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = check(name, text, tmp_path, capsys)
    assert status == 1
    assert reason in said
    assert str(tmp_path / f"{name}.toml") in said or "tcp://" in text or "0.0.0.0" in text


def test_what_is_right_is_shown_with_its_drop_ins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "agent.toml.d").mkdir()
    (tmp_path / "agent.toml.d/10-more.toml").write_text("threads = 3\n")
    status, said = check("agent", "threads = 2\n", tmp_path, capsys, "--json")
    assert (status, json.loads(said)["agent"]["settings"]["threads"]) == (0, 3)
    assert "with 1 drop-ins is valid" in check("agent", "threads = 2\n", tmp_path, capsys)[1]
    status, said = check("agent", "threads = 0\n[limits]\n", tmp_path, capsys, "--json")
    assert status == 1
    assert json.loads(said)["agent"]["settings"] is None


def test_a_secret_key_that_others_can_read_is_found_before_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pair(tmp_path / "keys", "coordinator", make_pair())
    secret = tmp_path / "keys/coordinator.key_secret"
    text = f"[security]\nsecret_key_file = '{secret}'\n"
    assert check("coordinator", text, tmp_path, capsys)[0] == 0
    secret.chmod(secret.stat().st_mode | stat.S_IROTH)
    status, said = check("coordinator", text, tmp_path, capsys)
    assert status == 1
    assert "mode 0604" in said


def test_without_names_the_files_of_this_machine_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config_command, "FOLDER", tmp_path)
    assert main(["config", "check"]) == 1
    assert "neither" in capsys.readouterr().err
    (tmp_path / "agent.toml").write_text("threads = 1")
    (tmp_path / "coordinator.toml").write_text("thread = 1")
    assert main(["config", "check"]) == 1
    agent, coordinator = capsys.readouterr().out.splitlines()
    assert agent.endswith("is valid")
    assert "is threads meant?" in coordinator
