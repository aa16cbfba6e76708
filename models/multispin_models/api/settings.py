"""Bounds of the HTTP interface."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = ["HttpSettings"]

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0.0)]


class HttpSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What the HTTP interface takes on.

    Attributes:
        max_connections: open at once; the next one is closed.
        max_body_bytes: of a request; a longer one is answered with 413.
        max_waiting: requests that wait for a slot; the next one is answered with 429.
        request_timeout_s: in which a request, headers and body, must have come.
        send_timeout_s: a client that takes nothing for so long, while text waits for it, is cut off.
        idle_timeout_s: a connection without a request is closed.
        stop_grace_s: in which requests may end when the daemon is told to; then they are ended with an error.
        metrics: what `metrics.speculative_decoding` of a reply holds: nothing, a summary, or every round as well.
        access_log: log a line a request: address, path, status.
    """

    max_connections: Positive = 64
    max_body_bytes: Annotated[int, Meta(ge=1024, le=64 << 20)] = 512 << 10
    max_waiting: Annotated[int, Meta(ge=0)] = 16
    request_timeout_s: Seconds = 30.0
    send_timeout_s: Seconds = 30.0
    idle_timeout_s: Positive = 20
    stop_grace_s: Annotated[float, Meta(ge=0.0)] = 3.0
    metrics: Literal["none", "summary", "detailed"] = "none"
    access_log: bool = False
