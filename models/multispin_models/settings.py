"""Settings of a daemon from a TOML file and from flags, checked strictly.

Each setting is a field of a frozen Struct; a flag of the same name wins over the file. What is unknown, of the wrong
type or out of range is refused with its name.
"""

import argparse
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from multispin_models.energy.sensors import METER_FORMS
from multispin_models.errors import ConfigError
from multispin_models.process import exit_with_parent

__all__ = ["add_setting_flags", "read_settings"]

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
    """Return settings from the file in `args.config` and from the flags; tie the process to its parent if asked.

    Raises:
        ConfigError: the file cannot be read, or a setting is not valid; says which file and which key.
    """
    if args.exit_with_parent is not None:
        exit_with_parent(args.exit_with_parent)
    path: str | None = args.config
    values: dict[str, Any] = {}
    where = "settings"
    if path is not None:
        where = f"configuration file {path}"
        try:
            values = msgspec.toml.decode(Path(path).read_bytes())
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where} cannot be read: {error}") from error
    for name in kind.__struct_fields__:
        given = getattr(args, name, None)
        if given is not None:
            values[name] = given
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        allowed = ", ".join(kind.__struct_fields__)
        raise ConfigError(f"{where}: {error}; the settings are {allowed}") from error
