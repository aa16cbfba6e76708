"""Response bodies, field by field as OpenAI's, llama.cpp's (`timings`) and vLLM's (`metrics`) clients read them."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from multispin_models.provenance import Span

__all__ = [
    "ChatChoice",
    "ChatChunk",
    "ChatChunkChoice",
    "ChatCompletion",
    "Completion",
    "CompletionChoice",
    "Delta",
    "EndEnergy",
    "Energy",
    "FinishReason",
    "Health",
    "Metrics",
    "Model",
    "ModelList",
    "ReplyMessage",
    "Slot",
    "SpeculativeDecoding",
    "Timings",
    "Tokens",
    "Usage",
]

FinishReason = Literal["stop", "length"]


class PromptTokensDetails(Struct, frozen=True):
    """Of the prompt, `cached_tokens` were not computed again."""

    cached_tokens: int


class Usage(Struct, frozen=True):
    """Tokens of a request; `completion_tokens` counts the end token."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Timings(Struct, frozen=True):
    """llama.cpp's timings, as the user's end saw them: prompt_ms is the time to the first token, network included.

    Attributes:
        cache_n: prompt tokens that the target did not compute again.
        prompt_n, prompt_ms: prompt tokens, and milliseconds until the first token was here.
        predicted_n, predicted_ms: tokens generated, and milliseconds from the first to the last.
        draft_n, draft_n_accepted: tokens drafted, and of them accepted.
        draft_cache_n: prompt tokens that the draft model did not compute again; this project's, not llama.cpp's.
    """

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float | None
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float | None
    draft_n: int
    draft_n_accepted: int
    draft_cache_n: int = 0


class SpeculativeDecoding(Struct, frozen=True, omit_defaults=True):
    """vLLM's acceptance figures of one request.

    Attributes:
        mean_acceptance_length: 1 + accepted / steps; null without a step.
        draft_acceptance_rate: accepted / drafted; null if nothing was drafted.
        acceptance_histogram: [j] is the number of steps that accepted just j tokens.
        num_spec_steps: verifications of a draft.
        num_spec_tokens: L, most tokens drafted a step.
        per_step_accepted, per_step_drafted: of every step, where the setting asks for detail.
    """

    mean_acceptance_length: float | None
    draft_acceptance_rate: float | None
    acceptance_histogram: tuple[int, ...]
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int
    num_spec_tokens: int
    per_step_accepted: tuple[int, ...] | UnsetType = UNSET
    per_step_drafted: tuple[int, ...] | UnsetType = UNSET


class Metrics(Struct, frozen=True):
    """vLLM's figures of one request; `mean_itl_ms` is (end - first token) / (tokens - 1), null below two tokens."""

    time_to_first_token_ms: float
    generation_time_ms: float
    queue_time_ms: float
    mean_itl_ms: float | None
    tokens_per_second: float | None
    speculative_decoding: SpeculativeDecoding


class EndEnergy(Struct, frozen=True):
    """Joules at one end during a request.

    Attributes:
        joules: null if they are not known.
        label: "measured", "calibrated" or "modelled"; null if this end does not know it.
        reason: why joules are null; else null.
    """

    joules: float | None
    label: str | None
    reason: str | None


class Energy(Struct, frozen=True):
    """Joules of a request at both ends; never added up, since their meters may cover different things."""

    agent: EndEnergy
    coordinator: EndEnergy


class Degraded(Struct, frozen=True):
    """A text whose end the target has not verified.

    Attributes:
        num_tokens: at its end, that the draft model wrote alone.
        reason: why.
    """

    num_tokens: int
    reason: str


class _Reply(Struct, frozen=True, kw_only=True):
    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET
    timings: Timings | UnsetType = UNSET
    metrics: Metrics | UnsetType = UNSET
    energy: Energy | UnsetType = UNSET
    provenance: tuple[Span, ...] | UnsetType = UNSET
    degraded: Degraded | UnsetType = UNSET


class ReplyMessage(Struct, frozen=True):
    """What the assistant says."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class ChatChoice(Struct, frozen=True):
    """The only choice of a chat completion."""

    message: ReplyMessage
    finish_reason: FinishReason
    index: int = 0
    logprobs: None = None


class ChatCompletion(_Reply, frozen=True):
    """Answer of /v1/chat/completions."""

    choices: tuple[ChatChoice, ...]


class Delta(Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatChunkChoice(Struct, frozen=True):
    """The only choice of a chunk."""

    delta: Delta
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: None = None


class ChatChunk(_Reply, frozen=True):
    """One event of /v1/chat/completions; the one with usage has no choices."""

    choices: tuple[ChatChunkChoice, ...]


class CompletionChoice(Struct, frozen=True):
    """The only choice of a text completion, or of a chunk of it."""

    text: str
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: None = None


class Completion(_Reply, frozen=True):
    """Answer of /v1/completions, and each of its events."""

    choices: tuple[CompletionChoice, ...]


class Model(Struct, frozen=True):
    """A model that is served; `max_model_len` is the longest prompt and text together, in tokens."""

    id: str
    created: int
    max_model_len: int
    object: Literal["model"] = "model"
    owned_by: str = "multispin"


class ModelList(Struct, frozen=True):
    """Answer of /v1/models."""

    data: tuple[Model, ...]
    object: Literal["list"] = "list"


class Tokens(Struct, frozen=True):
    """Answer of /tokenize."""

    tokens: tuple[int, ...]
    count: int
    max_model_len: int


class Slot(Struct, frozen=True):
    """A request that can be served, and whether one is.

    Attributes:
        id: its number.
        n_ctx: longest prompt and text together, in tokens.
        is_processing: whether a request has it.
        speculative: whether its tokens are drafted.
        id_task: that request's id on the wire, in hex.
        n_prompt_tokens: its prompt.
        since_s: how long it has the slot.
    """

    id: int
    n_ctx: int
    is_processing: bool
    speculative: bool
    id_task: str | None = None
    n_prompt_tokens: int | None = None
    since_s: float | None = None


class Health(Struct, frozen=True):
    """Answer of /health when requests are served; `degraded` says what does not work though they are."""

    degraded: str | UnsetType = UNSET
    status: Literal["ok"] = "ok"
