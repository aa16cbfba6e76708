"""The one tree of errors that a user or an operator can meet.

    MultispinError
    ├── ConfigError        a setting, a flag or a configuration file
    ├── ModelError         a model file, a pair manifest, an engine
    │   ├── UnsupportedModel   a model that cannot be rolled back, or that this engine does not know
    │   └── EngineFault        a forward pass failed; the state of its sequences is not known
    ├── LimitError         a bound was reached: sequences, context, rows, queue
    ├── WireError          a frame that is not a message of this protocol
    │   └── WireVersionError   a frame of another version of it
    └── SensorError        a sensor that cannot be read
        └── SensorAbsent       there is no such sensor here

A message says what, the value, what is allowed, and what to do. Nothing here is caught to go on silently.
"""

__all__ = [
    "MultispinError",
    "ConfigError",
    "ModelError",
    "UnsupportedModel",
    "EngineFault",
    "LimitError",
    "WireError",
    "WireVersionError",
    "SensorError",
    "SensorAbsent",
]


class MultispinError(Exception):
    """Every error that multispin raises on purpose."""


class ConfigError(MultispinError):
    """A setting is missing, unknown or out of range."""


class ModelError(MultispinError):
    """A model file, a pair manifest or an engine cannot be used."""


class UnsupportedModel(ModelError):
    """The model cannot be served correctly: it cannot be rolled back, or its family is not known."""


class EngineFault(ModelError):
    """A forward pass failed part-way: the sequences in it must be closed and opened again."""


class LimitError(MultispinError):
    """A stated bound was reached; the caller may retry later or ask for less."""


class WireError(MultispinError):
    """A frame that is no message of this protocol."""


class WireVersionError(WireError):
    """A frame of another protocol version: the peer must be updated."""


class SensorError(MultispinError):
    """A sensor is there and cannot be read, or gives what it must not give."""


class SensorAbsent(SensorError):
    """This machine has no such sensor, so nothing is broken."""
