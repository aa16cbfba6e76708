"""What a request took, in the words of the interface. No I/O."""

from collections import Counter
from typing import Literal

from msgspec import UNSET

from multispin_agent.request import Finished, RoundTiming, coordinator_energy_j
from multispin_models.api.replies import EndEnergy, Energy, Metrics, SpeculativeDecoding, Timings
from multispin_models.energy import Window

__all__ = ["energy_of", "metrics_of", "timings_of"]


def timings_of(finished: Finished, num_prompt_tokens: int) -> Timings:
    """Return llama.cpp's timings of a request."""
    prompt_ms, predicted_ms = _times_ms(finished)
    num_tokens = len(finished.token_ids)
    drafts = _drafts(finished)
    return Timings(
        cache_n=0,
        prompt_n=num_prompt_tokens,
        prompt_ms=prompt_ms,
        prompt_per_token_ms=prompt_ms / num_prompt_tokens,
        prompt_per_second=_per_second(num_prompt_tokens, prompt_ms),
        predicted_n=num_tokens,
        predicted_ms=predicted_ms,
        predicted_per_token_ms=predicted_ms / max(num_tokens, 1),
        predicted_per_second=_per_second(num_tokens, predicted_ms),
        draft_n=sum(timing.num_draft_tokens for timing in drafts),
        draft_n_accepted=sum(timing.verdict.num_accepted for timing in drafts),
    )


def metrics_of(
    finished: Finished, *, num_spec_tokens: int, queued_s: float, detail: Literal["none", "summary", "detailed"]
) -> Metrics:
    """Return vLLM's figures of a request.

    Args:
        finished: what became of it.
        num_spec_tokens: L of the agent.
        queued_s: how long it waited for its slot.
        detail: "detailed" tells every round.
    """
    first_ms, generation_ms = _times_ms(finished)
    num_tokens = len(finished.token_ids)
    steps = [timing for timing in _drafts(finished) if timing.num_draft_tokens]
    drafted = tuple(timing.num_draft_tokens for timing in steps)
    accepted = tuple(timing.verdict.num_accepted for timing in steps)
    counts = Counter(accepted)
    detailed = detail == "detailed"
    return Metrics(
        time_to_first_token_ms=first_ms,
        generation_time_ms=generation_ms,
        queue_time_ms=queued_s * 1e3,
        mean_itl_ms=generation_ms / (num_tokens - 1) if num_tokens > 1 else None,
        tokens_per_second=_per_second(num_tokens, first_ms + generation_ms),
        speculative_decoding=SpeculativeDecoding(
            mean_acceptance_length=1 + sum(accepted) / len(steps) if steps else None,
            draft_acceptance_rate=sum(accepted) / sum(drafted) if steps else None,
            acceptance_histogram=tuple(counts[number] for number in range(max(accepted, default=-1) + 1)),
            num_spec_steps=len(steps),
            num_accepted_draft_tokens=sum(accepted),
            num_draft_tokens=sum(drafted),
            num_spec_tokens=num_spec_tokens,
            per_step_accepted=accepted if detailed else UNSET,
            per_step_drafted=drafted if detailed else UNSET,
        ),
    )


def energy_of(finished: Finished, agent: Window | str, agent_label: str | None) -> Energy:
    """Return the joules of a request at both ends.

    Args:
        finished: what became of it.
        agent: joules of this box meanwhile, or why they are not known.
        agent_label: of its meter; null without one.
    """
    joules = agent.joules if isinstance(agent, Window) else None
    reason = agent if isinstance(agent, str) else agent.reason
    own = EndEnergy(joules, agent_label if joules is not None else None, reason)
    coordinator_j = coordinator_energy_j(finished.rounds)
    why = None if coordinator_j is not None else "not every verdict came with its share: the coordinator has no meter"
    return Energy(own, EndEnergy(coordinator_j, None, why))  # the label does not travel with a verdict


def _drafts(finished: Finished) -> list[RoundTiming]:
    return [timing for timing in finished.rounds if not timing.is_open]


def _times_ms(finished: Finished) -> tuple[float, float]:
    """Return milliseconds to the first token, and from there to the last."""
    first_ns = finished.first_token_ns or finished.ended_ns
    return (first_ns - finished.started_ns) / 1e6, (finished.ended_ns - first_ns) / 1e6


def _per_second(count: int, time_ms: float) -> float | None:
    return count / time_ms * 1e3 if time_ms > 0 else None
