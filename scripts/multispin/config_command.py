"""Check the settings of daemons before they are started or reloaded.

  multispin config check                                  those of this machine, in /etc/multispin
  multispin config check --coordinator FILE --json        one file with its drop-ins, and what is in force

A file counts with its drop-ins: after FILE all of FILE.d/*.toml by name, each over what came before. What is wrong is
said with file, line, key and what is allowed, and the exit status is 1.
"""

import argparse
from pathlib import Path

import msgspec

from multispin_agent.config import Config as AgentConfig
from multispin_coordinator.config import Config as CoordinatorConfig
from multispin_models.channel import Security, check_endpoint
from multispin_models.errors import ConfigError, MultispinError
from multispin_models.keys.key_files import CREDENTIAL, read_public, read_secret
from multispin_models.settings import load_settings
from multispin_models.settings_files import setting_files

__all__ = ["add_arguments", "run"]

FOLDER = Path("/etc/multispin")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin config`."""
    parser.add_argument("action", choices=("check",), help="read settings as the daemon would")
    parser.add_argument("--agent", metavar="FILE", help=f"of an agent ({FOLDER}/agent.toml)")
    parser.add_argument("--coordinator", metavar="FILE", help=f"of a coordinator ({FOLDER}/coordinator.toml)")
    parser.add_argument(
        "--json", action="store_true", help="print one object: what is wrong, and the settings in force"
    )


def run(args: argparse.Namespace) -> int:
    """Run `multispin config check`; return 0, or 1 if something is wrong."""
    named = {"agent": args.agent, "coordinator": args.coordinator}
    if not any(named.values()):
        named = {name: str(path) for name in named if (path := FOLDER / f"{name}.toml").exists()}
        if not named:
            raise ConfigError(
                f"neither {FOLDER}/agent.toml nor coordinator.toml is there: give --agent or --coordinator"
            )
    checked = {name: _check(name, Path(path)) for name, path in named.items() if path is not None}
    if args.json:
        print(msgspec.json.encode(checked).decode())
    else:
        for name, found in checked.items():
            print(f"{name}: {found.error or f'{found.files[0]} with {len(found.files) - 1} drop-ins is valid'}")
    return int(any(found.error for found in checked.values()))


class Checked(msgspec.Struct):
    """What became of a file.

    Attributes:
        files: it and its drop-ins.
        error: what is wrong; "" if nothing.
        settings: in force; null if something is wrong.
    """

    files: list[str]
    error: str = ""
    settings: AgentConfig | CoordinatorConfig | None = None


def _check(name: str, path: Path) -> Checked:
    checked = Checked([str(file) for file in setting_files(path)])
    try:
        if name == "agent":
            agent = load_settings(AgentConfig, path)
            _check_connection(agent.coordinator, agent.security, agent.security.server_key_file)
            checked.settings = agent
        else:
            coordinator = load_settings(CoordinatorConfig, path)
            _check_connection(coordinator.bind, coordinator.security, None)
            checked.settings = coordinator
    except MultispinError as error:
        checked.error = str(error)
    return checked


def _check_connection(endpoint: str, security: Security, server_key_file: str | None) -> None:
    """Check what a daemon would find out at its start; credentials are there only in its service."""
    check_endpoint(endpoint, security)
    if security.secret_key_file is not None and not security.secret_key_file.startswith(CREDENTIAL):
        read_secret(security.secret_key_file)
    if server_key_file is not None and not server_key_file.startswith(CREDENTIAL):
        read_public(server_key_file)
