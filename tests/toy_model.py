"""The language model that is a hash, which the simulator and the tests share."""

from multispin.simulate.toy_model import END_TOKEN, ToyModel

__all__ = ["END_TOKEN", "ToyModel"]
