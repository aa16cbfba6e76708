"""Nodes and weights of an ONNX graph as they are written down, the weights straight into their own file.

Weights lie at multiples of 4,096 bytes, so that a runtime can map the file instead of reading it.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

__all__ = ["CONTRIB", "GraphBuilder"]

CONTRIB: Final = "com.microsoft"
_ALIGNMENT: Final = 4096
_OPSET, _IR_VERSION = 21, 10
_SMALL_BYTES: Final = 1024  # constants up to here stay in the graph file


Variant = TypeVar("Variant", bound=str)


class GraphBuilder:
    """One graph being written, or several variants of it; `finish` returns them."""

    def __init__(self, weights_path: Path) -> None:
        self._path = weights_path
        self._file = weights_path.open("wb")
        self._only: frozenset[str] | None = None  # the variants of what is being added; None: in all
        self._nodes: list[tuple[frozenset[str] | None, onnx.NodeProto]] = []
        self._constants: list[TensorProto] = []
        self._inputs: list[tuple[frozenset[str] | None, onnx.ValueInfoProto]] = []
        self._outputs: list[tuple[frozenset[str] | None, onnx.ValueInfoProto]] = []
        self._numbers = itertools.count()
        self._known: set[str] = set()

    def node(
        self, operator: str, inputs: list[str], outputs: int | list[str] = 1, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node and return the names of its outputs, invented unless given; "" is an output not wanted."""
        names = outputs if isinstance(outputs, list) else [f"{operator}.{next(self._numbers)}" for _ in range(outputs)]
        self._nodes.append((self._only, helper.make_node(operator, inputs, names, domain=domain, **attributes)))
        return names

    def one(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return its name."""
        return self.node(operator, list(inputs), 1, domain, **attributes)[0]

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        """Add a constant and return its name; large ones go to the weights file."""
        values = np.ascontiguousarray(values)
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        if values.nbytes <= _SMALL_BYTES:
            self._constants.append(helper.make_tensor(name, kind, values.shape, values.tobytes(), raw=True))
            return name
        offset = self._file.tell()
        self._file.write(b"\0" * (-offset % _ALIGNMENT))
        return self._external(name, kind, values.shape, self._file.tell(), self._file.write(values.tobytes()))

    def same_bytes(self, name: str, constant: str, kind: int) -> str:
        """Add a constant of another type over the bytes of one that is there, and return its name."""
        tensor = TensorProto()
        tensor.CopyFrom(next(known for known in self._constants if known.name == constant))
        tensor.name, tensor.data_type = name, kind
        self._constants.append(tensor)
        return name

    @contextmanager
    def only(self, names: Iterable[str]) -> Iterator[None]:
        """Put the nodes, inputs and outputs of a block only into the graphs of these names."""
        assert self._only is None
        self._only = frozenset(names)
        yield
        self._only = None

    def sizes(self, *values: int) -> str:
        """Return the name of a constant of 64-bit integers, written once for each value."""
        name = "sizes." + ".".join(map(str, values))
        if name not in self._known:
            self._known.add(name)
            self.constant(name, np.array(values, np.int64))
        return name

    def _external(self, name: str, kind: int, shape: tuple[int, ...], offset: int, length: int) -> str:
        tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self._path.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self._constants.append(tensor)
        return name

    def input(self, name: str, kind: int, shape: list[int | str]) -> str:
        """Declare an input and return its name; a string in the shape is a size known at run time."""
        self._inputs.append((self._only, helper.make_tensor_value_info(name, kind, shape)))
        return name

    def output(self, name: str, kind: int, shape: list[int | str]) -> str:
        """Declare an output and return its name."""
        self._outputs.append((self._only, helper.make_tensor_value_info(name, kind, shape)))
        return name

    def finish(self, name: str, variants: Sequence[Variant]) -> dict[Variant, onnx.ModelProto]:
        """Close the weights file and return the models, all on the same weights."""
        self._file.close()
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(CONTRIB, 1)]
        models = {}
        for variant in variants:
            nodes = [node for only, node in self._nodes if only is None or variant in only]
            inputs = [value for only, value in self._inputs if only is None or variant in only]
            outputs = [value for only, value in self._outputs if only is None or variant in only]
            used = {value for node in nodes for value in node.input}
            constants = [constant for constant in self._constants if constant.name in used]
            graph = helper.make_graph(nodes, f"{name} {variant}", inputs, outputs, constants)
            models[variant] = helper.make_model(
                graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="multispin"
            )
        return models
