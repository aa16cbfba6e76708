"""What a request took at the agent, as the interface's figures want it. No I/O."""

from multispin_agent.request import Finished, coordinator_energy_j
from multispin_models.api.figures import Course
from multispin_models.api.replies import EndEnergy, Energy
from multispin_models.energy import Window

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


def energy_of(
    finished: Finished, agent: Window | str, agent_label: str | None, coordinator_label: str | None = None
) -> Energy:
    """Return the joules of a request at both ends.

    Args:
        finished: what became of it.
        agent: joules of this box meanwhile, or why they are not known.
        agent_label: of its meter; null without one.
        coordinator_label: of the joules in its verdicts, as its Welcome says; null if it has no meter.
    """
    joules = agent.joules if isinstance(agent, Window) else None
    reason = agent if isinstance(agent, str) else agent.reason
    own = EndEnergy(joules, agent_label if joules is not None else None, reason)
    coordinator_j = coordinator_energy_j(finished.rounds)
    why = None if coordinator_j is not None else "not every verdict came with its share: the coordinator has no meter"
    label = coordinator_label if coordinator_j is not None else None
    return Energy(own, EndEnergy(coordinator_j, label, why))
