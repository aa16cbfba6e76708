"""Field measurement campaigns: plan, run, collect, verify, report."""
