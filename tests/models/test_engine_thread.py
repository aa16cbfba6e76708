"""The engine's thread: order, errors, results that nobody awaits any more, and its end."""

import asyncio
import threading

import pytest

from multispin_models.engine_thread import EngineThread


def test_calls_run_one_after_the_other_in_one_thread_that_is_not_the_loops() -> None:
    async def work() -> list[tuple[int, int]]:
        with EngineThread() as engine:
            return await asyncio.gather(*(engine.run(lambda n: (n, threading.get_ident()), n) for n in range(20)))

    results = asyncio.run(work())
    assert [number for number, _ in results] == list(range(20))
    [thread] = {thread for _, thread in results}
    assert thread != threading.get_ident()


def test_an_error_reaches_whoever_awaits_it_and_the_thread_goes_on() -> None:
    async def work() -> int:
        with EngineThread() as engine:
            with pytest.raises(ZeroDivisionError):
                await engine.run(lambda: 1 // 0)
            return await engine.run(int, "7")

    assert asyncio.run(work()) == 7


def test_a_cancelled_call_runs_to_its_end_and_its_result_is_dropped() -> None:
    ran: list[int] = []
    gate = threading.Event()

    async def work() -> None:
        with EngineThread() as engine:
            future = engine.run(lambda: (gate.wait(5), ran.append(1)))
            future.cancel()
            gate.set()
            await engine.run(ran.append, 2)

    asyncio.run(work())
    assert ran == [1, 2]


def test_after_shutdown_the_thread_is_gone() -> None:
    before = threading.active_count()

    async def work() -> None:
        engine = EngineThread()
        assert threading.active_count() == before + 1
        engine.shutdown()
        engine.shutdown()

    asyncio.run(work())
    assert threading.active_count() == before


def test_a_loop_that_is_gone_does_not_harm_the_thread() -> None:
    gate = threading.Event()

    async def leave() -> EngineThread:
        engine = EngineThread()
        engine.run(gate.wait, 5)
        return engine

    engine = asyncio.run(leave())
    gate.set()
    engine.shutdown()
