"""The way from a public op function to its native kernel: at once on arrays, or as a node on tensors."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from .. import _native
from ..graph import Node, Parameter, Tensor, is_symbolic

Array = Any
"""A NumPy array, anything with DLPack or `__array_interface__`, or a symbolic Tensor."""

_NATIVE_DTYPES = {np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.uint8), np.dtype(np.float64)}
_DTYPE_NAMES = {dtype: str(dtype) for dtype in _NATIVE_DTYPES}
_registry: dict[str, Any] = _native.ops()
_inferred: dict[Any, Any] = {}  # by op, inputs and attributes: what came out; networks are made of the same ops
_MOST_INFERRED = 4096


class Ints(NamedTuple):
    """An integer input of a Case: uniform in [low, high)."""

    shape: tuple[int, ...]
    high: int
    low: int = 0


class Uniform(NamedTuple):
    """A float input of a Case, uniform in [low, high), where the default normal would leave the domain."""

    shape: tuple[int, ...]
    low: float
    high: float


class Case(NamedTuple):
    """One row of the table that tests and benchmarks walk.

    `inputs`: by argument name a shape (float32, standard normal), an `Ints`, a `Uniform`, an array or None.
    `terms`: the length of the longest sum in the op, from which the tolerance is derived.
    `gradient`: False where the function has none (argmax, random numbers).
    """

    op: str
    inputs: dict[str, Any]
    attrs: dict[str, Any] = {}  # noqa: RUF012
    terms: int = 1
    gradient: bool = True


def refresh_registry() -> None:
    """Reads the native registry again, after a library of ops was loaded."""
    _inferred.clear()
    _registry.clear()
    _registry.update(_native.ops())


def registry() -> dict[str, Any]:
    """Facts about every native op by name: instruction sets, numbers of inputs, differentiable inputs."""
    return _registry


def as_array(op: str, argument: str, value: Any, in_place: bool = False) -> np.ndarray:
    """`value` as the native side wants it: C order, aligned, native bytes, float32/int32/uint8.

    float64 arrays are refused (a silent conversion would hide a loss of precision); Python numbers and
    lists of them become float32 or int32. Integers of other widths become int32 if they fit. With `in_place` nothing is
    converted: what does not fit is refused; uint16, bits of bfloat16, is a dtype of its own there.
    """
    if isinstance(value, Parameter):
        return value.value
    if isinstance(value, (bool, int, float, list, tuple)):
        if in_place:
            raise TypeError(f"{op}: argument '{argument}' is updated in place: expected an array, got {value}")
        try:
            array = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{op}: argument '{argument}': cannot be read as an array: {error}") from None
        if array.dtype == np.float64:
            array = array.astype(np.float32)
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
    elif hasattr(value, "__dlpack__"):
        try:
            array = np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError) as error:
            raise TypeError(f"{op}: argument '{argument}': cannot be read as an array: {error}") from None
    else:
        array = np.asarray(value)
    if array.dtype.byteorder == ">" and not in_place:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype not in _NATIVE_DTYPES and array.dtype.kind in "iub" and not in_place:
        if array.size and (array.max() > 2**31 - 1 or array.min() < -(2**31)):
            raise ValueError(f"{op}: argument '{argument}': integers do not fit in int32")
        array = array.astype(np.int32)
    if (array.dtype not in _NATIVE_DTYPES or array.dtype == np.float64) and not (in_place and array.dtype == np.uint16):
        hint = " (convert with .astype('float32'))" if array.dtype.kind == "f" else ""
        raise TypeError(
            f"{op}: argument '{argument}': expected float32 or integers, got {array.shape} {array.dtype}{hint}"
        )
    if in_place:
        if not (array.flags.c_contiguous and array.flags.aligned and array.flags.writeable):
            raise ValueError(
                f"{op}: argument '{argument}' is updated in place: expected a writable, aligned, C-contiguous array"
            )
        return array
    return np.require(array, requirements=["C", "A"])


def as_float64(op: str, argument: str, value: Any, in_place: bool = False) -> np.ndarray:
    """Real numbers in double precision, for the few inputs that are read so (`call(float64=…)`).

    With `in_place` nothing is converted: what does not fit is refused.
    """
    if in_place and not (isinstance(value, np.ndarray) and value.dtype == np.float64 and value.flags.carray):
        raise TypeError(f"{op}: argument '{argument}' is updated in place: expected a writable, aligned, C-contiguous "
                        f"array of float64")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{op}: argument '{argument}': cannot be read as an array: {error}") from None
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{op}: argument '{argument}': expected float64, got {array.shape} {array.dtype}")
    return np.require(array, np.float64, ["C", "A"])


def operand(op: str, argument: str, value: Any) -> Any:
    """`value` as something with a shape: what is symbolic or a weight stays, all else becomes an array."""
    return value if isinstance(value, (Tensor, Parameter)) else as_array(op, argument, value)


def native_attrs(attrs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attrs.items() if value is not None}


class _Tape(threading.local):
    steps: list[tuple[str, list[Any], dict[str, Any], dict[str, Any], list[np.ndarray]]] | None = None


_tape = _Tape()


def call(op: str, inputs: dict[str, Any], *, training: bool = False, seed: int = 0, step: int = 0,
         float64: tuple[str, ...] = (), **attrs: Any) -> Any:
    """Runs the native op now, or adds a node if an input is symbolic. Returns one value, or a tuple.

    Attributes that are None are not passed on. `float64` names the inputs that are read in double precision.
    Errors name the op and the argument.
    """
    attrs = native_attrs(attrs)
    if is_symbolic(inputs.values()):
        return _add_node(op, inputs, attrs)
    mutates = _registry[op]["mutates"]
    arrays = [
        None if value is None
        else as_float64(op, name, value, bool(mutates >> i & 1)) if name in float64
        else as_array(op, name, value, bool(mutates >> i & 1))
        for i, (name, value) in enumerate(inputs.items())
    ]
    run = {"training": training, "seed": seed, "step": step}
    outputs = _native.execute(op, arrays, attrs, **run)
    if _tape.steps is not None:
        _tape.steps.append((op, arrays, attrs, run, outputs))
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _add_node(op: str, inputs: dict[str, Any], attrs: dict[str, Any]) -> Any:
    inputs = {name: value if value is None else operand(op, name, value) for name, value in inputs.items()}
    # A dimension that changes with the batch is unknown, whatever the op: infer twice and compare.
    specs = [_infer(op, inputs, attrs, batch) for batch in (3, 5)]
    node = Node(op, inputs, attrs)
    for (shape, dtype), (other, _) in zip(*specs, strict=True):
        dims = tuple(a if a == b else None for a, b in zip(shape, other, strict=True))
        node.outputs.append(Tensor(dims, dtype, node))
        unknown = [a for a, b in zip(shape, other, strict=True) if a != b and 5 * a == 3 * b]
        node.outputs[-1].per_sample = unknown[0] // 3 if unknown else 1
    return node.outputs[0] if len(node.outputs) == 1 else tuple(node.outputs)


def _infer(op: str, inputs: dict[str, Any], attrs: dict[str, Any], batch: int) -> Any:
    specs: list[Any] = []
    for value in inputs.values():
        if value is None:
            specs.append(None)
        else:
            rows = batch * getattr(value, "per_sample", 1)
            shape = tuple([rows if d is None else d for d in value.shape])
            specs.append((shape, _DTYPE_NAMES.get(value.dtype) or str(value.dtype)))
    key = op, tuple(specs), repr(attrs)  # as text: 1 and 1.0 are not the same to an op
    found = _inferred.get(key)
    if found is None:
        found = _native.infer(op, specs, attrs)["out"]
        if len(_inferred) >= _MOST_INFERRED:
            _inferred.clear()
        _inferred[key] = found
    return found


def vjp(function: Callable[..., Any], *arrays: Any, **attrs: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """The value of a function of ops and its pullback (vector-Jacobian product).

    `y, pullback = ops.vjp(f, a, b)`; `pullback(dy)` gives (dy·∂y/∂a, dy·∂y/∂b), None where an input has no
    gradient. Reverse-mode differentiation, one native backward per op.

    >>> import numpy as np
    >>> from wdfast import ops
    >>> y, pullback = ops.vjp(ops.exp, np.zeros(2, np.float32))
    >>> pullback(np.ones(2, np.float32))
    (array([1., 1.], dtype=float32),)
    """
    if _tape.steps is not None:
        raise RuntimeError("ops.vjp: cannot be nested")
    names = [f"argument {i}" for i in range(len(arrays))]
    # A view each: gradients are told apart by the array's identity, and f(a, a) has two of them.
    leaves = [None if a is None else as_array("vjp", n, a).view() for n, a in zip(names, arrays, strict=True)]
    _tape.steps = []
    try:
        result = function(*leaves, **attrs)
        steps = _tape.steps
    finally:
        _tape.steps = None

    def pullback(dy: Any) -> tuple[Any, ...]:
        gradients: dict[int, np.ndarray] = {}
        outputs = result if isinstance(result, tuple) else (result,)
        for output, gradient in zip(outputs, dy if isinstance(dy, tuple) else (dy,), strict=True):
            gradients[id(output)] = as_array("pullback", "dy", gradient)
        for op, inputs, op_attrs, run, outs in reversed(steps):
            d_out = [gradients.get(id(out)) for out in outs]
            info = _registry[op]
            if all(d is None for d in d_out) or not info["differentiable"]:
                continue
            filled = [np.zeros_like(o) if d is None and o.dtype == np.float32 else d
                      for d, o in zip(d_out, outs, strict=True)]
            d_in = _native.execute(op, inputs, op_attrs, d_out=filled, **run)
            for array, gradient in zip(inputs, d_in, strict=True):
                if gradient is not None:
                    before = gradients.get(id(array))
                    gradients[id(array)] = gradient if before is None else before + gradient
        return tuple(None if leaf is None else gradients.get(id(leaf)) for leaf in leaves)

    return result, pullback


def backward_of(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    """`f_backward(dy, *inputs, **attrs)`: the gradients of `f` for its array inputs, in their order."""
    name = function.__name__

    @functools.wraps(function)
    def backward(dy: Any, *inputs: Any, **attrs: Any) -> tuple[Any, ...]:
        return vjp(function, *inputs, **attrs)[1](dy)

    backward.__name__ = backward.__qualname__ = f"{name}_backward"
    backward.__doc__ = (
        f"Gradients of `ops.{name}` for its array inputs, in order: (d_input, …).\n\n"
        f"Takes the gradient `dy` of the output, then what `ops.{name}` takes."
    )
    return backward


def pair(op: str, argument: str, value: int | Iterable[int], minimum: int = 1) -> tuple[int, int]:
    """An int or two of them, as (height, width)."""
    try:
        values = (value, value) if isinstance(value, (int, np.integer)) else tuple(value)
        if len(values) == 2 and all(isinstance(v, (int, np.integer)) and v >= minimum for v in values):
            return int(values[0]), int(values[1])
    except TypeError:
        pass
    raise ValueError(f"{op}: argument '{argument}': expected an int or two, each ≥ {minimum}, got {value!r}")
