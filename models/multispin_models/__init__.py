"""What both ends must agree on: the wire, the noise, the rule, the engines, the records."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("multispin")
