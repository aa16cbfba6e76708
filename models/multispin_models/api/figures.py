"""What a text took, in the words of the interface. No I/O."""

from collections import Counter
from typing import Literal, NamedTuple

from msgspec import UNSET

from multispin_models.api.replies import Metrics, SpeculativeDecoding, Timings

__all__ = ["Course", "metrics_of", "timings_of"]


class Course(NamedTuple):
    """How a text came about.

    Attributes:
        started_ns, first_token_ns, ended_ns: monotonic; the first token is 0 if there was none.
        num_prompt_tokens: of the request.
        num_cached: of them, not computed again by the target.
        num_tokens: generated, the end token included.
        steps: (drafted, accepted) of every verification of a draft.
        num_draft_cached: tokens of the prompt that the draft model did not compute again.
    """

    started_ns: int
    first_token_ns: int
    ended_ns: int
    num_prompt_tokens: int
    num_cached: int
    num_tokens: int
    steps: tuple[tuple[int, int], ...] = ()
    num_draft_cached: int = 0

    def times_ms(self) -> tuple[float, float]:
        """Return milliseconds to the first token, and from there to the last."""
        first_ns = self.first_token_ns or self.ended_ns
        return (first_ns - self.started_ns) / 1e6, (self.ended_ns - first_ns) / 1e6


def timings_of(course: Course) -> Timings:
    """Return llama.cpp's timings of a text."""
    prompt_ms, predicted_ms = course.times_ms()
    num_computed = course.num_prompt_tokens - course.num_cached
    return Timings(
        cache_n=course.num_cached,
        prompt_n=num_computed,
        prompt_ms=prompt_ms,
        prompt_per_token_ms=prompt_ms / num_computed,
        prompt_per_second=_per_second(num_computed, prompt_ms),
        predicted_n=course.num_tokens,
        predicted_ms=predicted_ms,
        predicted_per_token_ms=predicted_ms / max(course.num_tokens, 1),
        predicted_per_second=_per_second(course.num_tokens, predicted_ms),
        draft_n=sum(drafted for drafted, _ in course.steps),
        draft_n_accepted=sum(accepted for _, accepted in course.steps),
        draft_cache_n=course.num_draft_cached,
    )


def metrics_of(
    course: Course, *, num_spec_tokens: int, queued_s: float, detail: Literal["none", "summary", "detailed"]
) -> Metrics:
    """Return vLLM's figures of a text.

    Args:
        course: how it came about.
        num_spec_tokens: L, most tokens drafted a step.
        queued_s: how long it waited for its slot.
        detail: "detailed" tells every step.
    """
    first_ms, generation_ms = course.times_ms()
    steps = [step for step in course.steps if step[0]]
    drafted, accepted = tuple(step[0] for step in steps), tuple(step[1] for step in steps)
    counts = Counter(accepted)
    detailed = detail == "detailed"
    return Metrics(
        time_to_first_token_ms=first_ms,
        generation_time_ms=generation_ms,
        queue_time_ms=queued_s * 1e3,
        mean_itl_ms=generation_ms / (course.num_tokens - 1) if course.num_tokens > 1 else None,
        tokens_per_second=_per_second(course.num_tokens, first_ms + generation_ms),
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


def _per_second(count: int, time_ms: float) -> float | None:
    return count / time_ms * 1e3 if time_ms > 0 else None
