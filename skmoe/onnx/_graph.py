"""A small writer of ONNX graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType


class Graph:
    """Nodes and constants of a graph, or of a branch of one.

    Parameters
    ----------
    prefix : str
        Prefix of all names, so that no other graph has them.
    dtype : numpy dtype
        Precision of the computations, float32 or float64.
    target_opset : int or dict
        Version of ONNX, as in skl2onnx.
    """

    def __init__(self, prefix: str, dtype: Any, target_opset: Any) -> None:
        self.prefix = prefix
        self.dtype = np.dtype(dtype)
        self.target_opset = target_opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.opsets: set[tuple[str, int]] = set()
        self._names = iter(range(10**9))

    @property
    def elem_type(self) -> int:
        """ONNX's number of the dtype."""
        return helper.np_dtype_to_tensor_dtype(self.dtype)

    @property
    def tensor_type(self) -> Any:
        """skl2onnx's type of tensors of the dtype."""
        return DoubleTensorType if self.dtype == np.float64 else FloatTensorType

    def new_name(self, what: str) -> str:
        """Return a name that nothing else has."""
        return f"{self.prefix}_{what}_{next(self._names)}"

    def node(
        self, op: str, *inputs: str, domain: str = "", into: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output; return the name of the output."""
        return self.nodes_of(
            op, inputs, [into or self.new_name(op)], domain, attributes
        )[0]

    def nodes_of(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: list[str],
        domain: str = "",
        attributes: dict[str, Any] | None = None,
    ) -> list[str]:
        """Add a node with these outputs; return their names."""
        name = self.new_name("node")
        node = helper.make_node(
            op, inputs, outputs, name=name, domain=domain, **(attributes or {})
        )
        self.nodes.append(node)
        return outputs

    def constant(self, values: Any) -> str:
        """Add a constant: floats in the graph's dtype, whole numbers as int64."""
        values = np.asarray(values)
        if values.dtype.kind == "f":
            values = values.astype(self.dtype)
        elif values.dtype.kind in "iu":
            values = values.astype(np.int64)
        elif values.dtype.kind == "U":
            values = values.astype(object)
        name = self.new_name("constant")
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def product(self, X: str, coef: np.ndarray, intercept: np.ndarray) -> str:
        """Return X @ coef.T + intercept."""
        return self.node("Gemm", X, self.constant(coef.T), self.constant(intercept))

    def branch(self) -> Graph:
        """Return an empty graph that sees the tensors of this one."""
        other = Graph(self.prefix, self.dtype, self.target_opset)
        other._names = self._names
        other.opsets = self.opsets
        return other

    def as_proto(self, outputs: dict[str, int]) -> onnx.GraphProto:
        """Return the branch, with these outputs and their element types."""
        infos = [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()]
        return helper.make_graph(
            self.nodes, self.new_name("branch"), [], infos, self.initializers
        )
