"""The figures of a report: each a drawing with what is said of it, and the table of its numbers.

Read in this order:

    drawing.py      what a figure is: SVG, PNG, caption with n, alternative text, table
    style.py        colours that colour-blind readers can tell apart, in light and in dark
    by_setting.py   a metric over users and links, an arm a line
    acceptance.py   survival by position and task
    round_parts.py  where the time of a round goes
    forest.py       effects with their intervals
    crossover.py    where cooperation pays: users x link
    pareto.py       latency against energy
    thermal.py      temperatures through the run
"""

from multispin.campaign.drawings.acceptance import acceptance
from multispin.campaign.drawings.by_setting import by_setting
from multispin.campaign.drawings.crossover import crossover
from multispin.campaign.drawings.drawing import Drawing, Table
from multispin.campaign.drawings.forest import forest
from multispin.campaign.drawings.pareto import pareto
from multispin.campaign.drawings.round_parts import round_parts
from multispin.campaign.drawings.thermal import thermal

__all__ = [
    "Drawing",
    "Table",
    "acceptance",
    "by_setting",
    "crossover",
    "forest",
    "pareto",
    "round_parts",
    "thermal",
]
