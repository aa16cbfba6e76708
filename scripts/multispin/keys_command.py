"""Makes, registers, lists, changes and revokes the CURVE keys of coordinator and boxes.

on the coordinator:
  multispin keys create                                   its key pair, and the folder of agents
  multispin keys token ap-07 --endpoint tcp://HOST:5598   a token that makes one box the device ap-07, once, for a day
  multispin keys list
  multispin keys revoke ap-07                             a running coordinator drops its connection within 0.2 s
on a box:
  multispin keys enrol TOKEN-FILE                         makes this box's key and registers it; - reads standard input
  multispin keys rotate                                   a new key in the place of this box's

What each file holds, and what refuses what: coordinator/docs/keys.md.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import msgspec

from multispin_agent.enrolment import Enrolled, enrol, rotate
from multispin_models.channel import is_loopback
from multispin_models.errors import ConfigError
from multispin_models.keys.key_files import make_folder, make_pair, read_public, write_file, write_pair
from multispin_models.keys.registry import Registry, fingerprint
from multispin_models.keys.token import decode_token, encode_token, new_token

__all__ = ["add_arguments", "run"]

KEYS = Path("/etc/multispin/keys")
AGENTS = Path("/var/lib/multispin-coordinator/agents")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of `multispin keys`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make the coordinator's key pair and the folder of agents")
    create.add_argument("--replace", action="store_true", help="put a new pair in its place: every box must enrol anew")
    token = actions.add_parser("token", help="print a token with which one box becomes a device, once")
    token.add_argument("device", metavar="DEVICE", help="the agent id that the box will have")
    token.add_argument(
        "--endpoint", required=True, metavar="ENDPOINT", help="where boxes reach enrol_bind, tcp://HOST:PORT"
    )
    token.add_argument("--hours", type=float, default=24.0, metavar="H", help="until it expires (default %(default)s)")
    token.add_argument("--replace", action="store_true", help="of a device that has a key: the old one goes")
    listing = actions.add_parser("list", help="devices, revoked keys and open tokens")
    revoke = actions.add_parser("revoke", help="take away a device's key and its open tokens")
    revoke.add_argument("device", metavar="DEVICE")
    enrolling = actions.add_parser("enrol", help="on a box: make its key and register it with a token")
    enrolling.add_argument("file", metavar="FILE", help="that holds the token; - is standard input")
    enrolling.add_argument("--write-config", metavar="FILE", help="write who it is and its coordinator as settings")
    actions.add_parser("rotate", help="on a box: put a new key in the place of its key")
    for action in (create, token, *(actions.choices[name] for name in ("enrol", "rotate"))):
        action.add_argument("--keys", type=Path, default=KEYS, metavar="DIR", help="this machine's keys (%(default)s)")
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", help="print one JSON object")
    for action in (create, token, listing, revoke):
        action.add_argument("--agents", type=Path, default=AGENTS, metavar="DIR", help="registry (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run `multispin keys ACTION`; return the exit status."""
    actions = {"create": _create, "token": _token, "list": _list, "revoke": _revoke, "enrol": _enrol, "rotate": _rotate}
    actions[args.action](args)
    return 0


def _say(args: argparse.Namespace, text: str, **facts: object) -> None:
    print(json.dumps(facts) if args.json else text)


def _create(args: argparse.Namespace) -> None:
    pair = make_pair()
    write_pair(args.keys, "coordinator", pair, replace=args.replace)
    make_folder(args.agents)
    key = fingerprint(pair.public.decode())
    text = f"coordinator's key {key} is in {args.keys}, agents will be in {args.agents}"
    _say(args, text, fingerprint=key, keys=str(args.keys), agents=str(args.agents))


def _token(args: argparse.Namespace) -> None:
    is_loopback(args.endpoint)  # refuses what is no address
    if not 0 < args.hours <= 24 * 366:
        raise ConfigError(f"--hours is {args.hours}, allowed is above 0 to {24 * 366}")
    token = new_token(read_public(str(args.keys / "coordinator.key")).decode(), args.endpoint)
    _registry(args).add_token(token, args.device, time.time() + args.hours * 3600, replace=args.replace)
    _say(args, encode_token(token), token=encode_token(token), device_id=args.device, hours=args.hours)


def _registry(args: argparse.Namespace) -> Registry:
    return Registry(args.agents)


def _list(args: argparse.Namespace) -> None:
    registry = _registry(args)
    now_s = time.time()
    tokens = [
        {"token": token_id, "device_id": record.device_id, "state": _state(record.used_by, record.expires_s, now_s)}
        for token_id, record in registry.tokens().items()
    ]
    devices, revoked = (msgspec.to_builtins(keys) for keys in (registry.devices(), registry.revoked()))
    if args.json:
        print(json.dumps({"devices": devices, "revoked": revoked, "tokens": tokens}))
        return
    for state, keys in (("registered", devices), ("revoked", revoked)):
        for key in keys:
            when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(key["registered_s"]))
            print(f"{key['device_id']:<24} {state:<12} key {key['fingerprint']}  since {when}")
    for token in tokens:
        print(f"{token['device_id']:<24} {'token':<12} {token['token']}  {token['state']}")


def _state(used_by: str | None, expires_s: float, now_s: float) -> str:
    if used_by is not None:
        return f"used by key {fingerprint(used_by)}"
    return "expired" if now_s >= expires_s else f"open, {(expires_s - now_s) / 3600:.1f} hours left"


def _revoke(args: argparse.Namespace) -> None:
    taken = _registry(args).revoke(args.device)
    if not taken:
        raise ConfigError(
            f"device {args.device!r} has no key and no open token; `multispin keys list` shows what there is"
        )
    text = f"{args.device}: {taken} keys and tokens taken away; a running coordinator drops its connection"
    _say(args, text, device_id=args.device, taken=taken)


def _enrol(args: argparse.Namespace) -> None:
    try:
        text = sys.stdin.read() if args.file == "-" else Path(args.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token file {args.file} cannot be read: {error}") from error
    enrolled = enrol(args.keys, decode_token(text))
    if args.write_config is not None:
        write_file(Path(args.write_config), _settings(enrolled, args.keys), 0o644, replace=True)
    text = f"this box is {enrolled.device_id}; its coordinator is {enrolled.coordinator}; keys are in {args.keys}"
    _say(args, text, **msgspec.to_builtins(enrolled), keys=str(args.keys))


def _settings(enrolled: Enrolled, keys: Path) -> str:
    """Return the agent's settings; keys where packages have them come to the service as credentials."""
    secret, server = (
        f"credential:keys_{name}" if keys == KEYS else str(keys.resolve() / name)
        for name in ("agent.key_secret", "coordinator.key")
    )
    lines = [
        "# Written by `multispin keys enrol`.",
        *_lines(agent_id=enrolled.device_id, coordinator=enrolled.coordinator),
    ]
    return "\n".join([*lines, "", "[security]", *_lines(secret_key_file=secret, server_key_file=server), ""])


def _lines(**settings: str) -> list[str]:
    return [f"{name} = {json.dumps(value)}" for name, value in settings.items()]  # a JSON string is one of TOML


def _rotate(args: argparse.Namespace) -> None:
    enrolled = rotate(args.keys)
    text = f"{enrolled.device_id} has a new key; restart the agent: its old connection is dropped"
    _say(args, text, device_id=enrolled.device_id)
