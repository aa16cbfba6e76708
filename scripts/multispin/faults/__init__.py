"""Faults on real processes: a coordinator, agents and their users on one machine, and everything that fails to them.

kinds.py      what fails, how often and for how long; drawn by a seed
meddling.py   whole messages lost, doubled, reordered or cut in the middle on their way
site.py       the processes, their links, disks and clocks
injection.py  what a fault does to them
outages.py    links up and down by turns, and what that costs
strangers.py  connections that are opened and never speak
users.py      who asks, compares every character, and asks the next agent when one is gone
books.py      the records that were seen on a disk, and where they must be at the end
lives.py      memory and open files of every daemon, life by life
figures.py    what came of a leg, and the table
leg.py        one leg: start, faults, quiet, checks
command.py    `scripts/soak --faults N`, leg after leg until there were enough
"""
