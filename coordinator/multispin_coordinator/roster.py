"""The sessions of all agents: the order in which they are served, who holds a sequence, what is to be freed."""

from collections.abc import Iterator

from multispin_coordinator.session import Session

__all__ = ["Roster"]


class Roster:
    """Sessions by request id, in the order of their last job.

    Args:
        max_sequences: sequences of the target that sessions can hold at once; the others wait.
    """

    def __init__(self, max_sequences: int) -> None:
        self.sessions: dict[int, Session] = {}
        self._max_sequences = max_sequences
        self._closing: list[int] = []

    def queue(self, session: Session) -> None:
        """Put a session with a new job at the end of the line."""
        self.sessions.pop(session.request_id, None)
        self.sessions[session.request_id] = session

    def ready(self) -> Iterator[Session]:
        """Yield the sessions with a job that have a sequence, or get one of those left."""
        held = sum(1 for session in self.sessions.values() if session.sequence is not None)
        for session in self.sessions.values():
            if session.job is None:
                continue
            if session.sequence is None:
                if held >= self._max_sequences:
                    continue
                held += 1
            yield session

    def of_agent(self, agent: bytes) -> list[Session]:
        """Return the sessions that an agent owns."""
        return [session for session in self.sessions.values() if session.agent == agent]

    def drop(self, session: Session) -> None:
        """End a session; its sequence is freed with the next pass, or when the pass that computes it is done."""
        del self.sessions[session.request_id]
        if not session.running:
            self.free(session)

    def free(self, session: Session) -> None:
        """Give a session's sequence back."""
        if session.sequence is not None:
            self._closing.append(session.sequence)
            session.sequence = None

    def take_closing(self) -> tuple[int, ...]:
        """Return the sequences to be freed, each once."""
        closing, self._closing = tuple(self._closing), []
        return closing
