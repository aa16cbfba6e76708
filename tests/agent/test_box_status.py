"""What a box tells of itself for the coordinator's table: from recorded boards, small, when it is news."""

import asyncio
from pathlib import Path

import msgspec
from tests.models.energy.recorded_board import unpack

from multispin_agent.box_status import read_box_status, tell_box_status
from multispin_models.messages import AgentMessage, BoxStatus, encode


def test_this_machine_tells_its_disk_and_its_clock(tmp_path: Path) -> None:
    status = read_box_status(tmp_path, 7, "x" * 999)
    assert status.disk_mb is not None
    assert status.disk_free_mb is not None
    assert 0 <= status.disk_free_mb <= status.disk_mb
    assert (status.num_spooled, status.degraded) == (7, "x" * 200)
    assert status.uptime_s > 0
    assert (status.clock_bound_us is None) == (status.clock_reason is not None)
    assert read_box_status(tmp_path / "gone", None, "").disk_mb is None


def test_a_board_tells_its_heat_and_what_slows_it_now(tmp_path: Path) -> None:
    jetson = read_box_status(tmp_path, None, "", unpack("orin-conditions", tmp_path / "jetson"))
    assert (jetson.temperature_millidegrees, jetson.throttled) == (53_718, ""), "a fan that blows slows nothing"
    root = unpack("raspberry-pi-5", tmp_path / "pi")
    assert read_box_status(tmp_path, None, "", root).throttled == "", "flags of before are not of now"
    folder = root / "sys/devices/platform/soc/soc:firmware"
    folder.mkdir(parents=True)
    (folder / "get_throttled").write_text("5\n")
    assert read_box_status(tmp_path, None, "", root).throttled == "under-voltage, throttled"


def test_the_longest_status_is_small() -> None:
    text = "x" * 255
    longest = BoxStatus(2**63, 2**31 - 1, 2**63, 2**63, 2**31 - 1, 2**31 - 1, text, 2**31 - 1, text, text)
    assert len(encode(longest)) <= 850


def test_it_is_told_at_once_on_change_and_else_rarely() -> None:
    now = BoxStatus(1, 1, 900, 1000, 0, 50_000, "")
    looks = [
        now,
        msgspec.structs.replace(now, wall_ms=2, uptime_s=2, num_spooled=4, disk_free_mb=901),
        msgspec.structs.replace(now, throttled="under-voltage"),
        now,
        msgspec.structs.replace(now, disk_free_mb=100),
    ]
    told: list[AgentMessage] = []

    async def run(interval_s: float) -> None:
        done = asyncio.Event()
        left = list(looks)

        def read() -> BoxStatus:
            if len(left) > 1:
                return left.pop(0)
            loop.call_soon_threadsafe(done.set)
            return left[0]

        loop = asyncio.get_running_loop()
        telling = asyncio.create_task(tell_box_status(told.append, read, lambda: True, interval_s, look_s=0.001))
        await asyncio.wait_for(done.wait(), 20)
        await asyncio.sleep(0.02)
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)

    asyncio.run(run(3600.0))
    assert told == [looks[0], looks[2], looks[3], looks[4]]
    told.clear()
    asyncio.run(run(0.0))
    assert told[: len(looks)] == looks


def test_nothing_is_told_to_a_coordinator_that_is_not_there_and_at_once_when_it_is() -> None:
    told: list[AgentMessage] = []
    status = BoxStatus(1, 1)

    async def run() -> None:
        is_there = False
        telling = asyncio.create_task(tell_box_status(told.append, lambda: status, lambda: is_there, look_s=0.001))
        await asyncio.sleep(0.02)
        assert told == []
        for _ in range(2):
            is_there, before = True, len(told)
            while len(told) == before:  # noqa: ASYNC110 - the thing waited for tells of no event
                await asyncio.sleep(0.001)
            is_there = False
            await asyncio.sleep(0.02)
            assert len(told) == before + 1
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)

    asyncio.run(asyncio.wait_for(run(), 20))
    assert told == [status, status]
