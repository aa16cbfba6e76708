"""`multispin keys`: from nothing to an enrolled box, its list, and its end."""

import asyncio
import json
import stat
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import zmq

from multispin.cli import main
from multispin_agent.config import Config
from multispin_coordinator.enrolment import open_enrolment
from multispin_models.keys.gate import Gate
from multispin_models.keys.key_files import read_secret
from multispin_models.keys.registry import Registry


@pytest.fixture
def site(tmp_path: Path) -> list[str]:
    """Return the flags of a coordinator whose key was made."""
    flags = ["--keys", str(tmp_path / "keys"), "--agents", str(tmp_path / "agents")]
    assert main(["keys", "create", *flags]) == 0
    return flags


def make_token(site: list[str], capsys: pytest.CaptureFixture[str], endpoint: str, *more: str) -> str:
    capsys.readouterr()
    assert main(["keys", "token", "ap-07", "--endpoint", endpoint, *site, *more]) == 0
    return capsys.readouterr().out


def test_the_coordinators_key_is_private_and_not_overwritten(site: list[str], tmp_path: Path) -> None:
    secret = tmp_path / "keys/coordinator.key_secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    before = secret.read_text()
    assert main(["keys", "create", *site]) == 1
    assert secret.read_text() == before
    assert main(["keys", "create", *site, "--replace"]) == 0
    assert secret.read_text() != before


def test_a_box_is_enrolled_listed_rotated_and_revoked(
    site: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box, settings = ["--keys", str(tmp_path / "box")], tmp_path / "agent.toml"

    async def enrol_and_rotate() -> list[int]:
        with zmq.Context() as context:
            registry = Registry(tmp_path / "agents")
            gate = Gate(context, registry, read_secret(str(tmp_path / "keys/coordinator.key_secret")), Counter())
            desk = open_enrolment("tcp://127.0.0.1:*", "tcp://0.0.0.0:5599", gate)
            token = tmp_path / "token"
            token.write_text(make_token(site, capsys, desk.endpoint))
            enrol = ["keys", "enrol", str(token), *box, "--write-config", str(settings)]
            statuses = [await asyncio.to_thread(main, argv) for argv in (enrol, ["keys", "rotate", *box])]
            gate.close()
            desk.close()
            return statuses

    assert asyncio.run(enrol_and_rotate()) == [0, 0]
    written = tomllib.loads(settings.read_text())
    assert (written["agent_id"], written["coordinator"]) == ("ap-07", "tcp://127.0.0.1:5599")
    assert set(written) <= set(Config.__struct_fields__)
    assert read_secret(written["security"]["secret_key_file"])
    assert Path(written["security"]["server_key_file"]).read_text() == (tmp_path / "keys/coordinator.key").read_text()
    capsys.readouterr()
    agents = site[2:]
    assert main(["keys", "list", "--json", *agents]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [device["device_id"] for device in listed["devices"]] == ["ap-07"]
    assert len(listed["revoked"]) == 1  # the key before the rotation
    assert listed["tokens"][0]["state"].startswith("used by key")
    assert main(["keys", "revoke", "ap-07", *agents]) == 0
    assert main(["keys", "revoke", "ap-07", *agents]) == 1
    assert main(["keys", "list", *agents]) == 0
    assert capsys.readouterr().out.count("revoked") == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["token", "a b", "--endpoint", "tcp://127.0.0.1:1"], "device is 'a b'"),
        (["token", "ap", "--endpoint", "127.0.0.1"], "allowed is tcp://HOST:PORT"),
        (["token", "ap", "--endpoint", "tcp://127.0.0.1:1", "--hours", "0"], "--hours is 0.0"),
        (["revoke", "ap"], "has no key and no open token"),
    ],
)
def test_what_is_wrong_is_said(
    site: list[str], arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", *arguments, *(site if arguments[0] == "token" else site[2:])]) == 1
    assert reason in capsys.readouterr().err


def test_a_token_is_read_from_a_file_or_standard_input_never_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "enrol", "mspin1-AAAA", "--keys", str(tmp_path)]) == 1  # every user can read a command line
    assert "cannot be read" in capsys.readouterr().err
