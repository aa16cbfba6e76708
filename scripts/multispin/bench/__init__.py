"""What `multispin bench` measures, and how it says so.

Read in this order:

    fit.py           points -> T = c0 + c1 * rows, whatever a few outliers say
    verify.py        the time of one verification against rows, sequences and context, engines side by side
    ranking.py       the line of every engine, and which serves best
    alone.py         the target alone, with and without lookup, batched over users, and a rival server likewise
    lookup.py        known texts -> what drafts looked up in them would have been worth
    overhead.py      records of rounds -> how much of them is not model time, and at which end
    null_model.py    the null engine: it sleeps instead of computing, so that everything else shows
    null_process.py  a coordinator or an agent with the null engine, the rest as in the daemons
    overhead_run.py  runs whose rounds are looked at, each daemon a process of its own
    percentile.py  tables.py  flags.py  *_command.py    the command line
"""
