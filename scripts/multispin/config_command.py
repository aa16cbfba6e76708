"""Check the settings of daemons before they are started or reloaded.

  multispin config check                                  those of this machine, in /etc/multispin
  multispin config check --coordinator FILE --show        one file with its drop-ins, and what is in force

A file counts with its drop-ins: after FILE all of FILE.d/*.toml by name, each over what came before. What is wrong is
said with file, line, key and what is allowed, and the exit status is 1.
"""

import argparse
from pathlib import Path

import msgspec

import multispin_agent.config
import multispin_coordinator.config
from multispin_models.channel import Security, check_endpoint
from multispin_models.errors import ConfigError, MultispinError
from multispin_models.keys.key_files import CREDENTIAL, read_public, read_secret
from multispin_models.settings import load_settings
from multispin_models.settings_files import setting_files

__all__ = ["add_arguments", "run"]

FOLDER = Path("/etc/multispin")
AgentConfig, CoordinatorConfig = multispin_agent.config.Config, multispin_coordinator.config.Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin config`."""
    parser.add_argument("action", choices=("check",), help="read settings as the daemon would")
    parser.add_argument("--agent", metavar="FILE", help=f"of an agent ({FOLDER}/agent.toml)")
    parser.add_argument("--coordinator", metavar="FILE", help=f"of a coordinator ({FOLDER}/coordinator.toml)")
    parser.add_argument("--show", action="store_true", help="print the settings in force, a JSON object a file")


def run(args: argparse.Namespace) -> int:
    """Run `multispin config check`; return 0, or 1 if something is wrong."""
    named = {"agent": args.agent, "coordinator": args.coordinator}
    if not any(named.values()):
        named = {name: str(path) for name in named if (path := FOLDER / f"{name}.toml").exists()}
        if not named:
            raise ConfigError(
                f"neither {FOLDER}/agent.toml nor coordinator.toml is there: give --agent or --coordinator"
            )
    wrong = 0
    for name, path in named.items():
        if path is not None:
            wrong += _check(name, Path(path), show=args.show)
    return min(wrong, 1)


def _check(name: str, path: Path, *, show: bool) -> int:
    try:
        if name == "agent":
            agent = load_settings(AgentConfig, path)
            _check_connection(agent.coordinator, agent.security, agent.security.server_key_file)
            settings: msgspec.Struct = agent
        else:
            coordinator = load_settings(CoordinatorConfig, path)
            _check_connection(coordinator.bind, coordinator.security, None)
            settings = coordinator
    except MultispinError as error:
        print(f"{name}: {error}")
        return 1
    drop_ins = len(setting_files(path)) - 1
    print(f"{name}: {path} with {drop_ins} drop-ins is valid")
    if show:
        print(msgspec.json.encode(settings).decode())
    return 0


def _check_connection(endpoint: str, security: Security, server_key_file: str | None) -> None:
    """Check what a daemon would find out at its start; credentials are there only in its service."""
    check_endpoint(endpoint, security)
    if security.secret_key_file is not None and not security.secret_key_file.startswith(CREDENTIAL):
        read_secret(security.secret_key_file)
    if server_key_file is not None and not server_key_file.startswith(CREDENTIAL):
        read_public(server_key_file)
