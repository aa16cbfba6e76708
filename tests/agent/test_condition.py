"""What an agent says of its box: what is measured, with its label, and reasons in place of what is not."""

import asyncio
from typing import Any

import pytest
from tests.metered import HandClock, S, sampled
from tests.toy_model import ToyModel

from multispin_agent.condition import condition_of, tell_condition
from multispin_models.errors import WireError
from multispin_models.messages import AgentMessage, Condition, decode_agent_message, encode


def test_power_is_the_mean_of_the_last_seconds_with_the_meters_label() -> None:
    clock = HandClock()
    sampler, _ = sampled(clock, lambda t: 4.0 * t)  # four watts
    for clock.t_ns in (0, S, 2 * S):
        sampler.read_now()
    told = condition_of("toy", sampler, {"cpu": 48.25, "gpu": 61.5, "asleep": None}, 0, 2 * S)
    assert told == Condition("toy", 4000, "measured", None, 61_500, None)


def test_without_a_meter_or_a_thermal_zone_the_reasons_are_told() -> None:
    told = condition_of("toy", "no sensor", {"asleep": None}, 0, S)
    assert told == Condition("toy", None, None, "no sensor", None, "this machine tells of no thermal zone")


def test_a_meter_that_does_not_answer_gives_its_reason_and_no_power() -> None:
    clock = HandClock()
    sampler, _ = sampled(clock, lambda t: None if t > 1 else t)
    for clock.t_ns in (0, S, 2 * S, 9 * S):
        sampler.read_now()
    told = condition_of("toy", sampler, {}, 5 * S, 9 * S)
    assert (told.power_mw, told.power_label) == (None, None)
    assert told.power_reason


def test_power_without_its_label_is_no_message() -> None:
    with pytest.raises(ValueError, match="null together"):
        Condition("toy", power_mw=1)
    frame = bytearray(encode(Condition("toy", 1, "measured")))
    label = frame.index(b"\xa8measured")
    with pytest.raises(WireError, match="null together"):
        decode_agent_message(bytes(frame[:label] + b"\xc0" + frame[label + 9 :]))


def test_it_is_told_at_once_and_again() -> None:
    sent: list[AgentMessage] = []

    async def run() -> None:
        enough = asyncio.Event()

        def send(message: AgentMessage) -> Any:
            sent.append(message)
            if len(sent) == 2:
                enough.set()

        telling = asyncio.create_task(tell_condition(send, lambda: ToyModel().info, "no meter", interval_s=0.001))
        await asyncio.wait_for(enough.wait(), 20)
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)

    asyncio.run(run())
    assert all(isinstance(message, Condition) and message.power_reason == "no meter" for message in sent)
