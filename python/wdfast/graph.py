"""Symbolic tensors: what an op returns when it is given one instead of an array.

A network is an explicit graph of `Node`s, as in Keras' functional API: no tracing, no tape. Leaves are
inputs, `Parameter`s and constant arrays.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np

Shape = tuple["int | None", ...]
Role = Literal["kernel", "bias", "norm_scale", "norm_shift", "embedding", "recurrent_kernel", "slope", "state"]

_numbers = itertools.count()


def _op(name: str) -> Callable[..., Any]:
    from . import ops  # late: ops is made of tensors

    return getattr(ops, name)


def _operator(name: str, reflected: bool = False) -> Callable[[Tensor, Any], Tensor]:
    def method(self: Tensor, other: Any) -> Tensor:
        return _op(name)(other, self) if reflected else _op(name)(self, other)

    return method


class _Arithmetic:
    """The operators, as ops."""

    __slots__ = ()

    # `==` and `<` stay Python's: tensors are keys of dicts; ops.equal and its kin compare values.
    __add__, __radd__ = _operator("add"), _operator("add", reflected=True)
    __sub__, __rsub__ = _operator("subtract"), _operator("subtract", reflected=True)
    __mul__, __rmul__ = _operator("multiply"), _operator("multiply", reflected=True)
    __truediv__, __rtruediv__ = _operator("divide"), _operator("divide", reflected=True)
    __pow__, __rpow__ = _operator("power"), _operator("power", reflected=True)
    __matmul__, __rmatmul__ = _operator("matmul"), _operator("matmul", reflected=True)

    def __neg__(self) -> Tensor:
        return _op("negative")(self)


class Parameter(_Arithmetic):
    """A weight of a layer: an array with a role. `value` and `grad` are views of a model's arenas.

    The role, given by the layer, decides what decays (kernels do; biases and normalisation do not). Role
    "state" marks running statistics: saved with the weights, never trained.
    """

    def __init__(self, value: np.ndarray, *, role: Role, name: str, regularizer: Any = None) -> None:
        self.value = np.ascontiguousarray(value, dtype=np.float32)
        self.grad: np.ndarray | None = None
        self.role: Role = role
        self.name = name
        self.regularizer = regularizer
        self.trainable = role != "state"
        self.frozen = False  # of role "state": whether its layer is, so that training leaves it
        self.decay: Any = None  # a decay of its own, instead of the optimizer's
        self.normed = False  # whether a normalisation takes its scale away, see `mark_normed`
        self.placed = False  # whether `value` is a view of a model's arena

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self) -> np.dtype:
        return self.value.dtype

    @property
    def size(self) -> int:
        return self.value.size

    @property
    def moves(self) -> bool:
        """Whether training changes it: by its gradient, or as a running statistic."""
        return self.trainable or (self.role == "state" and not self.frozen)

    def numpy(self) -> np.ndarray:
        """A copy of the current value."""
        return self.value.copy()

    def assign(self, value: Any) -> None:
        """Overwrites the value in place; the shape must be the same."""
        value = np.asarray(value, dtype=np.float32)
        if value.shape != self.shape:
            raise ValueError(f"weight '{self.name}': expected shape {self.shape}, got {value.shape}")
        self.value[...] = value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.value, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"<Parameter '{self.name}' {self.shape} role={self.role}>"


class Node:
    """One op of the graph: `inputs` are Tensors, Parameters, arrays or None."""

    __slots__ = ("attrs", "inputs", "layer", "losses", "number", "op", "outputs")

    def __init__(self, op: str, inputs: dict[str, Any], attrs: dict[str, Any]) -> None:
        self.op = op
        self.inputs = inputs
        self.attrs = attrs
        self.outputs: list[Tensor] = []
        self.layer: Any = None  # the layer whose call made this node, if any
        self.losses: list[tuple[Any, Tensor]] = []  # (layer, scalar) that this layer adds to a model's loss
        self.number = next(_numbers)  # creation order is a topological order


class Tensor(_Arithmetic):
    """A value that is not known yet. Arithmetic on it adds nodes; `shape` may hold None (the batch).

    `mask`: of a sequence (N, T, …) the Tensor (N, T) that is 0 at steps which are padding, or None. Layers read
    it and hand it on; an op on the tensor does not. `per_sample`: an axis of unknown length is the batch times this.
    """

    __slots__ = ("dtype", "mask", "name", "node", "per_sample", "shape")
    __array_ufunc__ = None  # ndarray * Tensor calls Tensor.__rmul__

    def __init__(self, shape: Iterable[int | None], dtype: str = "float32", node: Node | None = None,
                 name: str | None = None) -> None:
        self.shape: Shape = tuple(shape)
        self.dtype = dtype
        self.node = node
        self.name = name
        self.mask: Tensor | None = None
        self.per_sample = 1

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __repr__(self) -> str:
        of = f" from {self.node.op}" if self.node else ""
        return f"<Tensor {self.name or ''} {self.shape} {self.dtype}{of}>"

    def __len__(self) -> int:
        raise TypeError("a symbolic tensor has no length: its values are not known yet")

    __iter__ = None

    def __bool__(self) -> bool:
        raise TypeError("a symbolic tensor is neither true nor false yet: its values are not known; use ops.where")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError("a symbolic tensor has no values yet: use wdfast.ops, not NumPy functions, on it")

    def __getitem__(self, key: Any) -> Tensor:
        """Integers, slices, one ellipsis and None, as in NumPy; the batch axis can only be taken whole."""
        from .ops.slice import basic_index

        return basic_index(self, key)


class _Building(threading.local):
    on = False


_building = _Building()


@contextlib.contextmanager
def building() -> Iterator[None]:
    """Inside, an op on parameters alone adds a node: a layer may reshape or scale its weights before use."""
    before, _building.on = _building.on, True
    try:
        yield
    finally:
        _building.on = before


def is_symbolic(inputs: Iterable[Any]) -> bool:
    """Whether an op on these inputs adds a node rather than computes."""
    kinds = (Tensor, Parameter) if _building.on else Tensor
    return any(isinstance(value, kinds) for value in inputs)


def subgraph(outputs: Iterable[Tensor], stop: Iterable[Tensor] = ()) -> list[Node]:
    """The nodes that `outputs` depend on, in an order in which they can run; ends at `stop`."""
    ends = {id(t) for t in stop}
    found: dict[int, Node] = {}
    stack = [t for t in outputs if id(t) not in ends]
    while stack:
        node = stack.pop().node
        if node is None or node.number in found:
            continue
        found[node.number] = node
        stack += [t for t in node.inputs.values() if isinstance(t, Tensor) and id(t) not in ends]
    return [found[number] for number in sorted(found)]


def frozen_norm(op: str, inputs: Iterable[Any], moves: Callable[[Parameter], bool]) -> bool:
    """Whether this op normalises with weights that do not train: then its statistics stay too, as in Keras."""
    own = [v for v in inputs if isinstance(v, Parameter)]
    weights = [p for p in own if p.role != "state"] or own  # without scale and shift the statistics tell
    return op == "batch_norm" and not any(moves(p) for p in weights)


_KERNEL_OPS = frozenset({"conv2d", "conv2d_transpose", "dense"})


def mark_normed(nodes: Iterable[Node], outputs: Iterable[Tensor]) -> None:
    """Sets `normed` of the kernels of a graph: whether all that is made with one goes into a norm alone.

    That is a batch_norm, or where no bias is added before it a group_norm or layer_norm. The norm removes such a
    kernel's scale: λ does not make the layer smaller, it sets its effective learning rate (arXiv 1706.05350), and
    `decay.corrected` decays it by a rule of its own. A frozen norm removes nothing.
    """
    made: dict[int, list[Node | None]] = {}  # kernel → the nodes that it makes something with; None: another use
    readers: dict[int, set[str]] = {}
    kernels: dict[int, Parameter] = {}
    source: dict[int, Any] = {}  # what a reshape is the same numbers as
    for node in nodes:
        if node.op == "reshape":
            source[id(node.outputs[0])] = source.get(id(node.inputs["x"]), node.inputs["x"])
            continue
        frozen = frozen_norm(node.op, node.inputs.values(), lambda p: p.moves)
        for name, value in node.inputs.items():
            value = source.get(id(value), value)
            readers.setdefault(id(value), set()).add("frozen" if frozen else f"{node.op}.{name}")
            if isinstance(value, Parameter):
                linear = node.op in _KERNEL_OPS and node.attrs.get("activation", "linear") == "linear"
                made.setdefault(id(value), []).append(node if linear and name == "w" else None)
                if node.op in _KERNEL_OPS and name == "w":
                    kernels[id(value)] = value
    for t in outputs:
        readers.setdefault(id(source.get(id(t), t)), set()).add("output")
    for key, kernel in kernels.items():
        kernel.normed = all(node is not None and _only_norms(readers.get(id(node.outputs[0]), set()), node)
                            for node in made[key])


def _only_norms(readers: set[str], node: Node) -> bool:
    biased = node.inputs.get("b") is not None  # the scale of a sample or a group is then not the kernel's alone
    norms = {"batch_norm.x"} if biased else {"batch_norm.x", "group_norm.x", "layer_norm.x"}
    return bool(readers) and readers <= norms
