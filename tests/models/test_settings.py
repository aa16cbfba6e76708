"""Settings from a file and from flags, and what is refused of them."""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct

from multispin_models.errors import ConfigError
from multispin_models.settings import add_setting_flags, read_settings


class Inner(Struct, frozen=True, forbid_unknown_fields=True):
    depth: Annotated[int, Meta(ge=1)] = 1


class Example(Struct, frozen=True, forbid_unknown_fields=True):
    pair: str = "default"
    threads: Annotated[int, Meta(ge=1)] = 1
    inner: Inner = Inner()


def settings(*flags: str, file: Path | None = None) -> Example:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    add_setting_flags(parser, ("one", "two"))
    given = [*flags, *(["--config", str(file)] if file else [])]
    return read_settings(Example, parser.parse_args(given))


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_file_and_flags_they_are_the_defaults() -> None:
    assert settings() == Example()


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = written(tmp_path, 'pair = "mine"\nthreads = 2\n[inner]\ndepth = 3\n')
    assert settings(file=file) == Example("mine", 2, Inner(3))
    assert settings("--threads", "4", file=file) == Example("mine", 4, Inner(3))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("threads = 0", r"\$\.threads"),
        ('threads = "2"', r"\$\.threads"),
        ("thread = 2", "unknown field `thread`"),
        ("[inner]\nwidth = 1", "unknown field `width`"),
        ("[inner]\ndepth = 0", r"\$\.inner\.depth"),
        ("threads = ", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_key(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"configuration file .*settings\.toml.*{reason}"):
        settings(file=written(tmp_path, text))


def test_a_flag_out_of_range_is_refused_with_the_names_of_all_settings() -> None:
    with pytest.raises(ConfigError, match=r"threads.*the settings are pair, threads, inner"):
        settings("--threads", "0")


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        settings(file=tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        settings(file=tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe = 1")
    with pytest.raises(ConfigError, match="cannot be read"):
        settings(file=tmp_path / "bytes.toml")


CHILD = """
import argparse, signal, sys
from multispin_models.process import exit_with_parent
exit_with_parent()
print("tied", flush=True)
signal.pause()
"""

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_process_that_is_tied_to_its_parent_ends_with_it() -> None:
    done: Any = subprocess.run([sys.executable, "-c", PARENT, CHILD], capture_output=True, check=True, timeout=60)
    status = Path(f"/proc/{int(done.stdout)}/stat")
    ends = time.monotonic() + 10.0
    while not has_ended(status):
        assert time.monotonic() < ends, "the child lives on"


def has_ended(status: Path) -> bool:
    """Return whether a process is gone, or is a zombie that nobody has asked for."""
    try:
        return status.read_text().rpartition(") ")[2].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True
