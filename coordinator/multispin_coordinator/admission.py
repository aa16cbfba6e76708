"""What a coordinator refuses, and why: checks on what agents send, before anything is kept of it. No I/O."""

from multispin_coordinator.config import Limits
from multispin_coordinator.fleet import AgentState
from multispin_models.draft_payload import Weighed, unpack_distributions, unpack_weights
from multispin_models.errors import WireError
from multispin_models.language_model import ModelInfo
from multispin_models.messages import PROTOCOL_VERSION, SERVED_VERSIONS, Draft, Hello, Open, WeighedDraft
from multispin_models.verification import Rule

__all__ = ["Reject", "check_draft", "check_hello", "check_open", "weighed_of"]


class Reject(Exception):
    """The request cannot be served; becomes a Refused message.

    Args:
        code: for programs, listed in `models/README.md`.
        message: what, the value, what is allowed, what to do.
        request_id: 0 for the agent as a whole.
        round_number: of the request.
    """

    def __init__(self, code: str, message: str, request_id: int = 0, round_number: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.request_id = request_id
        self.round = round_number


def check_hello(
    agent: bytes, hello: Hello, *, target: ModelInfo, known: AgentState | None, num_agents: int, limits: Limits
) -> None:
    """Refuse an agent whose drafts cannot work here.

    Raises:
        Reject: protocol_version, bad_agent_id, vocabulary_mismatch, too_many_agents.
    """
    if hello.protocol_version not in SERVED_VERSIONS:
        raise Reject(
            "protocol_version",
            f"agent speaks protocol {hello.protocol_version}, coordinator {PROTOCOL_VERSION} and for agents also "
            f"{SERVED_VERSIONS[0]}: update the older side, coordinators first",
        )
    if hello.agent_id.encode() != agent:
        raise Reject("bad_agent_id", f"agent id {hello.agent_id!r} is not the routing id of the connection")
    if hello.vocabulary_hash != target.vocabulary_hash:
        raise Reject(
            "vocabulary_mismatch",
            f"agent's draft has vocabulary {hello.vocabulary_hash[:16]}, coordinator's target {target.name} has "
            f"{target.vocabulary_hash[:16]}: give both ends the same pair",
        )
    if known is None and num_agents >= limits.max_agents:
        raise Reject("too_many_agents", f"{num_agents} agents are connected, allowed are {limits.max_agents}")


def check_open(opened: Open, target: ModelInfo, limits: Limits, max_context: int, rule: Rule) -> None:
    """Refuse a request that cannot be served.

    Raises:
        Reject: bad_request, prompt_too_long, context_exceeded, unknown_token.
    """
    num_tokens = len(opened.token_ids)
    num_generated = num_tokens - opened.num_prompt_tokens
    if num_generated < 0 or num_generated >= opened.max_tokens:
        raise Reject(
            "bad_request",
            f"{num_tokens} tokens with {opened.num_prompt_tokens} of prompt and at most {opened.max_tokens} to "
            "generate: nothing is left to generate, or the prompt is longer than the tokens",
            opened.request_id,
            opened.round,
        )
    if opened.first_candidate and (rule != "rejection-lean" or opened.sampling.temperature == 0.0):
        raise Reject(
            "bad_request",
            f"draws from number {opened.first_candidate} on are asked for, allowed with rejection-lean at a "
            f"temperature above 0; this is {rule} at {opened.sampling.temperature}",
            opened.request_id,
            opened.round,
        )
    if opened.num_prompt_tokens > limits.max_prompt_tokens:
        raise Reject(
            "prompt_too_long",
            f"prompt has {opened.num_prompt_tokens} tokens, allowed are {limits.max_prompt_tokens}",
            opened.request_id,
            opened.round,
        )
    if num_tokens >= max_context:
        raise Reject(
            "context_exceeded", f"{num_tokens} tokens, the context holds {max_context}", opened.request_id, opened.round
        )
    _check_tokens(opened.token_ids, target, opened.request_id, opened.round)


def check_draft(draft: Draft, target: ModelInfo, limits: Limits) -> None:
    """Refuse a draft that is too long or not of this vocabulary.

    Raises:
        Reject: draft_too_long, unknown_token.
    """
    num_drafted = len(draft.draft_token_ids)
    if num_drafted > limits.max_draft_tokens:
        raise Reject(
            "draft_too_long",
            f"{num_drafted} tokens drafted, allowed are {limits.max_draft_tokens}",
            draft.request_id,
            draft.round,
        )
    _check_tokens(draft.draft_token_ids, target, draft.request_id, draft.round)


def weighed_of(draft: Draft, rule: Rule, target: ModelInfo) -> Weighed | None:
    """Return what a draft was drawn from, as the rule of its session asks for it; null where nothing is drafted.

    Raises:
        Reject: bad_distribution.
    """
    payload = draft.drawn_from if isinstance(draft, WeighedDraft) else None
    num_drafted = len(draft.draft_token_ids)
    if (payload is not None) != (rule != "coupled" and num_drafted > 0):
        got = "no distribution" if payload is None else "a distribution"
        raise Reject(
            "bad_distribution",
            f"a draft of {num_drafted} tokens with {got}, verified by {rule}: Welcome says which rule it is, and at "
            "temperature 0 it is coupled",
            draft.request_id,
            draft.round,
        )
    if payload is None:
        return None
    try:
        if rule == "rejection-lean":
            return Weighed(unpack_weights(payload, num_drafted))
        distributions = unpack_distributions(payload, num_drafted, target.n_vocab)
    except WireError as error:
        raise Reject("bad_distribution", str(error), draft.request_id, draft.round) from error
    weights = tuple(each.weight(token) for each, token in zip(distributions, draft.draft_token_ids, strict=True))
    if 0 in weights:
        token = draft.draft_token_ids[weights.index(0)]
        raise Reject(
            "bad_distribution", f"token {token} is not in what it was drawn from", draft.request_id, draft.round
        )
    return Weighed(weights, distributions)


def _check_tokens(token_ids: tuple[int, ...], target: ModelInfo, request_id: int, round_number: int) -> None:
    largest = max(token_ids, default=0)
    if largest >= target.n_vocab:
        raise Reject(
            "unknown_token",
            f"token {largest} is not in the vocabulary, allowed are 0 to {target.n_vocab - 1}",
            request_id,
            round_number,
        )
