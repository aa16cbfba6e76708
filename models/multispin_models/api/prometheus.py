"""Figures of a daemon at /metrics, in Prometheus' text format; names as vLLM's where it has them, under `multispin:`.

A daemon counts in plain objects; what is counted becomes text when somebody asks. `RequestMetrics` is of both ends,
other collectors are registered by the end that has something to tell.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from multispin_models import tally
from multispin_models.api.service import Generated
from multispin_models.energy.conditions import THROTTLE_BITS, Conditions, read_conditions
from multispin_models.tally import DraftTally

__all__ = [
    "CONTENT_TYPE",
    "MachineCollector",
    "RequestMetrics",
    "counter",
    "counters",
    "drafts",
    "gauge",
    "gauges",
    "histogram",
    "render",
]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "multispin:"
# Bounds of vLLM's histograms, from 1 ms on.
FIRST_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
WHOLE_S = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)

disable_created_metrics()  # type: ignore[no-untyped-call]


class RequestMetrics:
    """What users got.

    Args:
        registry: where it is told.
        present: gives the requests (running, waiting) now.
    """

    def __init__(self, registry: CollectorRegistry, present: Callable[[], tuple[int, int]]) -> None:
        name = PREFIX.__add__
        self._success = Counter(
            name("request_success"), "Texts that were written to their end", ["finished_reason"], registry=registry
        )
        self._failure = Counter(
            name("request_failure"),
            "Texts that failed, by error code, or whose client left",
            ["code"],
            registry=registry,
        )
        self._prompt = Counter(name("prompt_tokens"), "Tokens of prompts that were served", registry=registry)
        self._cached = Counter(name("prompt_tokens_cached"), "Of them, those not computed again", registry=registry)
        self._generated = Counter(name("generation_tokens"), "Tokens written", registry=registry)
        self._queue = Histogram(
            name("request_queue_time_seconds"), "Wait for a slot", registry=registry, buckets=FIRST_S
        )
        self._first = Histogram(
            name("time_to_first_token_seconds"),
            "From the request on, the wait included",
            registry=registry,
            buckets=FIRST_S,
        )
        self._per_token = Histogram(
            name("request_time_per_output_token_seconds"),
            "From the first token to the last, by tokens after the first; none for texts of one",
            registry=registry,
            buckets=PER_TOKEN_S,
        )
        self._whole = Histogram(
            name("e2e_request_latency_seconds"),
            "From the request to its last token",
            registry=registry,
            buckets=WHOLE_S,
        )
        running = Gauge(name("num_requests_running"), "Requests that have a slot", registry=registry)
        running.set_function(lambda: present()[0])
        waiting = Gauge(name("num_requests_waiting"), "Requests that wait for a slot", registry=registry)
        waiting.set_function(lambda: present()[1])

    def succeeded(self, generated: Generated) -> None:
        """Count a text."""
        metrics = generated.metrics
        self._success.labels(generated.finish).inc()
        self._prompt.inc(generated.timings.prompt_n + generated.num_cached)
        self._cached.inc(generated.num_cached)
        self._generated.inc(generated.num_tokens)
        queued_s, first_s = metrics.queue_time_ms / 1e3, metrics.time_to_first_token_ms / 1e3
        self._queue.observe(queued_s)
        self._first.observe(queued_s + first_s)
        if metrics.mean_itl_ms is not None:
            self._per_token.observe(metrics.mean_itl_ms / 1e3)
        self._whole.observe(queued_s + first_s + metrics.generation_time_ms / 1e3)

    def failed(self, code: str) -> None:
        """Count a text that was not written to its end."""
        self._failure.labels(code).inc()


class MachineCollector(Collector):
    """Temperatures and throttling of this machine, as far as it tells them."""

    def __init__(self) -> None:
        self._conditions: Conditions | None = None

    async def look(self) -> None:
        """Read the machine beside the event loop: the firmware of some boards takes its time."""
        self._conditions = await asyncio.to_thread(read_conditions, "during")

    def collect(self) -> Iterable[Metric]:
        """Yield what was seen last."""
        if self._conditions is None:
            return
        told = self._conditions.temperatures_c.items()
        degrees = {zone: value for zone, value in told if value is not None}
        yield gauges("temperature_celsius", "Thermal zones of this machine", "zone", degrees)
        flags = self._conditions.throttled
        now = {} if flags is None else {name: name in flags for bit, name in THROTTLE_BITS.items() if bit < 16}
        yield gauges("throttled", "Whether a Raspberry Pi slows itself down now", "reason", now)
        events = self._conditions.throttle_events
        yield counters("throttle_events", "Over-current and thermal throttling since boot", "counter", events)


def render(registry: CollectorRegistry) -> bytes:
    """Return all figures as text."""
    return generate_latest(registry)


def counter(name: str, text: str, value: float) -> Metric:
    """Return a count; its name ends in _total."""
    return CounterMetricFamily(PREFIX + name, text, value=value)


def counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return counts by a label."""
    family = CounterMetricFamily(PREFIX + name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a value that goes up and down."""
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return such values by a label."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def histogram(name: str, text: str, observed: tally.Histogram) -> Metric:
    """Return observations by size."""
    family = HistogramMetricFamily(PREFIX + name, text)
    family.add_metric([], buckets=observed.cumulative(), sum_value=observed.total)
    return family


def drafts(counted: DraftTally) -> Iterable[Metric]:
    """Yield vLLM's counts of speculative decoding."""
    yield counter("spec_decode_num_drafts", "Drafts that were verified", counted.num_drafts)
    yield counter("spec_decode_num_draft_tokens", "Tokens drafted", counted.num_draft_tokens)
    yield counter("spec_decode_num_accepted_tokens", "Of them, accepted", sum(counted.accepted_at))
    by_position = {str(position): count for position, count in enumerate(counted.accepted_at)}
    yield counters(
        "spec_decode_num_accepted_tokens_per_pos", "Accepted tokens by place in the draft", "position", by_position
    )
