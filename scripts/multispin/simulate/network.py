"""Modelled links between agents and a coordinator: rate, fading, delay, loss, and what else befalls a message.

A message waits until the link has sent those before it, takes bits / rate to be sent, then the delay. Messages of one
direction of one link keep their order unless a fault says otherwise. A message lost is lost whole, as at a connection
that broke: what TCP sends again is delay, and belongs into `jitter_s`.
"""

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any, Protocol

from multispin.simulate.scenario import Link
from multispin_models.channel import Security

__all__ = ["Network"]

OVERHEAD_BYTES = 56  # of a message's own: IPv4 20, TCP with time stamps 32, ZMTP 2 and its share of acknowledgements


class Observer(Protocol):
    """Looks at what is sent."""

    def up(self, frame: bytes) -> int:
        """Take a frame of an agent; return how many drafted tokens it carries."""
        ...

    def down(self, frame: bytes) -> None:
        """Take a frame of the coordinator."""
        ...


class _Direction:
    """One direction of one link."""

    def __init__(self, link: Link, bit_per_s: float, rng: random.Random) -> None:
        self._link = link
        self._bit_per_s = bit_per_s
        self._random = rng
        self._free_s = 0.0  # when the link has sent what it was given
        self._last_s = 0.0  # when the last message arrives
        self._block = -1
        self._gain = 1.0
        self.num_bytes = 0

    def arrivals(self, now_s: float, num_bytes: int) -> list[float]:
        """Return when a message sent now arrives: once, or never, or more than once."""
        link, rng = self._link, self._random
        self.num_bytes += num_bytes
        if any(start <= now_s < end for start, end in link.outages_s):
            return []
        self._free_s = self._sent_s(max(now_s, self._free_s), 8.0 * num_bytes)
        copies = 0 if link.loss and rng.random() < link.loss else 1
        copies += bool(link.duplicate) and rng.random() < link.duplicate
        return [self._arrival(self._free_s) for _ in range(copies)]

    def _arrival(self, sent_s: float) -> float:
        link, rng = self._link, self._random
        arrival = sent_s + link.delay_s
        if link.jitter_s:
            arrival += rng.random() * link.jitter_s
        if link.reorder and rng.random() < link.reorder:
            return arrival
        self._last_s = arrival = max(arrival, self._last_s)
        return arrival

    def _sent_s(self, begin_s: float, bits: float) -> float:
        """Return when bits begun now are sent; with fading, the rate changes from block to block."""
        link = self._link
        if link.bandwidth_hz is None:
            return begin_s if math.isinf(self._bit_per_s) else begin_s + bits / self._bit_per_s
        while True:
            rate = self._faded(begin_s)
            block_ends_s = (self._block + 1) * link.coherence_s
            if begin_s + bits / rate <= block_ends_s:
                return begin_s + bits / rate
            bits -= (block_ends_s - begin_s) * rate
            begin_s = block_ends_s

    def _faded(self, now_s: float) -> float:
        """Return the rate of the block that a time is in: b log2(1 + snr h), h of mean 1."""
        link = self._link
        assert link.bandwidth_hz is not None
        block = int(now_s / link.coherence_s * (1 + 1e-12))
        while self._block < block:
            self._block += 1
            self._gain = self._random.expovariate(1.0) if link.fading == "rayleigh" else 1.0
        return max(link.bandwidth_hz * math.log2(1 + link.snr * self._gain), 1.0)


class _AgentPort:
    def __init__(self, link: Link, rng: random.Random) -> None:
        self.up = _Direction(link, link.uplink_bit_per_s, rng)
        self.down = _Direction(link, link.downlink_bit_per_s, rng)
        self.extra_bits = link.bits_per_drafted_token
        self.channel: AgentChannel | None = None


class AgentChannel:
    """An agent's end: `channel.FrameChannel`."""

    def __init__(self, network: "Network", agent_id: str, on_frames: Callable[[list[bytes]], None]) -> None:
        self.on_frames = on_frames
        self.endpoint = "simulated"
        self.is_open = True
        self._network = network
        self._agent_id = agent_id

    def send(self, frames: list[bytes]) -> bool:
        """Send a message to the coordinator."""
        if self.is_open:
            self._network.send_up(self._agent_id, frames[0])
        return self.is_open

    def close(self) -> None:
        """Neither send nor hear any more."""
        self.is_open = False


class CoordinatorChannel:
    """The coordinator's end: `channel.FrameChannel`."""

    def __init__(self, network: "Network", on_frames: Callable[[list[bytes]], None]) -> None:
        self.on_frames = on_frames
        self.endpoint = "simulated"
        self.is_open = True
        self._network = network

    def send(self, frames: list[bytes]) -> bool:
        """Send a message to the agent that the first frame names; False if there never was one."""
        return self.is_open and self._network.send_down(frames[0].decode(), frames[1])

    def close(self) -> None:
        """Neither send nor hear any more."""
        self.is_open = False


class Network:
    """All links.

    Args:
        seed: of what befalls messages.
        observer: is shown every frame that is sent.
    """

    def __init__(self, seed: int, observer: Observer) -> None:
        self._seed = seed
        self._observer = observer
        self._ports: dict[str, _AgentPort] = {}
        self._coordinator: CoordinatorChannel | None = None
        self.num_messages = 0

    def connect(self, agent_id: str, link: Link) -> None:
        """Give an agent its link."""
        self._ports[agent_id] = _AgentPort(link, random.Random(f"{self._seed}/{agent_id}"))  # noqa: S311

    def cut(self, agent_id: str) -> None:
        """Close an agent's end from outside: it does not notice, and nothing it says is heard."""
        channel = self._ports[agent_id].channel
        if channel is not None:
            channel.close()

    def bytes_of(self, agent_id: str) -> tuple[int, int]:
        """Return the bytes sent up and down so far, with those of the lower layers."""
        port = self._ports[agent_id]
        return port.up.num_bytes, port.down.num_bytes

    def open_agent_channel(
        self,
        _endpoint: str,
        agent_id: str,
        _security: Security,
        on_frames: Callable[[list[bytes]], None],
        _context: Any,
    ) -> AgentChannel:
        """Return the new channel of an agent, in place of the one it had."""
        port = self._ports[agent_id]
        if port.channel is not None:
            port.channel.close()
        port.channel = AgentChannel(self, agent_id, on_frames)
        return port.channel

    def open_coordinator_channel(
        self,
        _endpoint: str,
        _security: Security,
        on_frames: Callable[[list[bytes]], None],
        _context: Any,
        _counters: Any,
    ) -> CoordinatorChannel:
        """Return the new channel of the coordinator, in place of the one it had."""
        self._coordinator = CoordinatorChannel(self, on_frames)
        return self._coordinator

    def send_up(self, agent_id: str, frame: bytes) -> None:
        """Send a frame of an agent on its way."""
        port = self._ports[agent_id]
        num_drafted = self._observer.up(frame)
        num_bytes = len(frame) + OVERHEAD_BYTES + math.ceil(port.extra_bits * num_drafted / 8)
        self._post(port.up, num_bytes, self._deliver_up, agent_id, frame)

    def send_down(self, agent_id: str, frame: bytes) -> bool:
        """Send a frame of the coordinator on its way; return whether there is such an agent."""
        port = self._ports.get(agent_id)
        if port is None or port.channel is None:
            return False
        self._observer.down(frame)
        self._post(port.down, len(frame) + OVERHEAD_BYTES, self._deliver_down, port, frame)
        return True

    def _post(self, direction: _Direction, num_bytes: int, deliver: Callable[..., None], *args: Any) -> None:
        loop = asyncio.get_running_loop()
        for arrival_s in direction.arrivals(loop.time(), num_bytes):
            loop.call_at(arrival_s, deliver, *args)

    def _deliver_up(self, agent_id: str, frame: bytes) -> None:
        self.num_messages += 1
        if self._coordinator is not None and self._coordinator.is_open:
            self._coordinator.on_frames([agent_id.encode(), frame])

    def _deliver_down(self, port: _AgentPort, frame: bytes) -> None:
        self.num_messages += 1
        if port.channel is not None and port.channel.is_open:
            port.channel.on_frames([frame])
