"""How much each agent drafts, and which share of the channel it has: pure arithmetic, in reading order.

scenario    what a plan starts from: users, channel, cost of a verification; from TOML
lambert     the two real branches of W, where the paper's formulas need them
allocation  given lengths: the least drafting phase, its shares of the channel, and goodput
paper       the paper's two policies: homogeneous (Theorem 1) and heterogeneous (Algorithm 1)
exact       integer lengths by price and proof
plan        the policies by name
"""
