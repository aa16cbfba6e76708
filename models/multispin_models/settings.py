"""Settings of a daemon from TOML files and from flags, checked strictly.

Each setting is a field of a frozen Struct; a flag of the same name wins over the files. What is unknown, of the wrong
type or out of range is refused with its file, line and name, and what is allowed there.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec

from multispin_models.energy.sensors import METER_FORMS
from multispin_models.errors import ConfigError
from multispin_models.process import exit_with_parent
from multispin_models.settings_allowed import allowed_keys, allowed_values, closest
from multispin_models.settings_files import Layers, read_layers

__all__ = ["add_setting_flags", "changed_settings", "load_settings", "read_settings"]

AT: Final = re.compile(r" - at `\$((?:\.[A-Za-z0-9_]+)*)`$")
UNKNOWN: Final = re.compile(r"unknown field `([^`]*)`")

Settings = TypeVar("Settings", bound=msgspec.Struct)


def add_setting_flags(parser: argparse.ArgumentParser, engines: tuple[str, ...]) -> None:
    """Add the flags that both daemons have."""
    parser.add_argument("--pair", metavar="PAIR", help="packaged pair, or path of a pair manifest (.toml)")
    parser.add_argument("--engine", metavar="ENGINE[:RECIPE]", help=f"what computes the model: {', '.join(engines)}")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a forward pass")
    parser.add_argument("--meter", metavar="METER", help=f"energy meter: {', '.join(METER_FORMS)}")
    parser.add_argument("--idle-s", type=float, metavar="S", help="measure the idle baseline so long")
    parser.add_argument(
        "--exit-with-parent", type=int, metavar="PID", help="end when that process, which started this one, dies"
    )


def read_settings(kind: type[Settings], args: argparse.Namespace) -> Settings:
    """Return settings from the file in `args.config`, its drop-ins and flags; tie the process to its parent if asked.

    Raises:
        ConfigError: a file cannot be read, or a setting is not valid; says file, line, key, and what is allowed.
    """
    if args.exit_with_parent is not None:
        exit_with_parent(args.exit_with_parent)
    flags = {name: getattr(args, name, None) for name in kind.__struct_fields__}
    return load_settings(
        kind,
        None if args.config is None else Path(args.config),
        {name: value for name, value in flags.items() if value is not None},
    )


def load_settings(kind: type[Settings], path: Path | None, flags: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """Return settings from a file with its drop-ins, and flags over them.

    Raises:
        ConfigError: as `read_settings`.
    """
    layers = Layers({}, {}, []) if path is None else read_layers(path)
    try:
        return msgspec.convert({**layers.values, **flags}, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(kind, layers, flags, str(error))) from error


def _explain(kind: type[msgspec.Struct], layers: Layers, flags: Mapping[str, Any], error: str) -> str:
    """Return what is wrong, where it stands, and what is allowed there."""
    found = AT.search(error)
    path = tuple(found[1].split(".")[1:]) if found else ()
    said = error[: found.start()] if found else error
    if unknown := UNKNOWN.search(said):
        keys = allowed_keys(kind, path)
        meant = closest(unknown[1], keys)
        path = (*path, unknown[1])
        what = f"unknown setting; allowed are {', '.join(keys)}" + (f"; is {meant} meant?" if meant else "")
    elif path and not isinstance(value := _value_at({**layers.values, **flags}, path), dict):
        what = f"is {value!r}; allowed: {allowed_values(kind, path)}"
    else:
        what = said  # about several settings at once; it names them
    if path and path[0] in flags:
        where = f"--{path[0].replace('_', '-')}"
    elif path in layers.places:
        where = f"configuration file {layers.places[path]}"
    else:
        where = f"configuration file {layers.files[0]}" if layers.files else "settings"
    return f"{where}: {'.'.join(path)}{' ' if path else ''}{what}"


def _value_at(values: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        values = values[key]
    return values


def changed_settings(old: Settings, new: Settings, reloadable: frozenset[str]) -> tuple[Settings, list[str], list[str]]:
    """Return the old settings with what can be changed while running, and the names of what was and was not changed.

    Args:
        old: in force.
        new: as they stand in the files now.
        reloadable: names, a dot between table and setting, as "limits.max_waiting".
    """
    return _changed(old, new, reloadable, "")


def _changed(old: Any, new: Any, reloadable: frozenset[str], prefix: str) -> tuple[Any, list[str], list[str]]:
    values: dict[str, Any] = {}
    taken: list[str] = []
    left: list[str] = []
    for field in old.__struct_fields__:
        before, after, name = getattr(old, field), getattr(new, field), prefix + field
        if before == after:
            continue
        if name in reloadable:
            values[field] = after
            taken.append(name)
        elif isinstance(before, msgspec.Struct):
            values[field], more_taken, more_left = _changed(before, after, reloadable, f"{name}.")
            taken += more_taken
            left += more_left
        else:
            left.append(name)
    return msgspec.structs.replace(old, **values), taken, left
