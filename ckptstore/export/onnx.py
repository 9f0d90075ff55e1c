"""ONNX: a graph that is built node by node, without torch, and run by onnxruntime before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ckptstore.errors import InvalidRequest
from ckptstore.export.trial import Live, largest_difference
from ckptstore.rllib_formats.networks.forward import Convolution, Network
from ckptstore.rllib_formats.networks.normal import Normal
from ckptstore.version import __version__

OPSET = 17
"""The default: runtimes of 2022 and later know it."""
OPSETS = range(13, 22)
_IR = {19: 9, 20: 9, 21: 10}
"""The version of the file format that came with an opset; 8 before. Runtimes refuse files of newer ones."""


def dumps(
    network: Network, about: Mapping[str, str], where: str, live: Live | None = None, *, opset: int = OPSET
) -> tuple[bytes, float]:
    """The file's bytes, and the largest difference that a trial has shown from the weights, and from `live`.

    Raises InvalidRequest if onnx or onnxruntime isn't installed or the opset isn't one of `OPSETS`, and
    UnreadableFormat if the graph doesn't compute what the weights do.
    """
    if opset not in OPSETS:
        raise InvalidRequest(
            "opset", f"{opset!r} isn't one of {OPSETS.start} to {OPSETS.stop - 1}", f"Leave it at {OPSET}"
        )
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InvalidRequest(
            "format", f"{error.name or 'onnx'} is not installed", "pip install 'ckptstore[onnx]'"
        ) from error
    try:
        model = _model(network, about, opset)
        onnx.checker.check_model(model, full_check=True)
        data: bytes = model.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # neither library documents its exceptions
        raise InvalidRequest(where, f"onnx says: {error!s:.200}", "Export to npz or torchscript") from error
    names = list(network.outputs)

    def run(given: Mapping[str, Any]) -> dict[str, Any]:
        return dict(zip(names, session.run(names, dict(given)), strict=True))

    return data, largest_difference(network, run, where, live)


def _model(network: Network, about: Mapping[str, str], opset: int) -> Any:
    from onnx import helper

    graph = _Graph(network, opset)
    made = network.run(graph, {name: name for name in network.inputs})
    for name, value in made.items():
        graph.add("Identity", [value], name)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "policy",
            [graph.describe_value(name, shape) for name, shape in network.inputs.items()],
            [graph.describe_value(name, shape) for name, shape in network.outputs.items()],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=_IR.get(opset, 8),
        producer_name="ckptstore",
        producer_version=__version__,
    )
    helper.set_model_props(model, dict(about))
    return model


class _Graph:
    """`Ops` on names of values: every operation adds nodes and returns the name of their result."""

    def __init__(self, network: Network, opset: int) -> None:
        from onnx import helper, numpy_helper

        self._helper, self._array = helper, numpy_helper.from_array
        self._opset = opset
        self._weights = network.weights
        self._actions = network.outputs.get("action_dist_inputs", (0,))[0] // 2
        self._known: dict[str, str] = {}
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def describe_value(self, name: str, shape: tuple[int, ...]) -> Any:
        return self._helper.make_tensor_value_info(name, 1, ["batch", *shape])

    def add(self, kind: str, inputs: list[str], name: str = "", **attributes: Any) -> str:
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, dtype: Any) -> str:
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(self._array(np.ascontiguousarray(value, dtype), name))
        return name

    def weight(self, name: str) -> str:
        if name not in self._known:
            self.initializers.append(self._array(self._weights[name], name))
            self._known[name] = name
        return name

    def normal(self, x: str, normal: Normal) -> str:
        made = self.add("Cast", [x], to=11)
        made = self.add("Sub", [made, self.constant(normal.mean, np.float64)])
        made = self.add("Div", [made, self.constant(normal.deviation, np.float64)])
        if normal.limit is not None:
            limits = [self.constant(sign * normal.limit, np.float64) for sign in (-1, 1)]
            made = self.add("Clip", [made, *limits])
        return self.add("Cast", [made], to=1)

    def affine(self, x: str, layer: str) -> str:
        return self.add("Gemm", [x, self.weight(f"{layer}.weight"), self.weight(f"{layer}.bias")], transB=1)

    def active(self, x: str, name: str) -> str:
        if name in ("silu", "swish"):
            return self.add("Mul", [x, self.add("Sigmoid", [x])])
        return x if name == "linear" else self.add({"tanh": "Tanh", "relu": "Relu", "elu": "Elu"}[name], [x])

    def convolve(self, x: str, layers: list[Convolution], active: str) -> str:
        x = self.add("Transpose", [x], perm=[0, 3, 1, 2])
        for layer, stride, ((top, bottom), (left, right)) in layers:
            inputs = [x, self.weight(f"{layer}.weight"), self.weight(f"{layer}.bias")]
            x = self.add("Conv", inputs, strides=list(stride), pads=[top, left, bottom, right])
            x = self.active(x, active)
        return self.add("Flatten", [self.add("Transpose", [x], perm=[0, 2, 3, 1])], axis=1)

    def lstm(self, x: str, h: str, c: str, layer: str) -> tuple[str, str]:
        parts = [
            self.add(
                "Gemm",
                [value, self.weight(f"{layer}.weight_{part}_l0"), self.weight(f"{layer}.bias_{part}_l0")],
                transB=1,
            )
            for part, value in (("ih", x), ("hh", h))
        ]
        cells = self._weights[f"{layer}.weight_hh_l0"].shape[-1]
        i, f, g, o = self._split(self.add("Add", parts), [cells] * 4)
        kept = self.add("Mul", [self.add("Sigmoid", [f]), c])
        new = self.add("Mul", [self.add("Sigmoid", [i]), self.add("Tanh", [g])])
        c = self.add("Add", [kept, new])
        return self.add("Mul", [self.add("Sigmoid", [o]), self.add("Tanh", [c])]), c

    def _split(self, x: str, sizes: list[int]) -> list[str]:
        names = [f"split_{len(self.nodes)}_{index}" for index in range(len(sizes))]
        self.nodes.append(
            self._helper.make_node(
                "Split", [x, self.constant(sizes, np.int64)], names, name=names[0], axis=-1
            )
        )
        return names

    def combine_dueling(self, advantage: str, value: str) -> str:
        if self._opset < 18:
            mean = self.add("ReduceMean", [advantage], axes=[-1], keepdims=1)
        else:  # the axes became an input
            mean = self.add("ReduceMean", [advantage, self.constant([-1], np.int64)], keepdims=1)
        return self.add("Add", [self.add("Sub", [advantage, mean]), value])

    def expect(self, x: str, actions: int, support: Any) -> str:
        shape = self.constant([0, actions, len(support)], np.int64)
        weights = self.add("Softmax", [self.add("Reshape", [x, shape])], axis=-1)
        return self.add("MatMul", [weights, self.constant(support, np.float32)])

    def with_deviation(self, mean: str, log_std: str) -> str:
        spread = self.add("Expand", [self.weight(log_std), self.add("Shape", [mean])])
        return self.add("Concat", [mean, spread], axis=-1)

    def clip(self, x: str, limit: float) -> str:
        means, deviations = self._split(x, [self._actions, self._actions])
        limits = [self.constant(sign * limit, np.float32) for sign in (-1, 1)]
        return self.add("Concat", [means, self.add("Clip", [deviations, *limits])], axis=-1)
