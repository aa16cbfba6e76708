"""The kinds of records that travel from a spool to a store: their names, which are summaries, and their lines."""

from typing import Final

import msgspec

from multispin_models.errors import MultispinError
from multispin_models.records.schema import (
    ConditionsRecord,
    EndRecord,
    EnergyRecord,
    GapRecord,
    RequestRecord,
    RoundRecord,
    RunHeader,
)

__all__ = ["KINDS", "AnyRecord", "RecordRefused", "decode_line", "encode_line", "is_summary"]

AnyRecord = RunHeader | RequestRecord | RoundRecord | EnergyRecord | GapRecord | EndRecord | ConditionsRecord

KINDS: Final[dict[str, type[AnyRecord]]] = {
    kind.__name__: kind
    for kind in (RunHeader, RequestRecord, RoundRecord, EnergyRecord, GapRecord, EndRecord, ConditionsRecord)
}
_encoder = msgspec.json.Encoder()
_decoders = {name: msgspec.json.Decoder(kind) for name, kind in KINDS.items()}


class RecordRefused(MultispinError):
    """A line that is no record of its kind."""


def is_summary(kind: str) -> bool:
    """Return whether records of this kind are kept when a spool is full: all but those of single rounds."""
    return kind != RoundRecord.__name__


def encode_line(record: AnyRecord) -> bytes:
    """Return a record as one object of JSON, without a line break."""
    return _encoder.encode(record)


def decode_line(kind: str, line: bytes) -> AnyRecord:
    """Return the record in a line.

    Raises:
        RecordRefused: an unknown kind, or no record of that kind; says which field.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        raise RecordRefused(f"records of kind {kind[:64]!r} are not known, allowed are {', '.join(KINDS)}")
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise RecordRefused(f"a line of {len(line)} bytes is no {kind}: {error}") from error
