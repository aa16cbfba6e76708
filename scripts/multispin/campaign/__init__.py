"""Field measurement campaigns: plan, run, collect, verify, report.

Read in this order:

    plan.py       what is asked: hypotheses, arms, factors, devices, limits
    plan_file.py  the TOML file of it, and what may be wrong in it
    schedule.py   plan -> every cell, in its random order
    power.py      what a plan can show: power, and when it may stop
    folder.py     what a run leaves behind
    hashing.py    the list of hashes, and its signature
    run.py        cells -> folder, one after the other, through whatever dies

Then, of what a run has left behind:

    rules/          what it must satisfy before its figures count
    stores.py       folders and buckets; summary.py, figures of very many rounds
    measured.py     figures by cell, those of metrics.py
    statistics.py   paired differences and their intervals; coverage.py, how often they are right
    effects.py      every arm against its rivals
    conclusions.py  the same in sentences
    drawings/       the same in figures
    report_page.py  the page
"""
