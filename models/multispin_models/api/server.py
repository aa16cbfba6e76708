"""The HTTP server in the event loop of its daemon: uvicorn without its signal handlers and with bounded connections."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import uvicorn
from starlette.types import ASGIApp

from multispin_models.api.connection import BoundedConnection
from multispin_models.api.settings import HttpSettings
from multispin_models.channel import is_loopback
from multispin_models.errors import ConfigError

__all__ = ["HttpServer", "check_listen"]

TICK_S = 1.0  # uvicorn's Date header
CLOSE_S = 2  # for replies to leave, at the end


def check_listen(address: str, keys_file: str | None) -> tuple[str, int]:
    """Return host and port of an address to listen on; a daemon asks before it loads its model.

    Raises:
        ConfigError: not HOST:PORT, or off loopback without keys.
    """
    parts = urlsplit(f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None or parts.netloc != address:
        raise ConfigError(f"http_listen is {address!r}, allowed is HOST:PORT, as 127.0.0.1:8080")
    if keys_file is None and not is_loopback(f"tcp://{address}"):
        raise ConfigError(
            f"http_listen {address} is not loopback and no keys are set: give http_keys_file, or use 127.0.0.1:PORT"
        )
    return host, port


class HttpServer:
    """Listens from the moment it is made; answers from `start` to `stop`.

    Args:
        app: what answers.
        host, port: where; port 0 takes a free one.
        settings: bounds.

    Raises:
        ConfigError: the address is taken or no address of this machine.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, settings: HttpSettings) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=settings.max_connections)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on http://{host}:{port}: {error.strerror}; choose another --http-listen"
            ) from error
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # a stranger's garbage must not fill the log
        config = uvicorn.Config(
            cast(Any, app),
            http=cast("type[asyncio.Protocol]", partial(BoundedConnection, settings)),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=settings.access_log,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=settings.idle_timeout_s,
            timeout_graceful_shutdown=CLOSE_S,
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it listens, with the port that was found for 0."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def num_connections(self) -> int:
        """Connections that are open."""
        return len(self._server.server_state.connections)

    def start(self) -> None:
        """Answer from now on."""
        self._serving = asyncio.create_task(self._server.serve([self._socket]))

    async def stop(self) -> None:
        """Close: replies get two seconds to leave, then their connections are cut off. Twice is no error."""
        if self._serving is None:
            self._socket.close()
            return
        self._server.end()
        await self._serving
        state = self._server.server_state
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the daemon."""
        yield

    async def main_loop(self) -> None:
        """Wake up once a second, not ten times, and at once when it is to end."""
        while not self.should_exit:
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._ending.wait()
