"""Field measurement campaigns: plan, run, collect, verify, report.

Read in this order:

    plan.py       what is asked: hypotheses, arms, factors, devices, limits
    plan_file.py  the TOML file of it, and what may be wrong in it
    schedule.py   plan -> every cell, in its random order
    power.py      what a plan can show: power, and when it may stop
    folder.py     what a run leaves behind
    hashing.py    the list of hashes, and its signature
    run.py        cells -> folder, one after the other, through whatever dies
"""
