"""Settings in TOML: a file, then the files of its drop-in folder in order, merged, each value with its place.

    /etc/multispin/agent.toml             first
    /etc/multispin/agent.toml.d/*.toml    then these by name, each over what came before; tables are merged key by key

A place is the file and the line where a key stands, so that a message can say where to look.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from multispin_models.errors import ConfigError

__all__ = ["Layers", "Place", "read_layers", "setting_files"]

TABLE: Final = re.compile(r"^\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$")
KEY: Final = re.compile(r"^\s*([A-Za-z0-9_.\"'\- ]+?)\s*=")


class Place(NamedTuple):
    """Where a key stands.

    Attributes:
        file: its path.
        line: counted from 1; 0 if it was not found.
    """

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}" if self.line else str(self.file)


class Layers(NamedTuple):
    """Merged settings.

    Attributes:
        values: nested tables.
        places: of every key and table, by its path, as ("limits", "max_rows"); the last file that has it.
        files: that were read.
    """

    values: dict[str, Any]
    places: dict[tuple[str, ...], Place]
    files: list[Path]


def setting_files(path: Path) -> list[Path]:
    """Return a file and its drop-ins, FILE.d/*.toml, in the order in which they count."""
    return [path, *sorted(path.with_name(f"{path.name}.d").glob("*.toml"), key=lambda drop_in: drop_in.name)]


def read_layers(path: Path) -> Layers:
    """Return a file of settings with its drop-ins merged over it.

    Raises:
        ConfigError: one cannot be read or is no TOML; says which, and the line.
    """
    values: dict[str, Any] = {}
    places: dict[tuple[str, ...], Place] = {}
    files = setting_files(path)
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
            layer = tomllib.loads(text)
        except (OSError, ValueError) as error:  # of TOML and of UTF-8; the first names its line
            raise ConfigError(f"configuration file {file} cannot be read: {error}") from error
        _merge(values, layer)
        lines = _lines(text)
        for keys in _paths(layer):
            # Of a key in an inline table, the line of the table.
            places[keys] = Place(file, next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), 0))
    return Layers(values, places, files)


def _merge(values: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        known = values.get(key)
        if isinstance(value, dict) and isinstance(known, dict):
            _merge(known, value)
        else:
            values[key] = value


def _paths(layer: Mapping[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in layer.items():
        found.append((*above, key))
        if isinstance(value, dict):
            found += _paths(value, (*above, key))
    return found


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the lines of keys; of a key in an inline table, or beside text over several lines, perhaps none."""
    table: tuple[str, ...] = ()
    found: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := TABLE.match(line):
            table = _parts(header[1])
            found.setdefault(table, number)
        elif key := KEY.match(line):
            found.setdefault((*table, *_parts(key[1])), number)
    return found


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
