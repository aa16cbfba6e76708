"""What daemons tell systemd: datagrams on sockets that the tests make, and what reloading takes and leaves."""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from multispin_models import journal
from multispin_models.engine_thread import EngineThread
from multispin_models.errors import ConfigError
from multispin_models.journal import JournalHandler, is_journal
from multispin_models.service_manager import Reloader, notify, watchdog, watchdog_interval_s


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(10.0)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def test_what_is_told_is_one_datagram_of_lines(manager: socket.socket) -> None:
    assert notify("READY=1", "STATUS=serving")
    assert manager.recv(1000) == b"READY=1\nSTATUS=serving"


def test_an_abstract_address_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"multispin-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert notify("READY=1")
        assert listening.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/notify"])
def test_without_a_service_manager_nothing_happens(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert notify("READY=1") is False


@pytest.mark.parametrize(
    ("limit", "pid", "interval_s"),
    [("3000000", None, 1.0), ("3000000", "own", 1.0), ("3000000", "1", None), ("", None, None), ("0", None, None)],
)
def test_progress_is_told_three_times_in_the_limit_if_it_is_asked_for(
    limit: str, pid: str | None, interval_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", limit)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert watchdog_interval_s() == interval_s


class StuckEngine:
    """An engine whose call does not end until it is let go."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[None]] = []

    def run(self, function: Callable[..., None], *args: object) -> "asyncio.Future[None]":
        self.calls.append(asyncio.get_running_loop().create_future())
        return self.calls[-1]

    def shutdown(self) -> None: ...


def test_progress_is_told_only_when_the_engine_answers(manager: socket.socket) -> None:
    manager.setblocking(False)

    def heard() -> int:
        num = 0
        while True:
            try:
                num += manager.recv(100) == b"WATCHDOG=1"
            except BlockingIOError:
                return num

    async def part() -> tuple[int, int, int]:
        engine = StuckEngine()
        async with watchdog(engine, 0.0):
            for _ in range(20):
                await asyncio.sleep(0)
            stuck = heard()
            engine.calls[0].set_result(None)
            for _ in range(20):
                await asyncio.sleep(0)
            going = heard()
        for _ in range(20):
            await asyncio.sleep(0)
        return stuck, going, heard()

    assert asyncio.run(part()) == (0, 1, 0)


def test_progress_goes_through_the_real_engines_thread(manager: socket.socket) -> None:
    async def part() -> bytes:
        with EngineThread() as engine:
            async with watchdog(engine, 60.0):
                return await asyncio.get_running_loop().run_in_executor(None, manager.recv, 100)

    assert asyncio.run(part()) == b"WATCHDOG=1"


class Example(Struct, frozen=True):
    fast: int = 1
    slow: int = 1


def test_a_reload_applies_what_it_can_and_says_what_needs_a_restart(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    files, applied = [Example(2, 2)], []
    reload = Reloader(Example(), lambda: files[-1], frozenset({"fast"}), applied.append)
    with caplog.at_level(logging.INFO):
        reload()
    assert applied == [Example(2, 1)]
    assert manager.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert manager.recv(1000) == b"READY=1\nSTATUS=serving; a restart is needed for slow"
    assert "changed fast" in caplog.text
    files.append(Example(3, 1))
    reload()
    assert applied[-1] == Example(3, 1)


def test_a_reload_of_settings_that_are_wrong_changes_nothing(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    applied: list[Example] = []

    def wrong() -> Example:
        raise ConfigError("agent.toml, line 3: fast is 0")

    Reloader(Example(), wrong, frozenset({"fast"}), applied.append)()
    assert applied == []
    assert "line 3: fast is 0; nothing is changed" in caplog.text
    manager.recv(1000)
    assert manager.recv(1000).startswith(b"READY=1\nSTATUS=reload failed")


# -- the journal --


def parse(datagram: bytes) -> dict[str, str]:
    """Read an entry as journald does."""
    fields = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
            datagram = rest
        else:
            name, (length,) = line, struct.unpack("<Q", rest[:8])
            value, datagram = rest[8 : 8 + length], rest[9 + length :]
        fields[name.decode()] = value.decode()
    return fields


def test_entries_have_fields_and_keep_their_lines(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        handler = JournalHandler(str(tmp_path / "socket"))
        logger = logging.Logger("multispin_test")
        logger.addHandler(handler)
        logger.warning("two\nlines of %s", "ap=07", extra={"fields": {"agent_id": "ap-07", "text": "a\nb"}})
        fields = parse(journald.recv(65536))
        assert fields["MESSAGE"] == "two\nlines of ap=07"
        assert (fields["PRIORITY"], fields["LOGGER"]) == ("4", "multispin_test")
        assert (fields["MULTISPIN_AGENT_ID"], fields["MULTISPIN_TEXT"]) == ("ap-07", "a\nb")
        assert fields["CODE_FILE"] == __file__
        logger.error("x" * 200_000)
        assert 0 < len(parse(journald.recv(65536))["MESSAGE"]) < 50_000
        handler.close()


def test_an_entry_that_journald_does_not_take_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = JournalHandler(str(tmp_path / "nobody"))
    logger = logging.Logger("multispin_test")
    logger.addHandler(handler)
    logger.error("important")
    handler.close()
    assert "important" in capsys.readouterr().err


def test_in_the_journal_the_message_is_the_message_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    configured: dict[str, Any] = {}
    monkeypatch.setattr(journal, "is_journal", lambda *_: True)
    monkeypatch.setattr(journal.logging, "basicConfig", lambda **settings: configured.update(settings))
    journal.start_logging()
    [handler] = configured["handlers"]
    assert isinstance(handler, JournalHandler)
    assert configured["format"] == "%(message)s"
    handler.close()


def test_the_journal_is_used_only_where_standard_error_leads_to_it(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        status = os.fstat(file.fileno())
        assert is_journal(f"{status.st_dev}:{status.st_ino}", file.fileno())
        assert not is_journal(f"{status.st_dev}:{status.st_ino + 1}", file.fileno())
        assert not is_journal("", file.fileno())
    assert not is_journal("1:1", 99999)
    assert journal.JOURNAL.startswith("/run/systemd")
