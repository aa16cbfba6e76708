"""What no sensor tells of a run, said by who made it: supply, cable, ambient, place in a campaign, what to leave out.

[notes]                                      agent.toml, coordinator.toml
supply = "27 W USB-C, official"
ambient_c = 21.5

multispin local --note supply="27 W USB-C, official" --note ambient_c=21.5 ...
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from multispin_models.errors import ConfigError

__all__ = ["FieldNotes", "notes_from_flags"]


class FieldNotes(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What no sensor tells, as it was configured.

    Attributes:
        supply: what powers the box: make and rating, battery or mains.
        cable: between supply and box, where it matters: length and gauge.
        ambient_c: of the air around it, by somebody's thermometer.
        site: where it stands.
        arm: of the campaign: which of the compared settings this run is.
        order: of the run within its block, from 0: arms are run in random order.
        warm_up_s: how long the box had worked before.
        network_nj_per_byte: nanojoules that the network is taken to spend a byte of payload, one way: a model, labelled
            so, and never added to what a meter saw.
        network_source: where that figure is from.
        exclusions: why figures of this run are to be left out, one reason each; empty for a run that counts.
        remarks: anything else.
    """

    supply: str | None = None
    cable: str | None = None
    ambient_c: Annotated[float, Meta(ge=-60.0, le=100.0)] | None = None
    site: str | None = None
    arm: str | None = None
    order: Annotated[int, Meta(ge=0)] | None = None
    warm_up_s: Annotated[float, Meta(ge=0.0)] | None = None
    network_nj_per_byte: Annotated[float, Meta(ge=0.0)] | None = None
    network_source: str | None = None
    exclusions: tuple[str, ...] = ()
    remarks: str | None = None

    def __post_init__(self) -> None:
        if self.network_nj_per_byte is not None and not self.network_source:
            raise ValueError("network_nj_per_byte is a model: say where it is from in network_source")


def notes_from_flags(flags: Iterable[str]) -> FieldNotes:
    """Return the notes that "KEY=VALUE" texts make; exclusions may be given several times.

    >>> notes_from_flags(["ambient_c=21.5", "arm=price"]).ambient_c
    21.5

    Raises:
        ConfigError: no such key, a key twice, or no such value.
    """
    allowed = ", ".join(FieldNotes.__struct_fields__)
    values: dict[str, str] = {}
    exclusions: list[str] = []
    for flag in flags:
        key, equals, value = flag.partition("=")
        if not equals or key not in FieldNotes.__struct_fields__ or not value:
            raise ConfigError(f"--note is {flag!r}, allowed is KEY=VALUE with one of {allowed}")
        if key == "exclusions":
            exclusions.append(value)
        elif key in values:
            raise ConfigError(f"--note {key} is given twice: {values[key]!r} and {value!r}; give it once")
        else:
            values[key] = value
    try:
        return msgspec.convert({**values, "exclusions": exclusions}, FieldNotes, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--note: {error}") from error
