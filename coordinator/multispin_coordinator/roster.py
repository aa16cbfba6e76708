"""The sessions of all agents: the order in which they are served, who holds a sequence, what is kept, what is freed."""

from collections.abc import Iterator

from multispin_coordinator.session import Session
from multispin_models.kept_sequences import KeptSequences

__all__ = ["Roster"]


class Roster:
    """Sessions by request id, in the order of their last job.

    Args:
        max_sequences: sequences of the target that sessions can hold at once; the others wait.
        keeps: sequences of sessions that have ended are kept for prompts that begin with the same tokens.
    """

    def __init__(self, max_sequences: int, *, keeps: bool = False) -> None:
        self.sessions: dict[int, Session] = {}
        self._max_sequences = max_sequences
        self._closing: list[int] = []
        self._keeps = keeps
        self._kept = KeptSequences()

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
                self._seat(session, held)
            yield session

    def _seat(self, session: Session, num_held: int) -> None:
        """Give a session a kept sequence that begins as its tokens do; else see that a new one can be opened.

        A copy is asked for anew before every pass, since what is kept changes; a session that met a fault gets none.
        """
        kept = self._kept.take(session.tokens)
        if kept is not None:
            session.go_on_from(kept)
        else:
            nearest = None if session.num_faults else self._kept.nearest(session.tokens)
            session.start_from(*(nearest or (None, 0)))
        while num_held + len(self._kept) > self._max_sequences:
            self._closing.append(self._kept.take_oldest().sequence)

    def of_agent(self, agent: bytes) -> list[Session]:
        """Return the sessions that an agent owns."""
        return [session for session in self.sessions.values() if session.agent == agent]

    def drop(self, session: Session) -> None:
        """End a session; its sequence is freed with the next pass, or when the pass that computes it is done."""
        del self.sessions[session.request_id]
        if not session.running:
            self.free(session)

    def free(self, session: Session) -> None:
        """Give the sequence of a session that has ended back, or keep it."""
        if session.sequence is None:
            return
        if self._keeps and session.num_cached:
            self._kept.keep(session.sequence, session.tokens[: session.num_cached])
        else:
            self._closing.append(session.sequence)
        session.sequence = None

    @property
    def num_kept(self) -> int:
        """Sequences that no session holds and that are not freed."""
        return len(self._kept)

    def take_closing(self) -> tuple[int, ...]:
        """Return the sequences to be freed, each once."""
        closing, self._closing = tuple(self._closing), []
        return closing
