"""Virtual time: it jumps, engines spend it, and what can never end says so."""

import asyncio
import time

import pytest

from multispin.simulate.virtual_time import NothingLeft, VirtualEngine, now_ns, run_virtually, spend


def test_an_hour_is_over_at_once() -> None:
    async def wait() -> int:
        await asyncio.sleep(3600.0)
        return now_ns()

    started = time.monotonic()
    assert run_virtually(wait()) == 3_600_000_000_000
    assert time.monotonic() - started < 5.0


def test_calls_of_an_engine_follow_each_other_and_others_run_meanwhile() -> None:
    seen: list[tuple[str, int]] = []

    def compute(name: str, seconds: float) -> str:
        spend(seconds)
        seen.append((name, now_ns() // 1_000_000))
        return name

    async def main() -> list[str]:
        one, other = VirtualEngine(), VirtualEngine()
        return list(
            await asyncio.gather(one.run(compute, "a", 0.2), one.run(compute, "b", 0.2), other.run(compute, "c", 0.3))
        )

    assert run_virtually(main()) == ["a", "b", "c"]
    assert seen == [("a", 200), ("c", 300), ("b", 400)]


def test_a_call_under_way_sees_what_happens_meanwhile() -> None:
    async def main() -> int:
        inbox: list[str] = []

        def draft() -> int:
            count = 0
            while not inbox:
                spend(0.01)
                count += 1
            return count

        asyncio.get_running_loop().call_later(0.035, inbox.append, "a verdict")
        return await VirtualEngine().run(draft)

    assert run_virtually(main()) == 4


def test_an_error_in_a_call_is_its_futures() -> None:
    def fail() -> None:
        spend(1.0)
        raise LookupError("planted")

    async def main() -> None:
        await VirtualEngine().run(fail)

    with pytest.raises(LookupError, match="planted"):
        run_virtually(main())


def test_a_wait_for_nothing_is_told() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(NothingLeft):
        run_virtually(main())


def test_an_error_in_a_callback_ends_the_run() -> None:
    def fail() -> None:
        raise LookupError("planted")

    async def main() -> None:
        asyncio.get_running_loop().call_later(1.0, fail)
        await asyncio.sleep(10.0)

    with pytest.raises(LookupError, match="planted"):
        run_virtually(main())
