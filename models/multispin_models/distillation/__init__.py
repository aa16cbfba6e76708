"""A small draft from a large target: text that the target writes, and a network of fewer layers trained on it.

Reading order: `openings` (what the target is asked), `target_text` (many conversations at once, with the target's
likeliest tokens at every position), `corpus` (the shards they are kept in).
"""
