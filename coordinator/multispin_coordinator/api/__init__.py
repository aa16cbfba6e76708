"""The coordinator's side of the OpenAI-compatible interface: texts that the target writes alone, without any agent.

The centralised rival of cooperation, for measurements, and the fall-back of users. The HTTP part is
`multispin_models.api`.
"""
