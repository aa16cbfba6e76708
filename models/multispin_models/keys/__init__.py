"""CURVE keys of boxes: files, enrolment tokens, who may connect, and the gate that asks.

Read `key_files.py`, `token.py` and `registry.py` (what is on disk), then `gate.py` (who gets in) and `messages.py` (how
a box becomes known).
"""
