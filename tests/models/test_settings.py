"""Settings from a file and from flags, and what is refused of them."""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

from multispin_models.errors import ConfigError
from multispin_models.settings import add_setting_flags, changed_settings, read_settings


class Inner(Struct, frozen=True, forbid_unknown_fields=True):
    depth: Annotated[int, Meta(ge=1, le=9)] = 1
    wide: bool = False

    def __post_init__(self) -> None:
        if self.depth == 7:
            raise ValueError("depth 7 is too deep for one thread")


class Example(Struct, frozen=True, forbid_unknown_fields=True):
    pair: str = "default"
    threads: Annotated[int, Meta(ge=1)] = 1
    mode: Literal["a", "b"] = "a"
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
    assert settings(file=file) == Example("mine", 2, inner=Inner(3))
    assert settings("--threads", "4", file=file) == Example("mine", 4, inner=Inner(3))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("threads = 0", r", line 1: threads is 0; allowed: integers from 1"),
        ('\n\nthreads = "2"', r", line 3: threads is '2'; allowed: integers from 1"),
        (
            "pair = 'x'\nthread = 2",
            r", line 2: thread unknown setting; allowed are pair, threads, mode, inner; is threads meant\?",
        ),
        ("[inner]\nwidth = 1", r", line 2: inner\.width unknown setting; allowed are depth, wide"),
        ("[inner]\n# deep\ndepth = 0 # far", r", line 3: inner\.depth is 0; allowed: integers from 1 to 9"),
        ("inner.depth = 0", r", line 1: inner\.depth is 0"),
        ("inner = {depth = 0}", r", line 1: inner\.depth is 0"),
        ("inner = 3", r", line 1: inner is 3; allowed: a table of depth, wide"),
        ("mode = 'c'", r", line 1: mode is 'c'; allowed: 'a', 'b'"),
        ("[inner]\nwide = 1", r", line 2: inner\.wide is 1; allowed: true or false"),
        ("[inner]\ndepth = 7", "depth 7 is too deep for one thread"),
        ("threads = ", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_key(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"configuration file .*settings\.toml.*{reason}"):
        settings(file=written(tmp_path, text))


def test_a_flag_out_of_range_is_refused_as_the_flag_that_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--threads: threads is 0; allowed: integers from 1$"):
        settings("--threads", "0", file=written(tmp_path, "threads = 3"))


def test_drop_ins_count_in_the_order_of_their_names_and_tables_are_merged(tmp_path: Path) -> None:
    file = written(tmp_path, 'pair = "base"\nthreads = 2\n[inner]\ndepth = 3\nwide = true\n')
    drop_ins = tmp_path / "settings.toml.d"
    drop_ins.mkdir()
    (drop_ins / "20-b.toml").write_text("threads = 5\n[inner]\ndepth = 4\n")
    (drop_ins / "10-a.toml").write_text('pair = "ten"\nthreads = 4\n')
    (drop_ins / "30-c.toml.off").write_text("threads = 9\n")
    assert settings(file=file) == Example("ten", 5, inner=Inner(4, wide=True))
    (drop_ins / "15-wrong.toml").write_text("\n[inner]\ndepth = 99\n")
    assert settings(file=file).inner.depth == 4  # what is not in force is not judged
    (drop_ins / "25-wrong.toml").write_text("\n[inner]\ndepth = 99\n")
    with pytest.raises(ConfigError, match=r"settings\.toml\.d/25-wrong\.toml, line 3: inner\.depth is 99"):
        settings(file=file)
    (drop_ins / "25-wrong.toml").write_text("[inner\n")
    with pytest.raises(ConfigError, match=r"25-wrong\.toml cannot be read: .*line 1"):
        settings(file=file)


def test_of_changed_settings_only_those_are_taken_that_can_be_changed_while_running() -> None:
    old, new = Example("old", 1, inner=Inner(1)), Example("new", 2, inner=Inner(2, wide=True))
    reloadable = frozenset({"threads", "inner.depth"})
    taken = changed_settings(old, new, reloadable)
    assert taken == (Example("old", 2, inner=Inner(2)), ["threads", "inner.depth"], ["pair", "inner.wide"])
    assert changed_settings(old, old, reloadable) == (old, [], [])


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
