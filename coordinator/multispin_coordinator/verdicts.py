"""Verdicts in the shape that their agent needs, and the one frame of a message. No I/O."""

from collections.abc import Sequence

import msgspec

from multispin_coordinator.session import GOES_ON
from multispin_models.draft_payload import pack_candidates
from multispin_models.errors import WireError
from multispin_models.messages import UndecidedVerdict, Verdict
from multispin_models.verification import Undecided

__all__ = ["as_undecided", "one_by_one", "only"]


def as_undecided(verdict: Verdict, undecided: Undecided) -> UndecidedVerdict:
    """Return a verdict with draws for the agent to choose from.

    It cannot go on alone before it knows the choice: so an empty draft is asked for.
    """
    fields = msgspec.structs.asdict(verdict)
    if verdict.alone:
        fields |= {"alone": False, "num_draft_tokens": 0}
    return UndecidedVerdict(**fields, candidates=pack_candidates(undecided.candidates), first=undecided.first)


def one_by_one(verdict: Verdict, token_ids: Sequence[int]) -> list[Verdict]:
    """Return the verdicts, a round for each token, that tell an agent of a pass whose draft it does not know.

    The pass, its time and its joules, is the first one's; what comes next, the last one says.
    """
    found: list[Verdict] = []
    for index, token in enumerate(token_ids):
        is_last = index == len(token_ids) - 1
        found.append(
            msgspec.structs.replace(
                verdict,
                round=verdict.round + index,
                num_accepted=0,
                next_token_id=token,
                finish=verdict.finish if is_last else GOES_ON,
                alone=verdict.alone or not is_last,
                residence_us=0 if index else verdict.residence_us,
                received_ns=verdict.received_ns + 1000 * verdict.residence_us if index else verdict.received_ns,
                verify_us=0 if index else verdict.verify_us,
                energy_nj=0 if index and verdict.energy_nj is not None else verdict.energy_nj,
            )
        )
    return found


def only(frames: Sequence[bytes]) -> bytes:
    """Return the frame of a message of one.

    Raises:
        WireError: it has none, or several.
    """
    if len(frames) != 1:
        raise WireError(f"message has {len(frames)} frames, allowed is 1")
    return frames[0]
