"""Whole messages on their way: every kind does what it says, however the stream is cut into pieces."""

import asyncio
import random
import time

import pytest
import zmq

from multispin.bench.relay import CutHere, Relay
from multispin.faults.kinds import KINDS, FaultDraw
from multispin.faults.meddling import Meddling, MessageMeddler

GREETING = bytes(range(64))
COMMAND = bytes([4, 5]) + b"\x04PING"


def message(text: bytes) -> bytes:
    if len(text) < 256:
        return bytes([0, len(text)]) + text
    return bytes([2]) + len(text).to_bytes(8, "big") + text


A, B, C = message(b"a" * 3), message(b"b" * 300), message(b"c")


def passed(meddling: Meddling, stream: bytes, seed: int) -> bytes:
    """Return what comes through of a stream that is cut into random pieces."""
    meddler, out, draw = MessageMeddler(meddling, True), b"", random.Random(seed)
    while stream:
        count = draw.randint(1, 90)
        out += meddler.feed(stream[:count])
        stream = stream[count:]
    return out


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("what", "count", "comes"),
    [
        (None, 0, [A, COMMAND, B, C]),
        ("lose", 1, [COMMAND, B, C]),
        ("lose", 2, [COMMAND, C]),
        ("duplicate", 1, [A, A, COMMAND, B, C]),
        ("duplicate", 3, [A, A, COMMAND, B, B, C, C]),
        ("reorder", 1, [COMMAND, B, A, C]),
    ],
)
def test_whole_messages_are_lost_doubled_and_reordered_and_commands_are_not(
    what: str | None, count: int, comes: list[bytes], seed: int
) -> None:
    meddling = Meddling()
    if what is not None:
        meddling.due[what, True] = count
        meddling.due[what, False] = 5  # of the other direction
    assert passed(meddling, GREETING + A + COMMAND + B + C, seed) == GREETING + b"".join(comes)
    assert meddling.done.total() == count


def test_a_cut_comes_in_the_middle_of_a_frame() -> None:
    meddling = Meddling()
    meddler = MessageMeddler(meddling, True)
    assert meddler.feed(GREETING + A) == GREETING + A
    meddling.due["mid-frame", True] = 1
    with pytest.raises(CutHere) as cut:
        meddler.feed(C + B)
    assert cut.value.last == C[:1]
    assert meddling.done["mid-frame", True] == 1


def test_messages_of_several_frames_are_left_alone() -> None:
    meddling = Meddling()
    meddling.due["lose", True] = 9
    parts = bytes([1, 1]) + b"x"
    assert MessageMeddler(meddling, True).feed(GREETING + parts) == GREETING + parts


async def arrives(socket: zmq.Socket[bytes], patience_s: float = 10.0) -> list[bytes]:
    ends = time.monotonic() + patience_s
    while not socket.poll(0):
        assert time.monotonic() < ends, "nothing came"
        await asyncio.sleep(0.005)
    return socket.recv_multipart()


def test_a_relay_that_holds_lets_nothing_through_and_all_of_it_when_released() -> None:
    async def play() -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
            router.linger = dealer.linger = 0
            port = router.bind_to_random_port("tcp://127.0.0.1")
            meddling = Meddling()
            async with Relay("127.0.0.1", port, meddler=lambda is_up: MessageMeddler(meddling, is_up)) as relay:
                dealer.connect(f"tcp://127.0.0.1:{relay.port}")
                dealer.send(b"first")
                name, _ = await arrives(router)
                meddling.due["duplicate", True] = 1
                dealer.send(b"second")
                assert [(await arrives(router))[1] for _ in range(2)] == [b"second"] * 2
                relay.hold()
                dealer.send(b"third")
                await asyncio.sleep(0.1)
                assert not router.poll(0)
                assert relay.num_connections == 1
                relay.release()
                assert (await arrives(router))[1] == b"third"
                relay.up_s = 0.05
                for number in range(20):  # none overtakes another, also while the delay shrinks
                    dealer.send(bytes([number]))
                    await asyncio.sleep(0.002)
                    relay.up_s = max(0.0, relay.up_s - 0.004)
                assert [(await arrives(router))[1] for _ in range(20)] == [bytes([n]) for n in range(20)]
                router.send_multipart([name, b"back"])
                assert await arrives(dealer) == [b"back"]

    asyncio.run(play())


def test_seeds_draw_the_same_faults() -> None:
    first, second = FaultDraw(3, 4), FaultDraw(3, 4)
    drawn = [first.fault() for _ in range(500)]
    assert drawn == [second.fault() for _ in range(500)]
    assert {fault.kind for fault in drawn} == {kind.name for kind in KINDS}
    assert "agent-0" not in {fault.target for fault in drawn if fault.kind == "agent-kill"}
    spared = FaultDraw(3, 4, without=["cut"])
    assert not {"cut", "lose"} & {spared.fault(spare=["lose"]).kind for _ in range(300)}
