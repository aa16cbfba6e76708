"""Which of the drafts that are ready go into the next pass: pure policy, the clock an argument.

    continuous   all of them, at once (default)
    barrier      all requests together, once every one of them has its draft: the paper's synchronous round
    groups       two barriers or more, so that one group drafts while another is verified

Prompts are computed in any pass: a request takes part once it has its first token. A draft waits for others for
`patience_s` at most: an agent that is gone or slow holds nobody up for longer. A pass takes one group, the one whose
first draft came first, so a draft is in one of the next n passes of n groups after that.
"""

from collections.abc import Iterable
from typing import Final

from multispin_coordinator.session import Session

__all__ = ["SCHEDULES", "Schedule"]

SCHEDULES: Final = ("continuous", "barrier", "groups")
TWO: Final = 2


class Schedule:
    """Chooses among what is ready.

    Args:
        name: of `SCHEDULES`.
        patience_s: a draft waits no longer for others.
        num_groups: of "groups", at least 2; requests are spread over them as evenly as they go.
    """

    def __init__(self, name: str, patience_s: float, num_groups: int = TWO) -> None:
        self.name = name
        self._num_groups = {"continuous": 0, "barrier": 1, "groups": num_groups}[name]
        self._patience_ns = int(patience_s * 1e9)
        self._group: dict[int, int] = {}  # of each request that takes part
        self._released: set[int] = set()  # requests whose barrier has opened for the draft that they have

    def choose(self, sessions: Iterable[Session], ready: list[Session], now_ns: int) -> list[Session]:
        """Return those of `ready` that may go into a pass now, in their order.

        Args:
            sessions: all that are open.
            ready: with a job, in the order in which the jobs came.
            now_ns: the clock.
        """
        if not self._num_groups:
            return ready
        members = [session for session in sessions if session.has_first_token]
        self._assign(members)
        waiting = [session for session in ready if session.request_id in self._group]
        self._released &= {session.request_id for session in waiting}
        if not self._released:
            self._release(members, waiting, now_ns)
        return [
            session
            for session in ready
            if session.request_id not in self._group or session.request_id in self._released
        ]

    def _assign(self, members: Iterable[Session]) -> None:
        """Give every new request to the smallest group, and forget those that are done."""
        present = [session.request_id for session in members]
        self._group = {request_id: self._group[request_id] for request_id in present if request_id in self._group}
        for request_id in present:
            if request_id not in self._group:
                sizes = [list(self._group.values()).count(group) for group in range(self._num_groups)]
                self._group[request_id] = sizes.index(min(sizes))

    def _release(self, members: list[Session], waiting: list[Session], now_ns: int) -> None:
        """Open the barrier of the group whose first draft came first, if one may be opened."""
        for first in sorted(waiting, key=lambda session: session.received_ns):
            group = self._group[first.request_id]
            own = [session for session in members if self._group[session.request_id] == group]
            is_patient = now_ns - first.received_ns < self._patience_ns
            if is_patient and any(session.job is None for session in own):
                continue
            self._released = {session.request_id for session in waiting if self._group[session.request_id] == group}
            return
