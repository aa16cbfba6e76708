"""What the coordinator has done since its start, for whoever watches it: passes, drafts, tokens, bytes. No I/O."""

from multispin_coordinator.passes import PassTiming
from multispin_models.estimators import RecentLine
from multispin_models.tally import DraftTally, Histogram

__all__ = ["Tally"]

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
PASS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)


class Tally:
    """Counts.

    Attributes:
        rows, verify_s: of every pass.
        fit: seconds of a pass against its rows, of passes that held no part of a prompt.
        drafts: that agents sent.
        looked_up: drafts that the coordinator looked up in the text, where it goes on alone.
        num_tokens_cooperative, num_tokens_alone: committed, for agents and for the coordinator's own users.
        energy_j: of passes that were metered; `num_unmetered` passes were not.
        received_bytes, sent_bytes: payload of messages, without frames of ZeroMQ and below.
    """

    def __init__(self) -> None:
        self.rows = Histogram(ROWS)
        self.verify_s = Histogram(PASS_S)
        self.fit = RecentLine()
        self.drafts = DraftTally()
        self.looked_up = DraftTally()
        self.num_tokens_cooperative = self.num_tokens_alone = 0
        self.energy_j = 0.0
        self.num_unmetered = 0
        self.received_bytes = self.sent_bytes = 0

    def add_pass(self, num_rows: int, timing: PassTiming, *, is_whole: bool) -> None:
        """Count a pass.

        Args:
            num_rows: of all its parts, at least one.
            timing: measured around it.
            is_whole: it held no chunk of a prompt that goes on.
        """
        seconds = timing.verify_us / 1e6
        self.rows.add(num_rows)
        self.verify_s.add(seconds)
        if is_whole:
            self.fit.add(num_rows, seconds)
        known = [share for share in timing.energy_nj if share is not None]
        if len(known) == len(timing.energy_nj):
            self.energy_j += sum(known) / 1e9
        else:
            self.num_unmetered += 1
