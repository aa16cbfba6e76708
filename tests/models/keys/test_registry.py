"""The registry: one key a device, tokens that work once, and keys that are taken away for good."""

import json
from pathlib import Path

import pytest

from multispin_models.errors import ConfigError
from multispin_models.keys import registry as registry_module
from multispin_models.keys.key_files import make_pair
from multispin_models.keys.registry import Registry, RegistryRefusal
from multispin_models.keys.token import Token, new_token


def key() -> str:
    return make_pair().public.decode()


class Desk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = Registry(folder)

    def token(self, device_id: str, expires_s: float = 100.0, *, replace: bool = False) -> Token:
        token = new_token("k" * 40, "tcp://127.0.0.1:1")
        self.registry.add_token(token, device_id, expires_s, replace=replace)
        return token

    def redeem(self, token: Token, public_key: str, now_s: float = 0.0) -> str:
        return self.registry.redeem(token.token_id, token.secret, public_key, now_s)

    def refused(self, token: Token, public_key: str, now_s: float = 0.0) -> str:
        with pytest.raises(RegistryRefusal) as refusal:
            self.redeem(token, public_key, now_s)
        return refusal.value.code


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_token_makes_its_device_once(desk: Desk) -> None:
    token, mine, thiefs = desk.token("ap-07"), key(), key()
    assert desk.redeem(token, mine) == "ap-07"
    assert desk.registry.device_of(mine) == "ap-07"
    assert desk.refused(token, thiefs) == "token_used"
    assert desk.registry.device_of(thiefs) is None


def test_an_answer_that_was_lost_can_be_had_again_with_the_same_key(desk: Desk) -> None:
    token, mine = desk.token("ap-07"), key()
    assert [desk.redeem(token, mine, now_s) for now_s in (0.0, 1000.0)] == ["ap-07", "ap-07"]
    assert len(desk.registry.devices()) == 1


def test_a_token_ends_when_it_expires(desk: Desk) -> None:
    token = desk.token("ap-07", expires_s=100.0)
    assert desk.refused(token, key(), 100.0) == "token_expired"
    assert desk.redeem(token, key(), 99.9) == "ap-07"


def test_a_token_that_nobody_made_and_a_wrong_secret_look_the_same(desk: Desk) -> None:
    token = desk.token("ap-07")
    for wrong in (
        Token(token.server_key, token.endpoint, token.token_id, b"x" * 32),
        Token(token.server_key, token.endpoint, "0" * 16, token.secret),
        Token(token.server_key, token.endpoint, "../../../etc/passwd", token.secret),
    ):
        assert desk.refused(wrong, key()) == "token_unknown"
    assert desk.redeem(token, key()) == "ap-07"  # trying did not use it up


def test_a_secret_is_kept_only_as_its_hash_and_compared_in_constant_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    real = registry_module.hmac.compare_digest
    monkeypatch.setattr(registry_module.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    token = desk.token("ap-07")
    kept = (desk.folder / "tokens" / f"{token.token_id}.json").read_text()
    assert token.secret.hex() not in kept
    assert "secret_sha256" in json.loads(kept)
    unknown = Token(token.server_key, token.endpoint, "f" * 16, token.secret)
    assert desk.refused(unknown, key()) == "token_unknown"
    desk.redeem(token, key())
    assert len(compared) == 2  # also for a token that is not there


def test_a_device_with_a_key_gets_a_second_token_only_on_purpose_and_then_the_old_key_goes(desk: Desk) -> None:
    old, new = key(), key()
    desk.redeem(desk.token("ap-07"), old)
    with pytest.raises(ConfigError, match="ap-07 has a key: --replace"):
        desk.token("ap-07")
    desk.redeem(desk.token("ap-07", replace=True), new)
    assert (desk.registry.device_of(new), desk.registry.device_of(old)) == ("ap-07", None)
    assert desk.registry.is_revoked(old)


def test_a_revoked_key_is_never_taken_again_and_its_open_tokens_are_gone(desk: Desk) -> None:
    mine = key()
    used = desk.token("ap-07")
    desk.redeem(used, mine)
    spare = desk.token("ap-07", replace=True)
    assert desk.registry.revoke("ap-07") == 2
    assert desk.registry.device_of(mine) is None
    assert desk.refused(used, mine) == "key_revoked"
    assert desk.refused(spare, key()) == "token_unknown"
    assert desk.refused(desk.token("ap-07"), mine) == "key_revoked"
    assert desk.registry.revoke("ap-08") == 0
    [gone] = desk.registry.revoked()
    assert gone.device_id == "ap-07"


def test_a_key_is_one_devices_alone(desk: Desk) -> None:
    mine = key()
    desk.redeem(desk.token("ap-07"), mine)
    assert desk.refused(desk.token("ap-08"), mine) == "key_taken"


@pytest.mark.parametrize("bad", ["", "x", "x" * 41, "é" * 40, "~" * 40, '"' * 40])
def test_what_is_no_key_is_not_registered(desk: Desk, bad: str) -> None:
    assert desk.refused(desk.token("ap-07"), bad) == "bad_key"
    assert desk.registry.devices() == []


def test_a_change_of_keys_needs_the_old_one_and_can_be_asked_again(desk: Desk) -> None:
    old, new = key(), key()
    desk.redeem(desk.token("ap-07"), old)
    assert desk.registry.rotate(old, new) == "ap-07"
    with pytest.raises(RegistryRefusal, match="not registered") as refusal:
        desk.registry.rotate(old, new)
    assert refusal.value.code == "key_revoked"
    assert desk.registry.rotate(new, new) == "ap-07"
    with pytest.raises(RegistryRefusal) as refusal:
        desk.registry.rotate(key(), key())
    assert refusal.value.code == "key_unknown"


def test_a_kill_between_using_a_token_and_writing_the_key_is_mended_by_asking_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, mine = desk.token("ap-07"), key()
    monkeypatch.setattr(Registry, "_register", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        desk.redeem(token, mine)
    monkeypatch.undo()
    assert desk.refused(token, key()) == "token_used"
    assert desk.redeem(token, mine) == "ap-07"


def test_what_another_process_changes_is_seen(desk: Desk) -> None:
    mine, other = key(), Registry(desk.folder)
    desk.redeem(desk.token("ap-07"), mine)
    other.refresh()
    assert other.device_of(mine) == "ap-07"
    other.revoke("ap-07")
    desk.registry.refresh()
    assert desk.registry.device_of(mine) is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a b", "x" * 65, ".hidden", "é"])
def test_what_could_not_be_an_agents_name_is_no_device(desk: Desk, name: str) -> None:
    with pytest.raises(ConfigError, match="device is"):
        desk.token(name)


def test_a_damaged_certificate_is_told_and_what_was_known_stays(desk: Desk) -> None:
    mine = key()
    desk.redeem(desk.token("ap-07"), mine)
    (desk.folder / "ap-08.key").write_text("no key at all")
    with pytest.raises(ConfigError, match="cannot be read"):
        desk.registry.refresh()
    assert desk.registry.device_of(mine) == "ap-07"
