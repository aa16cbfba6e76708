"""Time-outs of a connection, which uvicorn leaves to a proxy in front: for requests that trickle in, and for readers
that take nothing. Three timers at most, none of them in the way of a round.
"""

import asyncio
from typing import Any, cast

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from multispin_models.api.errors import invalid
from multispin_models.api.settings import HttpSettings

__all__ = ["BoundedConnection"]


class BoundedConnection(H11Protocol):
    """A connection that a client cannot hold for longer than it uses it.

    Args:
        bounds: the time-outs, and how many connections there may be.
        arguments: of uvicorn's protocol.
    """

    def __init__(self, bounds: HttpSettings, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._bounds = bounds
        self._request_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it, and wait for its first request."""
        super().connection_made(transport)
        if len(self.connections) > self._bounds.max_connections:
            transport.abort()
            return
        # Any byte that the client's side does not take starts the timer, not only those above a mark.
        transport.set_write_buffer_limits(high=0)
        self._watch_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        super().connection_lost(exc)
        _cancel(self._request_timer)
        _cancel(self._send_timer)
        self._request_timer = self._send_timer = None

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request."""
        super().data_received(data)
        self._watch_request()

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        super().on_response_complete()
        self._watch_request()

    def pause_writing(self) -> None:
        """The client takes less than there is."""
        super().pause_writing()
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self._bounds.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """All is sent."""
        super().resume_writing()
        _cancel(self._send_timer)
        self._send_timer = None

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, msg)

    def _watch_request(self) -> None:
        """Run the timer for as long as a request has begun and not come in whole."""
        state = self.conn.their_state
        begun = bool(self.conn.trailing_data[0]) or self.cycle is None
        if state is h11.SEND_BODY or (state is h11.IDLE and begun):
            if self._request_timer is None and not self.transport.is_closing():
                self._request_timer = self.loop.call_later(self._bounds.request_timeout_s, self._on_late_request)
        else:
            _cancel(self._request_timer)
            self._request_timer = None

    def _on_late_request(self) -> None:
        self._refuse(408, f"the request did not come in whole within {self._bounds.request_timeout_s:g} s")

    def _refuse(self, status: int, message: str) -> None:
        """Answer a request that did not come, if that can still be done, and close."""
        cycle = cast(Any, self.cycle)  # uvicorn says that it is never None; before the first request it is
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = msgspec.json.encode(invalid(message, status=status).body)
            headers = [("content-type", "application/json"), ("connection", "close")]
            headers.append(("content-length", str(len(body))))
            parts = (
                h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            self.transport.write(b"".join(self.conn.send(part) or b"" for part in parts))
        self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
