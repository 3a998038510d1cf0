"""Graph → fused op list → native Program. The only place that fuses.

A layer emits one node per op; here neighbours become one op where a fused kernel exists:
conv2d → activation → max_pool2d, dense → activation, batch_norm → add → activation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _native
from .graph import Node, Parameter, Tensor, frozen_norm, subgraph
from .ops.conv2d import can_fuse_pool

Attrs = dict[str, Any]


@dataclass(eq=False)
class Step:
    """One op of a Program: one node of the graph, or several fused."""

    op: str
    inputs: list[Any]
    attrs: Attrs
    outputs: list[Tensor]
    layers: list[str]


def _absorb_activation(step: Step, consumer: Attrs, others: list[Any]) -> bool:
    if step.attrs.get("activation", "linear") != "linear" or "pool" in step.attrs:
        return False
    if consumer["activation"] == "gelu":  # its slope needs the value before it, which a fused op does not keep
        return False
    step.attrs |= consumer
    return True


def _absorb_pool(step: Step, consumer: Attrs, others: list[Any]) -> bool:
    if "pool" in step.attrs or not can_fuse_pool(consumer["pool"], consumer["padding"]):
        return False
    step.attrs |= {"pool": consumer["pool"], "pool_stride": consumer["stride"]}
    return True


def _absorb_residual(step: Step, consumer: Attrs, others: list[Any]) -> bool:
    (made,), (added,), (*inputs, residual) = step.outputs, others, step.inputs
    if consumer["function"] != "add" or residual is not None or step.attrs.get("activation", "linear") != "linear":
        return False
    if not isinstance(added, Tensor) or (added.shape, added.per_sample) != (made.shape, made.per_sample):
        return False
    step.inputs = [*inputs, added]
    return True


# (producer, consumer): makes the producer's step do what the consumer, with `others` as its other inputs, would do
# after it; False if it cannot.
_BY_FACTORS = 1 << 22  # weights of a matrix whose gradient, 16 MB, does not stay in a cache

FUSIONS: dict[tuple[str, str], Callable[[Step, Attrs, list[Any]], bool]] = {
    ("conv2d", "activation"): _absorb_activation,
    ("conv2d", "max_pool2d"): _absorb_pool,
    ("dense", "activation"): _absorb_activation,
    ("batch_norm", "activation"): _absorb_activation,
    ("batch_norm", "binary"): _absorb_residual,
}


def stepped_by_factors(nodes: Iterable[Node], trained: set[int]) -> set[int]:
    """The ids of large matrices whose gradient is xᵀ·dy of one dense op: the optimizer can make it as it goes.

    The op's bias has to be trained: then dy is made, whether or not x wants a gradient.
    """
    nodes = list(nodes)
    uses = Counter(id(p) for node in nodes for p in node.inputs.values() if isinstance(p, Parameter))
    found = set()
    for node in nodes:
        w, b = node.inputs.get("w"), node.inputs.get("b")
        if (node.op == "dense" and isinstance(w, Parameter) and len(w.shape) == 2 and w.size >= _BY_FACTORS
                and w.shape[1] % 16 == 0 and {id(w), id(b)} <= trained and uses[id(w)] == 1):
            found.add(id(w))
    return found


def _dy_is_wanted(step: Step, by_factors: Container[int]) -> bool:
    return step.op == "dense" and id(step.inputs[1]) in by_factors


def fuse(nodes: list[Node], keep: Iterable[Tensor], *, training: bool, by_factors: Container[int] = ()) -> list[Step]:
    """The op list of a graph. Values in `keep`, and those read twice, are never fused away.

    by_factors: the ids of weights of dense ops whose dy is wanted, so that nothing may come between it and y.
    """
    renamed: dict[int, Any] = {}  # what stands for the output of a node that was dropped
    reshaped: dict[int, Any] = {}  # what a reshape was given
    live: list[tuple[Node, list[Any]]] = []
    for node in nodes:
        inputs = [renamed.get(id(t), t) if isinstance(t, Tensor) else t for t in node.inputs.values()]
        before = reshaped.get(id(inputs[0]))
        if node.op == "dropout" and not training:
            renamed[id(node.outputs[0])] = inputs[0]
        elif node.op == "reshape" and before is not None and before.shape == node.outputs[0].shape:
            renamed[id(node.outputs[0])] = before  # there and back again, as between layers of sequences
        else:
            live.append((node, inputs))
            if node.op == "reshape":
                reshaped[id(node.outputs[0])] = inputs[0]
    kept = {id(renamed.get(id(t), t)) for t in keep}
    used = kept | {id(t) for _, inputs in live for t in inputs}
    live = [(node, inputs) for node, inputs in live if node.op != "reshape" or id(node.outputs[0]) in used]
    uses = Counter(id(t) for _, inputs in live for t in inputs if isinstance(t, Tensor))
    made_by: dict[int, Step] = {}
    steps: list[Step] = []
    for node, inputs in live:
        name = node.layer.name if node.layer is not None else node.op
        for at, value in enumerate(inputs):
            step = made_by.get(id(value))
            if step is None or uses[id(value)] > 1 or id(value) in kept or _dy_is_wanted(step, by_factors):
                continue
            absorb = FUSIONS.get((step.op, node.op))
            if absorb and absorb(step, node.attrs, inputs[:at] + inputs[at + 1 :]):
                steps.remove(step)  # to where all that it reads now is made
                step.outputs = node.outputs
                step.layers += [name] if name != step.layers[-1] else []
                break
        else:
            step = Step(node.op, inputs, dict(node.attrs), node.outputs, [name])
        steps.append(step)
        for tensor in node.outputs:
            made_by[id(tensor)] = step
    for tensor in keep:  # a dropped node's output that is wanted itself stands for its input
        if id(tensor) in renamed:
            steps.append(Step("reshape", [renamed[id(tensor)]], {"shape": _reshape_target(tensor)}, [tensor], []))
    return steps


def _reshape_target(tensor: Tensor) -> list[int]:
    return [-1 if d is None else d for d in tensor.shape]


def signature(outputs: Iterable[Tensor], leaves: Sequence[Tensor | Parameter]) -> Any:
    """What a graph computes from its leaves: equal for graphs of which the same Program is made.

    None where it depends on a weight that is not among the leaves.
    """
    outputs = list(outputs)
    numbers = {id(leaf): i for i, leaf in enumerate(leaves)}
    told: list[Any] = [(leaf.shape, str(leaf.dtype)) for leaf in leaves]
    for node in subgraph(outputs, stop=[leaf for leaf in leaves if isinstance(leaf, Tensor)]):
        inputs: list[Any] = []
        for value in node.inputs.values():
            if isinstance(value, np.ndarray):
                inputs.append((value.dtype.str, value.shape, value.tobytes()))
            elif value is None or id(value) in numbers:
                inputs.append(numbers.get(id(value)))
            else:
                return None
        told.append((node.op, inputs, node.attrs, [(t.shape, t.dtype, t.per_sample) for t in node.outputs]))
        for tensor in node.outputs:
            numbers[id(tensor)] = len(numbers)
    return told, [numbers[id(t)] for t in outputs]


class GraphProgram:
    """A native Program made from a graph for one batch size.

    Feed or bind the inputs, `emit` what is wanted, then differentiate and compile the `native` Program.
    `trained`: the parameters that training changes: by their gradient, or as running statistics. `precision`: of
    the products of every op that was not asked for one of its own. `by_factors`: the gradients of large matrices are
    not made; who steps them asks for their `factors`.
    """

    def __init__(self, batch: int, *, training: bool, trained: Iterable[Parameter] = (),
                 precision: str = "highest", by_factors: bool = False) -> None:
        self.native = _native.Program(training)
        self.batch = batch
        self.training = training
        self.precision = precision
        self.steps: list[Step] = []
        self._trained = {id(p) for p in trained}
        self._makes_factors = by_factors and precision == "highest"
        self._by_factors: set[int] = set()
        self._ids: dict[int, int] = {}
        self._leaves: list[Any] = []  # alive as long as their ids are used

    def shape(self, tensor: Tensor) -> list[int]:
        return [self.batch if d is None else d for d in tensor.shape]

    def feed(self, tensor: Tensor, *, needs_grad: bool = False) -> int:
        """Makes `tensor` a value that every run is given."""
        self._ids[id(tensor)] = self.native.feed(self.shape(tensor), tensor.dtype, needs_grad)
        self._leaves.append(tensor)
        return self._ids[id(tensor)]

    def assign(self, tensor: Tensor, native_id: int) -> None:
        """Lets `tensor` be what the native tensor `native_id` holds."""
        self._ids[id(tensor)] = native_id
        self._leaves.append(tensor)

    def id(self, value: Any) -> int:
        """The native tensor of a Tensor, Parameter or array; −1 for None."""
        if value is None:
            return -1
        known = self._ids.get(id(value))
        if known is None:
            if isinstance(value, Parameter):
                wants = id(value) in self._trained and id(value) not in self._by_factors
                known = self.native.bind(value.value, value.grad if wants else None)
            elif isinstance(value, np.ndarray):
                known = self.native.bind(value)
            else:
                raise ValueError(f"{value!r} does not depend on the model's inputs")
            self._ids[id(value)] = known
            self._leaves.append(value)
        return known

    def emit(self, outputs: Iterable[Tensor]) -> list[int]:
        """Adds the ops that `outputs` need; returns their native tensors."""
        outputs = list(outputs)
        known = [t for t in self._leaves if isinstance(t, Tensor)]
        nodes = subgraph(outputs, stop=known)
        if self._makes_factors:
            self._by_factors |= stepped_by_factors(nodes, self._trained) - self._ids.keys()
        for step in fuse(nodes, outputs, training=self.training, by_factors=self._by_factors):
            frozen = self.training and frozen_norm(step.op, step.inputs, lambda p: id(p) in self._trained)
            attrs = {"precision": self.precision} | step.attrs | ({"frozen": 1} if frozen else {})
            ids = self.native.op(step.op, [self.id(v) for v in step.inputs], attrs)
            for tensor, native_id in zip(step.outputs, ids, strict=True):
                self.assign(tensor, native_id)
            self.steps.append(step)
        return [self.id(t) for t in outputs]

    def reached(self, parameters: Iterable[Parameter], received: Container[int]) -> list[Parameter]:
        """Those of `parameters` that have a gradient after `differentiate`, which returned `received`."""
        by_factors = {id(step.inputs[1]) for step in self._factored() if self.id(step.inputs[2]) in received}
        return [p for p in parameters if id(p) in by_factors or self.id(p) in received]

    def weights(self, parameters: Iterable[Parameter]) -> list[tuple[int, int, bool]]:
        """Those of `parameters` that the program works on: the place of each, its native tensor, and whether it was
        bound with its gradient.
        """
        return [(i, self._ids[id(p)], id(p) in self._trained and id(p) not in self._by_factors)
                for i, p in enumerate(parameters) if id(p) in self._ids]

    def factors(self) -> dict[int, tuple[int, int]]:
        """By the id of a matrix: the native tensors x and dy whose product xᵀ·dy is its gradient."""
        return {id(step.inputs[1]): (self.id(step.inputs[0]), self.native.grad_of(self.id(step.outputs[0])))
                for step in self._factored()}

    def _factored(self) -> list[Step]:
        return [step for step in self.steps if _dy_is_wanted(step, self._by_factors)]
