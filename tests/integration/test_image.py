"""What boxes are flashed with: what cloud-init reads, that cards share no secret, what the first boot does.

The image itself is booted by `scripts/image try`, by hand: it needs root, qemu and minutes.
"""

import hashlib
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from image_building import command, disk, overlay
from image_building.card import Card, write_card
from image_building.guest import Machine, qemu_command
from image_building.layout import MIB, fstab, loader_entry, new_layout, sfdisk_script
from image_building.seed import Login, checked_hostname, checked_login, render_seed
from multispin_models.errors import ConfigError
from multispin_models.keys.token import encode_token, new_token

KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl operator\'s "laptop": #1'
LOGIN = Login("multispin", (KEY,))
SHELL_SCRIPTS = ("scripts/image_building/first-boot", "agent/take-enrolment-token")
ROOT = Path(__file__).parents[2]


def token() -> str:
    return encode_token(new_token("x" * 40, "tcp://192.0.2.1:5598"))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "multispin-agent_0.1.0-1+deb13_arm64.deb"
    path.write_bytes(b"a package")
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "weights.bin").write_bytes(b"weights")
    archive = tmp_path / "models.tar"
    overlay.pack({"derived/abc-onnx4/draft/weights.bin": tmp_path / "weights.bin"}, archive)
    return archive


def card(package: Path, models: Path, hostname: str, **more: str) -> Card:
    return Card(hostname, LOGIN, package, models, overlay.DEFAULT_PAIR, **more)


def test_the_seed_is_yaml_and_says_what_was_meant() -> None:
    seed = render_seed("multispin-1", "ap-07", LOGIN)
    assert seed.user_data.startswith("#cloud-config\n")
    user = yaml.safe_load(seed.user_data)
    assert user["hostname"] == "ap-07"
    [account] = user["users"]
    assert account["ssh_authorized_keys"] == [KEY]
    assert account["lock_passwd"] is True
    assert user["ssh_pwauth"] is False
    assert all(isinstance(part, str) for step in user["runcmd"] for part in step)
    assert ["systemctl", "enable", "--now", "--no-block", "multispin-first-boot.service"] in user["runcmd"]
    assert yaml.safe_load(seed.meta_data) == {
        "instance-id": "multispin-1",
        "local-hostname": "ap-07",
        "dsmode": "local",
    }
    assert yaml.safe_load(seed.network_config)["network"]["ethernets"]["eth0"]["dhcp4"] is True


def test_a_network_of_ones_own_is_taken_as_it_is() -> None:
    assert render_seed("i", "ap", LOGIN, "network: {version: 2}\n").network_config == "network: {version: 2}\n"


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "a\n", "a" * 64])
def test_what_is_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="host name"):
        checked_hostname(name)


def test_a_private_key_or_none_at_all_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="no public key") as caught:
        checked_login("multispin", "-----BEGIN OPENSSH PRIVATE KEY-----\nsecretsecret\n")
    assert "secretsecret" not in str(caught.value)
    with pytest.raises(ConfigError, match="no public key"):
        checked_login("multispin", "# mine\n\n")
    with pytest.raises(ConfigError, match="user is"):
        checked_login("root; reboot", KEY)
    assert checked_login("multispin", f"# mine\n{KEY}\n").keys == (KEY,)


def test_two_cards_share_no_identity_and_no_secret(package: Path, models: Path, tmp_path: Path) -> None:
    tokens = [token(), token()]
    folders = [tmp_path / "ap-1", tmp_path / "ap-2"]
    for folder, secret in zip(folders, tokens, strict=True):
        write_card(card(package, models, folder.name, token=secret), folder)
    instances = {yaml.safe_load((folder / "meta-data").read_text())["instance-id"] for folder in folders}
    assert len(instances) == 2
    for folder, own, other in zip(folders, tokens, reversed(tokens), strict=True):
        files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert files.pop("enrolment-token").decode().strip() == own
        assert not any(own.encode() in text or other.encode() in text for text in files.values())


def test_a_token_is_for_its_owner_alone_and_in_no_sum(package: Path, models: Path, tmp_path: Path) -> None:
    write_card(card(package, models, "ap", token=token()), tmp_path / "ap")
    folder = tmp_path / "ap/multispin"
    assert stat.S_IMODE((folder / "enrolment-token").stat().st_mode) == 0o600
    assert "enrolment-token" not in (folder / "SHA256SUMS").read_text()
    write_card(card(package, models, "none"), tmp_path / "none")
    assert not (tmp_path / "none/multispin/enrolment-token").exists()


def test_a_folder_that_is_there_is_not_written_again(package: Path, models: Path, tmp_path: Path) -> None:
    write_card(card(package, models, "ap", token=token()), tmp_path / "ap")
    with pytest.raises(ConfigError, match="there already"):
        write_card(card(package, models, "ap"), tmp_path / "ap")


def test_the_sums_are_of_every_file_that_the_first_boot_uses(package: Path, models: Path, tmp_path: Path) -> None:
    write_card(card(package, models, "ap", coordinator="tcp://192.0.2.1:5599"), tmp_path / "ap")
    folder = tmp_path / "ap/multispin"
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {path.name for path in folder.iterdir()} - {"SHA256SUMS"}
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == found for name, found in sums.items())
    assert (folder / "40-image.toml").read_text().splitlines()[1:] == [
        'pair = "smollm2-135m-small"',
        'coordinator = "tcp://192.0.2.1:5599"',
    ]


def test_models_are_packed_to_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"weights")
        os.utime(tmp_path / name / "file", (1, len(name)))
        overlay.pack({"derived/x/file": tmp_path / name / "file"}, tmp_path / f"{name}.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        found = [(entry.name, oct(entry.mode), entry.uid) for entry in archive]
    assert found == [("derived", "0o755", 0), ("derived/x", "0o755", 0), ("derived/x/file", "0o644", 0)]


def test_what_is_no_token_no_setting_and_no_package_of_the_cards_python_is_refused(
    tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key.pub").write_text(KEY + "\n")
    (tmp_path / "token").write_text("mspin1-secret")
    (tmp_path / "site.toml").write_text("num_draft_tokns = 3\n")
    old = package.rename(tmp_path / "multispin-agent_0.1.0-1+deb12_arm64.deb")
    always = ["card", "ap", "--ssh-key", str(tmp_path / "key.pub"), "--out", str(tmp_path / "out"), "--no-models"]
    for more, message in (
        (["--token-file", str(tmp_path / "token")], "no enrolment token"),
        (["--settings", str(tmp_path / "site.toml")], "num_draft_tokns"),
        (["--package", str(old)], "--distribution trixie"),
    ):
        assert command.main([*always, *more]) == 1
        said = capsys.readouterr().err
        assert message in said
        assert "mspin1-secret" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["disk", "--ssh-key", "key.pub"], ["try", "--disk", "disk"]])
def test_a_folder_that_is_there_is_refused_before_minutes_of_work(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*words, "--out", str(tmp_path)]) == 1
    assert f"{tmp_path} is there already: give a folder that is not" in capsys.readouterr().err


def test_partitions_lie_one_behind_the_other_and_are_named_by_their_uuid() -> None:
    layout = new_layout("arm64", 1000, 256, 128)
    other = new_layout("arm64", 1000, 256, 128)
    assert (layout.esp_offset_mib, layout.root_offset_mib, layout.root_mib, layout.disk_mib) == (1, 257, 1178, 1436)
    assert len({layout.disk_uuid, layout.esp_uuid, layout.root_uuid, other.root_uuid}) == 4
    lines = sfdisk_script(layout).splitlines()
    sectors = MIB // 512
    assert lines[0] == "label: gpt"
    assert lines[-2].startswith(f"start={sectors}, size={256 * sectors}, type=C12A7328")
    assert lines[-1].startswith(f"start={257 * sectors}, size={1178 * sectors}, type=B921B045")
    assert f"root=PARTUUID={layout.root_uuid} " in loader_entry(layout, "x")
    root, boot = fstab(layout).splitlines()
    assert root.startswith(f"PARTUUID={layout.root_uuid} / ext4 ")
    assert "x-systemd.growfs" in root
    assert ",nofail," in boot  # else a box that nobody visits waits in the emergency mode
    assert boot.startswith(f"PARTUUID={layout.esp_uuid} /boot/efi vfat umask=0077,")  # a token may lie there


def test_a_guest_is_reached_at_loopback_alone(tmp_path: Path) -> None:
    line = qemu_command(Machine(tmp_path / "i", tmp_path / "log", 2222, 8080, firmware=tmp_path / "fw"))
    [network] = [part for part in line if part.startswith("user,")]
    assert network == "user,id=net,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=tcp:127.0.0.1:8080-:8080"
    assert "-kernel" not in line


def test_an_image_is_made_as_root_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"apt-get install .*mmdebstrap"):
        disk.check_host("arm64", disk.TOOLS)


@pytest.mark.parametrize("script", SHELL_SCRIPTS)
def test_the_shell_understands_what_runs_on_the_box(script: str) -> None:
    subprocess.run(["/bin/sh", "-n", ROOT / script], check=True)


def take(*folders: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "agent/take-enrolment-token"
    return subprocess.run(["/bin/sh", script, *folders], check=True, capture_output=True, text=True)


def test_a_token_leaves_the_boot_partition_for_where_only_root_reads(tmp_path: Path) -> None:
    etc, boot = tmp_path / "etc", tmp_path / "boot"
    etc.mkdir()
    boot.mkdir()
    (boot / "enrolment-token").write_text("mspin1-x\n")
    (boot / "enrolment-token").chmod(0o755)  # as FAT shows every file
    assert "took" in take(etc, tmp_path / "none", boot).stdout
    assert [path.name for path in boot.iterdir()] == []
    [kept] = list(etc.iterdir())
    assert (kept.name, kept.read_text(), stat.S_IMODE(kept.stat().st_mode)) == ("enrolment-token", "mspin1-x\n", 0o600)
    assert take(etc, boot).stdout == ""
    assert kept.read_text() == "mspin1-x\n"


def test_copies_that_were_damaged_install_nothing(package: Path, models: Path, tmp_path: Path) -> None:
    """Run here, not as on a box: it must stop before it touches anything."""
    write_card(card(package, models, "ap"), tmp_path / "ap")
    folder = tmp_path / "ap/multispin"
    (folder / package.name).write_bytes(b"another")
    text = (folder / "first-boot").read_text().replace("/var/lib/multispin-first-boot", str(tmp_path / "state"))
    done = subprocess.run(["/bin/sh", "-c", text, "sh", folder], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "copy them again" in done.stdout
    assert not (tmp_path / "state/done").exists()
