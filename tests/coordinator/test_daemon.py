"""The coordinator's daemon as a service manager sees it: ready when it serves, reloaded without a loss, stopped."""

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import zmq
from tests.toy_model import END_TOKEN, ToyModel

from multispin_coordinator import daemon
from multispin_coordinator.config import Config, Limits
from multispin_models.engines import Loaded
from multispin_models.messages import PROTOCOL_VERSION, Draft, Hello, Open, decode_coordinator_message, encode
from multispin_models.sampling import Sampling


class Tokenizer:
    end_token_ids = frozenset({END_TOKEN})


class Agent:
    """A blocking connection, used from another thread than the daemon's."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, name: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvtimeo = 10_000
        self.socket.routing_id = name.encode()
        self.socket.connect(endpoint)
        self.name = name

    def ask(self, message: Any) -> Any:
        self.socket.send(encode(message))
        return decode_coordinator_message(self.socket.recv())

    def hello(self) -> Any:
        return self.ask(Hello(PROTOCOL_VERSION, self.name, "1", "toy", "toy", f"{self.name}-1"))


def test_it_is_ready_when_it_serves_and_a_reload_changes_limits_under_an_open_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = ToyModel()
    monkeypatch.setattr(daemon, "load_target", lambda *_: (Loaded(target, Tokenizer()), target.info))  # type: ignore[arg-type]
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "600000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    small = Config(bind="tcp://127.0.0.1:*", meter="none", limits=Limits(max_agents=1))
    files = [small]

    def tell(manager: socket.socket) -> tuple[str, str]:
        """Return the next that is told and its status, but for progress."""
        while (told := manager.recv(1000).decode()) == "WATCHDOG=1":
            progress.append(told)
        first, _, rest = told.partition("\n")
        return first, rest.removeprefix("STATUS=")

    def session(manager: socket.socket) -> None:
        """Act from another thread as agents and as the administrator."""
        ready, status = tell(manager)
        assert ready == "READY=1"
        endpoint = status.removeprefix("serving at ")
        with zmq.Context() as context:
            first, second = (Agent(context, endpoint, name) for name in ("first", "second"))
            assert type(first.hello()).__name__ == "Welcome"
            assert second.hello().code == "too_many_agents"
            verdict = first.ask(Open(7, 1, (1, 2, 3), 3, 20, Sampling()))
            assert verdict.request_id == 7
            files.append(Config(bind="tcp://127.0.0.1:1", meter="none", limits=Limits(max_agents=2)))
            os.kill(os.getpid(), signal.SIGHUP)
            assert [tell(manager)[0], tell(manager)] == [
                "RELOADING=1",
                ("READY=1", "serving; a restart is needed for bind"),
            ]
            assert type(second.hello()).__name__ == "Welcome"
            assert first.ask(Draft(7, 2, 4, ())).round == 2  # its request goes on
            first.socket.close()
            second.socket.close()
        os.kill(os.getpid(), signal.SIGTERM)
        assert tell(manager)[0] == "STOPPING=1"

    async def part(manager: socket.socket) -> None:
        acting = asyncio.to_thread(session, manager)
        await asyncio.wait_for(asyncio.gather(daemon.serve(small, lambda: files[-1]), acting), 60)

    progress: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20.0)
        asyncio.run(part(manager))
    assert progress  # told through the engine's thread
