"""The reference of all settings is what the code says, and the printed files are read back as the defaults."""

import json
from pathlib import Path

import msgspec
import pytest

from multispin.cli import main
from multispin.settings_document import DAEMONS, settings_document, settings_toml
from multispin_models.records.fields import describe_fields

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("daemon", DAEMONS)
def test_the_document_is_what_the_code_says(daemon: str) -> None:
    committed = (ROOT / daemon / "docs/settings.md").read_text(encoding="utf-8")
    assert committed == settings_document(daemon), f"multispin settings {daemon} > {daemon}/docs/settings.md"


@pytest.mark.parametrize("daemon", DAEMONS)
def test_every_setting_is_described(daemon: str) -> None:
    settings = DAEMONS[daemon].settings
    inner = [type(value) for value in msgspec.structs.astuple(settings()) if isinstance(value, msgspec.Struct)]
    for struct in [settings, *inner]:
        assert [name for name, meaning in describe_fields(struct).items() if not meaning] == [], struct


@pytest.mark.parametrize("daemon", DAEMONS)
def test_the_printed_file_holds_every_key_and_is_read_as_the_defaults(daemon: str) -> None:
    text = settings_toml(daemon)
    settings = DAEMONS[daemon].settings
    assert msgspec.convert(msgspec.toml.decode(text), settings) == settings()
    told = {line.lstrip("# ").partition(" =")[0] for line in text.splitlines() if " =" in line or line.endswith("=")}
    values = dict(zip(settings.__struct_fields__, msgspec.structs.astuple(settings()), strict=True))
    tables = {name: value for name, value in values.items() if isinstance(value, msgspec.Struct)}
    wanted = {name for name in values if name not in tables}
    for table in tables.values():
        wanted |= set(table.__struct_fields__)
    assert told == wanted


def test_bounds_units_and_flags_stand_in_the_document() -> None:
    lines = settings_document("agent").splitlines()
    [threads] = [line for line in lines if line.startswith("| `threads`")]
    assert threads == "| `threads` | integer |  | ≥ 1 | `1` | `--threads` | of a forward pass. |"
    [rate] = [line for line in lines if line.startswith("| `upload_bytes_per_s`")]
    assert "| number | B/s | > 0 | `4096.0` |" in rate
    [spool] = [line for line in lines if line.startswith("| `spool`")]
    assert "| text or null |  |  | null | `--spool` |" in spool


def test_the_command_prints_each_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "coordinator"]) == 0
    assert capsys.readouterr().out == settings_document("coordinator")
    assert main(["settings", "agent", "--toml"]) == 0
    assert capsys.readouterr().out == settings_toml("agent")
    assert main(["settings", "agent", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["http"]["max_connections"] == 64
