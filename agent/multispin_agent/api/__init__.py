"""The agent's side of the OpenAI-compatible interface: `service.py` serves its texts, `figures.py` says what they took.

The HTTP part, which the coordinator serves as well, is `multispin_models.api`.
"""
