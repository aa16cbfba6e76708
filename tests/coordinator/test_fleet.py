"""The table of agents: what they say of themselves, in the version of the protocol that each speaks, kept and shown."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from tests.coordinator.test_dispatcher import ENDS, LIMITS, Coordinator
from tests.toy_api import ToyTokenizer
from tests.toy_model import ToyModel

from multispin.cli import main
from multispin.fleet_command import fleet_table
from multispin_coordinator import fleet as fleet_module
from multispin_coordinator import fleet_file
from multispin_coordinator.attribution import PassMeter
from multispin_coordinator.config import Config
from multispin_coordinator.dispatcher import Dispatcher
from multispin_coordinator.fleet import Box, Fleet, FleetTable
from multispin_coordinator.fleet_file import kept_fleet_file, read_fleet_file
from multispin_coordinator.server import Server
from multispin_models.engines import Loaded
from multispin_models.errors import ConfigError
from multispin_models.keys.key_files import make_pair, write_pair
from multispin_models.messages import (
    PROTOCOL_VERSION,
    BoxStatus,
    Condition,
    Hello,
    Open,
    Ping,
    Refused,
    Verdict,
    Welcome,
    decode_coordinator_message,
    encode,
)
from multispin_models.sampling import Sampling

OLD = PROTOCOL_VERSION - 1
S = 1_000_000_000
STATUS = BoxStatus(
    wall_ms=1_000_000_000 + 2500,
    uptime_s=7200,
    disk_free_mb=400,
    disk_mb=16_000,
    num_spooled=12,
    temperature_millidegrees=71_400,
    throttled="under-voltage",
    clock_reason="chronyc is not installed",
)


def hello(name: str, version: int = PROTOCOL_VERSION) -> Hello:
    return Hello(version, name, "0.1.0", "toy", "f" * 64, f"{name}-1")


class Clock:
    unix_s = 1_000_000.0

    def __call__(self) -> float:
        return self.unix_s


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(Clock())


def test_an_agent_of_the_version_before_is_served_in_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        with zmq.Context() as context:
            target = ToyModel(max_sequences=2)
            server = Server(
                Config(bind="tcp://127.0.0.1:*", policy="fixed", limits=LIMITS),
                Loaded(target, ToyTokenizer()),
                target.info,
                PassMeter(None),
                context,
            )
            serving = asyncio.create_task(server.serve())
            try:
                await asyncio.gather(*(speak(context, server.endpoint, version) for version in (OLD, PROTOCOL_VERSION)))
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)

    async def speak(context: Any, endpoint: str, version: int) -> None:
        with context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.routing_id = b"v%d" % version
            socket.connect(endpoint)

            async def ask(message: Any) -> Any:
                socket.send(encode(message, version))
                ends = time.monotonic() + 20
                while not socket.poll(0):
                    assert time.monotonic() < ends, message
                    await asyncio.sleep(0.002)
                frame = socket.recv()
                assert frame[0] == version
                return decode_coordinator_message(bytes([PROTOCOL_VERSION]) + frame[1:])

            refused = await ask(Ping(1))  # before it is known
            assert refused.code == "hello_required"
            welcome = await ask(hello(f"v{version}", version))
            assert isinstance(welcome, Welcome)
            assert welcome.protocol_version == version
            verdict = await ask(Open(version, 0, (1, 2, 3), 3, 5, Sampling()))
            assert isinstance(verdict, Verdict)

    asyncio.run(play())


@pytest.mark.parametrize("version", [OLD - 1, PROTOCOL_VERSION + 1])
def test_an_older_or_a_newer_agent_is_refused_with_both_numbers(version: int) -> None:
    dispatcher = Dispatcher(ToyModel().info, ENDS, LIMITS)
    for frame in (encode(hello("a", version), version), encode(hello("a", version))):
        [send] = dispatcher.on_frame(b"a", [frame], 0)
        assert isinstance(send.message, Refused)
        assert send.message.code == "protocol_version"
        for number in (version, OLD, PROTOCOL_VERSION):
            assert str(number) in send.message.message
        assert "coordinators first" in send.message.message
    assert dispatcher.agents == {}


def test_what_agents_say_stands_in_the_table_also_when_they_are_gone(fleet: Fleet) -> None:
    clock = fleet._unix_s
    fleet.joined(b"a", hello("a"), 0)
    fleet.joined(b"old", hello("old", OLD), 0)
    fleet.conditioned(b"a", Condition("small draft"))
    fleet.told(b"a", STATUS)
    fleet.told(b"nobody", STATUS)
    fleet.agents[b"a"].last_seen_ns = 5 * S
    clock.unix_s += 9.0
    first, second = fleet.table("0.1.0", 9 * S).boxes
    assert first == Box(
        "a", True, 1_000_005.0, PROTOCOL_VERSION, "0.1.0", "f" * 64, "small draft", STATUS, 1_000_000.0, 2.5
    )
    assert (second.protocol_version, second.status, second.last_seen_unix_s) == (OLD, None, 1_000_000.0)
    fleet.left(b"a")
    gone, _ = fleet.table("0.1.0", 9 * S).boxes
    assert (gone.is_here, gone.last_seen_unix_s, gone.status) == (False, 1_000_009.0, STATUS)


def test_a_dispatcher_keeps_it_and_an_agent_that_falls_silent_is_gone() -> None:
    coordinator = Coordinator("a")
    coordinator.say("a", STATUS)
    coordinator.say("a", Condition("small draft"))
    [box] = coordinator.dispatcher.fleet.table("1", 0).boxes
    assert (box.status, box.draft, box.is_here) == (STATUS, "small draft", True)
    coordinator.dispatcher.on_tick(10_000 * S)
    [box] = coordinator.dispatcher.fleet.table("1", 0).boxes
    assert not box.is_here


def test_of_those_that_are_gone_the_table_keeps_the_last_ones(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "MOST_GONE", 3)
    for number in range(9):
        name = f"b{number}"
        fleet.joined(name.encode(), hello(name), 0)
        if number != 4:
            fleet.left(name.encode())
    assert [box.agent_id for box in fleet.table("1", 0).boxes] == ["b4", "b6", "b7", "b8"]


def test_the_file_is_written_on_change_and_read_by_the_next_start(
    tmp_path: Path, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_file, "LEAST_S", 0.005)
    path = tmp_path / "fleet.json"

    async def play() -> None:
        async with kept_fleet_file(path, fleet, lambda: 0):
            fleet.joined(b"a", hello("a"), 0)
            fleet.told(b"a", STATUS)
            ends = time.monotonic() + 20
            while not path.exists() or not read_fleet_file(path).boxes:
                assert time.monotonic() < ends
                await asyncio.sleep(0.005)
        later = Fleet(Clock())
        async with kept_fleet_file(path, later, lambda: 0):
            later.joined(b"b", hello("b"), 0)
            await asyncio.sleep(0.05)

    asyncio.run(play())
    assert path.stat().st_mode & 0o777 == 0o600
    a, b = read_fleet_file(path).boxes
    assert (a.agent_id, a.is_here, a.status) == ("a", False, STATUS)
    assert (b.agent_id, b.is_here) == ("b", True)


def test_a_file_that_is_none_is_named_and_written_anew(tmp_path: Path, fleet: Fleet) -> None:
    path = tmp_path / "fleet.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"fleet\.json cannot be read"):
        read_fleet_file(path)

    async def play() -> None:
        async with kept_fleet_file(path, fleet, lambda: 0):
            await asyncio.sleep(0.05)

    asyncio.run(play())
    assert read_fleet_file(path).boxes == ()


# -- the command -------------------------------------------------------------------------------------------------------


def table(*boxes: Box, written_unix_s: float = 1_000_100.0) -> FleetTable:
    return FleetTable(written_unix_s, "0.1.0", PROTOCOL_VERSION, boxes)


GOOD = Box("ap-1", True, 1_000_099.0, PROTOCOL_VERSION, "0.1.0", "f" * 64, "small", BoxStatus(0, 5), 1_000_090.0, 0.01)


def test_the_table_says_what_somebody_should_look_after() -> None:
    bad = msgspec.structs.replace(
        GOOD,
        agent_id="ap-2",
        is_here=False,
        last_seen_unix_s=1_000_000.0 - 7200,
        protocol_version=OLD,
        software_version="0.0.9\x1b[2J",
        status=msgspec.structs.replace(STATUS, degraded="nothing is drafted: no file"),
        clock_offset_s=-3600.0,
    )
    head, names, first, second = fleet_table(table(GOOD, bad), 1_000_101.0).splitlines()
    assert head == f"coordinator 0.1.0, protocol {PROTOCOL_VERSION}: 1 of 2 agents are here; written 1 s ago"
    assert names.split()[:3] == ["agent", "is", "seen"]
    assert first.split() == ["ap-1", "here", "2", "s", "0.1.0", "6", "small", "-", "-", "-", "+0.0", "s", "-"]
    for said in (
        "gone",
        "2 h",
        "0.4 GB 2 %",
        "71",
        "version is not the coordinator's 0.1.0",
        f"update it before the coordinator speaks protocol {PROTOCOL_VERSION + 1}",
        "nothing is drafted: no file",
        "slowed: under-voltage",
        "wall clock is -3600 s off",
        "disk nearly full",
    ):
        assert said in second
    assert "\x1b" not in second


def test_a_table_that_is_not_written_any_more_says_so() -> None:
    head, *_ = fleet_table(table(GOOD), 1_000_100.0 + 600).splitlines()
    assert "written 10 min ago: the coordinator does not run, or its disk takes nothing" in head


def test_the_command_finds_the_file_by_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, settings = tmp_path / "fleet.json", tmp_path / "coordinator.toml"
    path.write_bytes(msgspec.json.encode(table(GOOD)))
    settings.write_text(f'fleet_file = "{path}"\n')
    assert main(["fleet", "status", "--coordinator", str(settings), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["boxes"][0]["agent_id"] == "ap-1"
    assert main(["fleet", "status", "--file", str(path)]) == 0
    assert "ap-1" in capsys.readouterr().out
    agents = tmp_path / "agents"
    for name in ("ap-1", "ap-9"):
        write_pair(agents, name, make_pair())
        (agents / f"{name}.key_secret").unlink()
    settings.write_text(f'fleet_file = "{path}"\n[security]\nauthorized_keys_dir = "{agents}"\n')
    assert main(["fleet", "status", "--coordinator", str(settings)]) == 0
    assert capsys.readouterr().out.endswith("enrolled and never here: ap-9\n")
    settings.write_text("")
    assert main(["fleet", "status", "--coordinator", str(settings)]) == 1
    assert "sets no fleet_file" in capsys.readouterr().err
