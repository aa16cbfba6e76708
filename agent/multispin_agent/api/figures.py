"""What a request took at the agent, as the interface's figures want it. No I/O."""

from multispin_agent.recording import AgentEnergy
from multispin_agent.request import Finished, coordinator_energy_j
from multispin_models.api.figures import Course
from multispin_models.api.replies import EndEnergy, Energy

__all__ = ["course_of", "energy_of"]


def course_of(finished: Finished, num_prompt_tokens: int) -> Course:
    """Return how a text came about: an Open's verdict verifies no draft."""
    steps = tuple(
        (timing.num_draft_tokens, timing.verdict.num_accepted) for timing in finished.rounds if not timing.is_open
    )
    return Course(
        started_ns=finished.started_ns,
        first_token_ns=finished.first_token_ns,
        ended_ns=finished.ended_ns,
        num_prompt_tokens=num_prompt_tokens,
        num_cached=finished.num_reused,
        num_draft_cached=finished.num_draft_reused,
        num_tokens=len(finished.token_ids),
        steps=steps,
    )


def energy_of(finished: Finished, agent: AgentEnergy | str, coordinator_label: str | None = None) -> Energy:
    """Return the joules of a request at both ends.

    Args:
        finished: what became of it.
        agent: its share of this box; or why there is none.
        coordinator_label: of the joules in its verdicts, as its Welcome says; null if it has no meter.
    """
    joules = None if isinstance(agent, str) else agent.joules
    label = None if isinstance(agent, str) or joules is None else agent.label
    own = EndEnergy(joules, label, agent if isinstance(agent, str) else agent.reason)
    coordinator_j = coordinator_energy_j(finished.rounds)
    why = None if coordinator_j is not None else "not every verdict came with its share: the coordinator has no meter"
    return Energy(own, EndEnergy(coordinator_j, None if coordinator_j is None else coordinator_label, why))
