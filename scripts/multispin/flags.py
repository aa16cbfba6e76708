"""Kinds of flags that several commands take, and what a bench says of the machine."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from multispin_coordinator.config import DEFAULT_POLICY
from multispin_coordinator.control.policies import POLICIES
from multispin_coordinator.schedule import SCHEDULES
from multispin_models.clock import wall_time
from multispin_models.errors import ConfigError
from multispin_models.ngram import MIN_NGRAM
from multispin_models.records import describe_machine, read_governor
from multispin_models.verification import RULES

__all__ = [
    "add_draft_flags",
    "add_policy_flags",
    "cores",
    "machine_facts",
    "numbers",
    "parse_engines",
    "policy_of",
    "positive",
]


def add_draft_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where the agents' drafts come from."""
    parser.add_argument("--draft", default="model", metavar="SOURCE", help="model (default), lookup, or lookup+model")
    parser.add_argument(
        "--lookup-min-ngram",
        type=int,
        default=MIN_NGRAM,
        metavar="N",
        help="shortest match of a lookup, in tokens (default %(default)s)",
    )


def add_policy_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how much is drafted, and how it is verified."""
    parser.add_argument(
        "--policy",
        metavar="NAME",
        help=f"one of {', '.join(POLICIES)} (default {DEFAULT_POLICY}; fixed, if --num-draft-tokens is given)",
    )
    parser.add_argument(
        "--schedule", default="continuous", metavar="NAME", help=f"one of {', '.join(SCHEDULES)} (default %(default)s)"
    )
    parser.add_argument(
        "--num-draft-tokens", type=int, metavar="L", help="drafted a round with policy fixed (default 4)"
    )
    parser.add_argument(
        "--verification", default="coupled", metavar="RULE", help=f"one of {', '.join(RULES)} (default %(default)s)"
    )
    parser.add_argument(
        "--draft-entries",
        type=positive,
        default=1024,
        metavar="M",
        help="tokens that a draft is sampled from, by a rejection rule (default 1024)",
    )


def policy_of(args: argparse.Namespace) -> dict[str, object]:
    """Return the settings that the flags of `add_policy_flags` give: who names a length means a fixed one."""
    length = args.num_draft_tokens
    return {
        "policy": args.policy or (DEFAULT_POLICY if length is None else "fixed"),
        "schedule": args.schedule,
        "verification": args.verification,
        "draft_entries": args.draft_entries,
        **({} if length is None else {"num_draft_tokens": length}),
    }


def parse_engines(text: str, allowed: Sequence[str]) -> list[str]:
    """Return the parts of "ENGINE[:RECIPE],...", each an engine of `allowed`.

    >>> parse_engines("llamacpp,onnx:w8a8", ["llamacpp", "onnx"])
    ['llamacpp', 'onnx:w8a8']

    Raises:
        ConfigError: an engine is not known, or a part stands there twice.
    """
    parts = text.split(",")
    for part in parts:
        if part.split(":")[0] not in allowed:
            raise ConfigError(f"--engine has {part!r}, allowed are {', '.join(allowed)}, with :RECIPE or without")
    if len(set(parts)) < len(parts):
        raise ConfigError(f"--engine is {text!r}: name each only once")
    return parts


def numbers(text: str) -> list[int]:
    """Return different numbers from 1 up, written as 1,2,5."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1 or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r}: give different numbers from 1 up, as 1,2,5")
    return found


def positive(text: str) -> int:
    """Return one number from 1 up."""
    found = numbers(text)
    if len(found) > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give one number from 1 up")
    return found[0]


def cores(text: str) -> list[int]:
    """Return numbers of cores that this process may run on."""
    usable = os.sched_getaffinity(0)
    try:
        found = {int(part) for part in text.split(",")}
    except ValueError:
        found = {-1}
    if not usable.issuperset(found):
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are numbers out of {','.join(map(str, sorted(usable)))}")
    return sorted(found)


def machine_facts() -> dict[str, Any]:
    """Return what a figure needs to be understood later."""
    return {
        "started_at": wall_time(),
        "machine": describe_machine(),
        "governor": read_governor(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "load_average_1min": os.getloadavg()[0],
    }
