"""What a run must satisfy before its figures count: numbered rules, each a function from evidence to faults.

Read in this order:

    evidence.py    what is looked at: a run's files, and one cell's tables
    folder.py      100: the folder is what was sealed
    planned.py     200: what was run is what was planned
    recorded.py    300: records fit together, and texts are the same in every arm
    energy.py      400: joules have windows, samples and labels
    conditions.py  500: machines kept their clocks, cooled, and were not changed
    enough.py      600: there is enough of it, and little was left out
    document.py    all of them in words

After the practice of MLPerf Power (every artefact hashed, windows inside the metered phase, sampling and uncertainty
limits, test power within 5 % of the ranging run) and of MLPerf Tiny (repeated runs, accuracy from the same run as the
figure). What cannot be checked is a fault: nothing passes for want of a file.
"""

from multispin.campaign.rules.checking import Fault, Verdict, check_run
from multispin.campaign.rules.document import rules_document

__all__ = ["Fault", "Verdict", "check_run", "rules_document"]
