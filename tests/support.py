"""What every test of ops needs: the inputs of a Case, its reference in float64, and tolerances."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from wdfast import _native, ops

EPS32 = float(np.finfo(np.float32).eps)

# How many float32 roundings per term may add up in the same direction. 8 leaves room for the polynomials of
# exp and erf (2 ulp each) and for the two or three operations around a sum, and is far below any real error.
ROUNDINGS = 8.0

# Of √Σ(x·w)², the random walk of the roundings of a sum of bfloat16 products: two roundings of at most 2⁻⁹ a
# product walk 0.0025 of it (0.0042 through Winograd's transforms); seven times that.
BFLOAT16_WALK = 2.0**-5


# ---- inputs ---------------------------------------------------------------------------------------------


def _is_shape(value: Any) -> bool:
    return type(value) is tuple and all(isinstance(d, (int, np.integer)) for d in value)


def make_input(value: Any, rng: np.random.Generator) -> Any:
    """One input of a Case: a shape, an Ints, a Uniform, an array, None, or a list of these."""
    if isinstance(value, ops.Ints):
        return rng.integers(value.low, value.high, value.shape).astype(np.int32)
    if isinstance(value, ops.Uniform):
        return rng.uniform(value.low, value.high, value.shape).astype(np.float32)
    if _is_shape(value):
        return rng.standard_normal(value).astype(np.float32)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, (list, tuple)):
        return [make_input(v, rng) for v in value]
    return value


def make_inputs(case: ops.Case, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng([seed, len(case.inputs)])
    return {name: make_input(value, rng) for name, value in case.inputs.items()}


def map_arrays(inputs: dict[str, Any], change: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    """The same inputs with every array, those in lists too, passed through `change`."""
    return {
        name: [change(v) for v in value]
        if isinstance(value, list)
        else change(value)
        if isinstance(value, np.ndarray)
        else value
        for name, value in inputs.items()
    }


def arrays_of(inputs: dict[str, Any]) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    map_arrays(inputs, found.append)
    return found


def with_arrays(inputs: dict[str, Any], arrays: Any) -> dict[str, Any]:
    replacement = iter(arrays)
    return map_arrays(inputs, lambda _: next(replacement))


def case_id(case: ops.Case) -> str:
    def text(value: Any) -> str:
        if value is None:
            return "none"
        if isinstance(value, list) or (type(value) is tuple and not _is_shape(value)):
            return "+".join(text(v) for v in value)
        shape = value if _is_shape(value) else getattr(value, "shape", None)
        return repr(value) if shape is None else "x".join(map(str, shape)) or "scalar"

    attrs = [f"{k}={v}".replace(" ", "") for k, v in case.attrs.items()]
    return "-".join([case.op, *(text(v) for v in case.inputs.values()), *attrs])


# ---- running --------------------------------------------------------------------------------------------


def function_of(case: ops.Case) -> Callable[..., Any]:
    """The public function a Case names; else (a family, as "unary") the native op, called by its name."""
    public = getattr(ops, case.op, None)
    if callable(public):
        return public
    return lambda **arguments: ops.call(
        case.op,
        {name: arguments[name] for name in case.inputs},
        **{name: value for name, value in arguments.items() if name not in case.inputs},
    )


def as_tuple(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def run(case: ops.Case, inputs: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """The op on copies, so that one which works in place leaves `inputs` alone."""
    copies = map_arrays(inputs, np.copy)
    outputs = as_tuple(function_of(case)(**copies, **case.attrs))
    return tuple(np.array(y) for y in outputs if y is not None)


def run_vjp(case: ops.Case, inputs: dict[str, Any]) -> tuple[tuple[Any, ...], Callable[..., Any], list[Any]]:
    """The op's outputs, a pullback (a gradient or None for each array), and the arrays as the op saw them."""
    copies = map_arrays(inputs, np.copy)
    leaves: list[np.ndarray] = []

    def function(*arrays: np.ndarray) -> Any:
        leaves.extend(arrays)
        return function_of(case)(**with_arrays(copies, arrays), **case.attrs)

    outputs, pullback = ops.vjp(function, *arrays_of(copies))
    return as_tuple(outputs), lambda dy: pullback(dy if isinstance(outputs, tuple) else dy[0]), leaves


def random_like(arrays: tuple[np.ndarray, ...], seed: int) -> tuple[Any, ...]:
    """A gradient for each output; None for an integer one."""
    rng = np.random.default_rng(seed)
    return tuple(
        rng.standard_normal(a.shape).astype(np.float32) if a.dtype == np.float32 else None for a in arrays
    )


def reference(case: ops.Case, inputs: dict[str, Any]) -> tuple[np.ndarray, ...]:
    wide = map_arrays(inputs, lambda a: a.astype(np.float64) if a.dtype == np.float32 else a.copy())
    return as_tuple(ops.REFERENCES[case.op](**wide, **case.attrs))


@contextlib.contextmanager
def recorded_ops() -> Iterator[list[tuple[str, list[Any]]]]:
    """Collects (native op, its arrays) of everything that runs meanwhile."""
    calls: list[tuple[str, list[Any]]] = []
    execute = _native.execute

    def spy(name: str, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        calls.append((name, inputs))
        return execute(name, inputs, *args, **kwargs)

    _native.execute = spy
    try:
        yield calls
    finally:
        _native.execute = execute


_native_ops: dict[int, set[str]] = {}  # by id: the table keeps its cases alive


def native_ops_of(case: ops.Case) -> set[str]:
    """The native ops a case runs; those before the error, if it fails (its own tests will say why)."""
    if id(case) not in _native_ops:
        with recorded_ops() as calls, contextlib.suppress(Exception):
            run(case, make_inputs(case))
        _native_ops[id(case)] = {name for name, _ in calls}
    return _native_ops[id(case)]


def has_fact(case: ops.Case, fact: str) -> bool:
    """Whether a native op that the case runs is `differentiable`, `random`, or `mutates` an input."""
    return any(ops.registry()[name][fact] for name in native_ops_of(case))


# ---- comparing ------------------------------------------------------------------------------------------


def products_walk(case: ops.Case, inputs: dict[str, Any]) -> float:
    """The largest √Σ(x·w)² of a case's sums of products: its reference of the squares."""
    squares = map_arrays(inputs, np.square)
    attrs = {k: v for k, v in case.attrs.items() if k not in ("activation", "alpha", "pool", "precision")}
    total = reference(case._replace(attrs=attrs), squares)[0]
    return float(np.sqrt(np.max(total, initial=0.0)))


def forward_tolerance(case: ops.Case, inputs: dict[str, Any], expected: np.ndarray, index: int = 0) -> Any:
    """eps · c · magnitude, per element.

    Without a sum (`terms` 1) the magnitude is the value's own, plus 1 (or the largest value, if that is less)
    where an absolute error of intermediate results remains, as in gelu below zero. With a sum of n terms it
    is √n · max|y|, the random walk of n roundings, but at least the same sum of absolute values, for sums
    that cancel, and at least the largest sum before an activation, which hides its size where it saturates but
    passes its error on where its slope is 1. With products of bfloat16, which an op may round or not, it is
    `BFLOAT16_WALK`: the activations are no steeper than 1.
    """
    if case.attrs.get("precision") == "medium":
        return BFLOAT16_WALK * products_walk(case, inputs)
    largest = float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
    if case.terms <= 1:
        return EPS32 * ROUNDINGS * (np.abs(np.nan_to_num(expected, posinf=0, neginf=0)) + min(1.0, largest))
    magnitude = np.sqrt(case.terms) * largest
    if case.attrs.get("activation", "linear") != "linear":
        sums = as_tuple(reference(case._replace(attrs=case.attrs | {"activation": "linear"}), inputs))[index]
        magnitude = max(magnitude, float(np.max(np.abs(sums), initial=0.0)))
    positive = map_arrays(inputs, lambda a: np.abs(a) if a.dtype == np.float32 else a)
    with np.errstate(all="ignore"):
        bound = as_tuple(reference(case, positive))[index]
    if np.all(np.isfinite(bound)):
        magnitude = max(magnitude, float(np.max(np.abs(bound), initial=0.0)))
    return EPS32 * ROUNDINGS * magnitude


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: Any, what: str) -> None:
    """|actual − expected| ≤ tolerance everywhere; a failure names the worst element."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    if actual.size == 0:
        return
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(actual.astype(np.float64) - expected))
    excess = np.where(np.isnan(error), np.inf, error - tolerance)
    worst = np.unravel_index(int(np.argmax(excess)), actual.shape)
    limit = np.broadcast_to(tolerance, actual.shape)[worst]
    assert excess[worst] <= 0, (
        f"{what}: worst at {tuple(map(int, worst))}: got {actual[worst]!r}, expected {expected[worst]!r}, "
        f"error {error[worst]:.3g} > {limit:.3g}"
    )


def assert_same_bits(actual: Any, expected: Any, what: str) -> None:
    if expected is None or actual is None:
        assert actual is expected, f"{what}: one is None"
        return
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype} and {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: {actual.shape} and {expected.shape}"
    a, b = (np.ascontiguousarray(v).reshape(-1).view(np.uint8) for v in (actual, expected))
    if not np.array_equal(a, b):
        at = int(np.argmax(a != b)) // actual.dtype.itemsize
        index = tuple(map(int, np.unravel_index(at, actual.shape)))
        raise AssertionError(
            f"{what}: bits differ first at {index}: {actual[index]!r} and {expected[index]!r}"
        )
