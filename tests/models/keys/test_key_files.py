"""Key files: private from their first byte, whole or not there, and not overwritten by accident."""

import os
import stat
from pathlib import Path

import pytest

from multispin_models.errors import ConfigError
from multispin_models.keys import key_files
from multispin_models.keys.key_files import make_pair, read_public, read_secret, write_file, write_pair
from multispin_models.keys.token import decode_token, encode_token, new_token, secret_hash


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_pair_that_was_written_is_read_again_and_its_secret_is_private(tmp_path: Path) -> None:
    pair = make_pair()
    write_pair(tmp_path / "new", "box", pair)
    assert read_secret(str(tmp_path / "new/box.key_secret")) == pair
    assert read_public(str(tmp_path / "new/box.key")) == pair.public
    assert (mode(tmp_path / "new"), mode(tmp_path / "new/box.key_secret")) == (0o700, 0o600)
    assert pair.secret.decode() not in (tmp_path / "new/box.key").read_text()


def test_a_secret_is_never_readable_by_others_not_even_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    real = os.fsync

    def look(descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            seen.append((stat.S_IMODE(status.st_mode), status.st_size))
            assert not (tmp_path / "box.key_secret").exists()  # it has no name yet
        real(descriptor)

    monkeypatch.setattr(key_files.os, "fsync", look)
    monkeypatch.setattr(key_files.os, "chmod", lambda *_: pytest.fail("changed its mode afterwards"))
    monkeypatch.setattr(key_files.os, "fchmod", lambda *_: pytest.fail("changed its mode afterwards"))
    old = os.umask(0)
    try:
        write_file(tmp_path / "box.key_secret", "secret")
    finally:
        os.umask(old)
    assert seen == [(0o600, 6)]


def test_a_file_that_is_there_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    write_file(tmp_path / "a", "first")
    with pytest.raises(ConfigError, match="is there already"):
        write_file(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first"
    write_file(tmp_path / "a", "second", replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "second"


def test_a_write_that_fails_leaves_nothing_and_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "a", "first")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(key_files.os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_file(tmp_path / "a", "second", replace=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "first"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "of-the-service"
    folder.mkdir()
    os.chown(folder, 1234, 4321)
    key_files.make_folder(folder / "agents/revoked")  # what `multispin keys create` makes in a service's state
    for made in ("agents", "agents/revoked"):
        assert ((folder / made).stat().st_uid, mode(folder / made)) == (1234, 0o700)
    write_file(folder / "token", "x")
    assert ((folder / "token").stat().st_uid, (folder / "token").stat().st_gid) == (1234, 4321)


def test_a_credential_is_found_where_systemd_put_it_and_may_show_its_access_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair()
    write_pair(tmp_path, "agent", pair)
    (tmp_path / "agent.key_secret").chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_secret("credential:agent.key_secret") == pair
    with pytest.raises(ConfigError, match="mode 0440, allowed is 0600"):
        read_secret(str(tmp_path / "agent.key_secret"))
    (tmp_path / "agent.key_secret").chmod(0o444)
    with pytest.raises(ConfigError, match="mode 0444"):
        read_secret("credential:agent.key_secret")


def test_a_credential_outside_of_a_service_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match="CREDENTIALS_DIRECTORY is not set"):
        read_secret("credential:agent.key_secret")


# -- tokens --


def test_a_token_is_one_line_that_says_all_and_shows_nothing_in_logs() -> None:
    token = new_token(make_pair().public.decode(), "tcp://coordinator.example:5598")
    text = encode_token(token)
    assert decode_token(f"  {text}\n") == token
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    assert token.secret.hex() not in repr(token)
    assert str(token.secret) not in repr(token)
    assert len(secret_hash(token.secret)) == 64


@pytest.mark.parametrize("damage", ["", "mspin1-", "mspin1-AAAA", "cut", "another", "é", "x" * 5000])
def test_what_is_no_whole_token_is_refused_without_repeating_it(damage: str) -> None:
    text = encode_token(new_token("k" * 40, "tcp://127.0.0.1:5598"))
    damaged = {"cut": text[:-9], "another": text.replace("mspin1", "mspin2")}.get(damage, damage)
    with pytest.raises(ConfigError, match="no enrolment token") as refused:
        decode_token(damaged)
    assert text[10:30] not in str(refused.value)
