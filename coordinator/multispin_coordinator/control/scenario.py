"""What a plan starts from: the users, their channel, and what a verification costs.

bandwidth_hz = 10e6
l_max = 25
noise = "total"             # rate = b * log2(1 + snr); "density": rate = b * log2(1 + s_hz / b)

[verify]                    # T_v = c0_s + per_user_s * users + per_row_s * rows
c0_s = 0.0227
per_user_s = 0.0127

[[user]]
draft_s = 0.012             # per drafted token
alpha = 0.74                # or survival = [0.8, 0.7, ...]: the first 1, 2, ... drafted tokens are all accepted
snr = 9.5                   # or s_hz, with noise = "density"
bits_per_token = 31744
"""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from multispin_models.errors import ConfigError

__all__ = ["Scenario", "User", "Verify", "read_scenario"]

Positive = Annotated[float, Meta(gt=0.0, le=1e15)]
NotNegative = Annotated[float, Meta(ge=0.0, le=1e15)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
BelowOne = Annotated[float, Meta(ge=0.0, lt=1.0)]


class Verify(Struct, frozen=True, forbid_unknown_fields=True):
    """Cost of one verification, in seconds: `c0_s + per_user_s * users + per_row_s * rows`; not all of them 0."""

    c0_s: NotNegative
    per_row_s: NotNegative = 0.0
    per_user_s: NotNegative = 0.0

    def __post_init__(self) -> None:
        if self.c0_s + self.per_row_s + self.per_user_s <= 0:
            raise ValueError("c0_s, per_row_s and per_user_s are all 0, allowed is a verification that takes time")


class User(Struct, frozen=True, forbid_unknown_fields=True):
    """One user.

    Attributes:
        draft_s: seconds per drafted token.
        alpha: probability that a drafted token is accepted, each by itself; or `survival`.
        survival: of 1, 2, ... drafted tokens, all are accepted; what lies behind the list is never drafted.
        snr: signal power over the noise power in all of the band, with noise "total".
        s_hz: signal power over the noise power in one hertz, with noise "density".
        bits_per_token: uploaded for a drafted token.
        weight: of this user's tokens in the goodput.
    """

    draft_s: Positive
    alpha: BelowOne | None = None
    survival: tuple[Probability, ...] | None = None
    snr: Positive | None = None
    s_hz: Positive | None = None
    bits_per_token: NotNegative = 0.0
    weight: Positive = 1.0


class Scenario(Struct, frozen=True, forbid_unknown_fields=True):
    """Users that share a band and a target. See the module's example."""

    bandwidth_hz: Positive
    verify: Verify
    user: Annotated[tuple[User, ...], Meta(min_length=1)]
    l_max: Annotated[int, Meta(ge=1, le=1000)] = 25
    noise: Literal["total", "density"] = "total"


def read_scenario(path: Path) -> Scenario:
    """Return the scenario of a TOML file.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or out of range, or a user lacks what is needed.
    """
    try:
        values = msgspec.toml.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"scenario {path} cannot be read: {error}") from error
    try:
        scenario = msgspec.convert(values, Scenario)
    except msgspec.ValidationError as error:
        raise ConfigError(f"scenario {path}: {error}; {_allowed(str(error))}") from error
    for number, user in enumerate(scenario.user):
        if fault := _fault(user, scenario.noise):
            raise ConfigError(f"scenario {path}: `$.user[{number}]`: {fault}")
    return scenario


def _allowed(fault: str) -> str:
    """Return the keys of the table that a fault is in."""
    tables = {"$.user[": ("[[user]]", User), "$.verify": ("[verify]", Verify)}
    name, table = next((tables[place] for place in tables if place in fault), ("a scenario", Scenario))
    return f"the keys of {name} are {', '.join(table.__struct_fields__)}"


def _fault(user: User, noise: str) -> str:
    needed, other = ("snr", "s_hz") if noise == "total" else ("s_hz", "snr")
    if (user.alpha is None) == (user.survival is None):
        return "give either alpha or survival"
    if getattr(user, needed) is None or getattr(user, other) is not None:
        return f'give {needed}, and not {other}: noise is "{noise}"'
    if user.survival is not None and any(after > before for before, after in pairwise((1.0, *user.survival))):
        return f"survival is {list(user.survival)}, allowed are probabilities that never rise"
    return ""
