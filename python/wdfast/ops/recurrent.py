"""Recurrent layers along time: simple, GRU and LSTM."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._dispatch import Array, Case, call
from .activation import reference as activation_reference

__all__ = ["recurrent"]


def recurrent(x: Array, u: Array, b: Array | None = None, h: Array | None = None, c: Array | None = None,
              mask: Array | None = None, keep: Array | None = None, cell: str = "lstm", activation: str = "tanh",
              recurrent_activation: str = "sigmoid", reset_after: bool = True, reversed: bool = False) -> Any:
    """A recurrent layer over all its steps: y[:, t] is the state h after step t. f and s are the activations.

    simple: h ← f(x + h·u + b)
    gru: z, r = s(x + h·u + b); n = f(x + r·(h·u + b)); h ← z·h + (1 − z)·n. Without `reset_after`
    n = f(x + (r·h)·u + b).
    lstm: i, f', o = s(x + h·u + b); g = f(x + h·u + b); c ← f'·c + i·g; h ← o·f(c)

    x (N, T, gates·H): what the input adds to the gates, as `ops.dense` of all steps makes it; the gates are z, r, n
    or i, f', g, o. u (H, gates·H), b (gates·H,) or None; h, c (N, H): the state at the start, None for 0. mask
    (N, T) or None: a step where it is 0 leaves the state as it is, whatever x is there. keep (N, H) or None: what h is
    multiplied with before each product with u, as dropout does it. reversed: from the last step to the first.
    activation, recurrent_activation: linear, relu, leaky_relu, sigmoid, tanh or elu. All float32.
    Returns y (N, T, H), of an lstm (y, c after the last step). Raises ValueError, naming the argument, where shapes
    do not fit. Sources: arXiv 1406.1078 (gru), 1412.3555; Hochreiter and Schmidhuber, Neural Computation 9, 1997.

    >>> import numpy as np
    >>> from wdfast import ops
    >>> x = np.ones((1, 3, 1), np.float32)
    >>> ops.recurrent(x, np.full((1, 1), 0.5, np.float32), cell="simple", activation="linear").ravel()
    array([1.  , 1.5 , 1.75], dtype=float32)
    """
    inputs = {"x": x, "u": u, "b": b, "h": h, "c": c, "mask": mask, "keep": keep}
    return call("recurrent", inputs, cell=cell, activation=activation, recurrent_activation=recurrent_activation,
                reset_after=int(reset_after), reversed=int(reversed))


def reference(x: np.ndarray, u: np.ndarray, b: Any = None, h: Any = None, c: Any = None, mask: Any = None,
              keep: Any = None, cell: str = "lstm", activation: str = "tanh", recurrent_activation: str = "sigmoid",
              reset_after: bool = True, reversed: bool = False) -> Any:
    def f(v: np.ndarray) -> np.ndarray:
        return activation_reference(v, activation)

    def s(v: np.ndarray) -> np.ndarray:
        return activation_reference(v, recurrent_activation)

    n, steps, _ = x.shape
    units = u.shape[0]
    b = np.zeros(u.shape[1]) if b is None else b
    h, c = (np.zeros((n, units), x.dtype) if state is None else state for state in (h, c))
    y = np.empty((n, steps, units), x.dtype)
    for t in range(steps)[::-1] if reversed else range(steps):
        gates = np.split(x[:, t], u.shape[1] // units, axis=-1)
        kept = h if keep is None else h * keep
        sums = np.split(kept @ u + b, len(gates), axis=-1)
        if cell == "simple":
            new_h, new_c = f(gates[0] + sums[0]), c
        elif cell == "gru":
            z, r = s(gates[0] + sums[0]), s(gates[1] + sums[1])
            last = r * sums[2] if reset_after else (r * kept) @ u[:, 2 * units :] + b[2 * units :]
            new_h, new_c = z * h + (1 - z) * f(gates[2] + last), c
        else:
            i, forget, o = (s(gates[k] + sums[k]) for k in (0, 1, 3))
            new_c = forget * c + i * f(gates[2] + sums[2])
            new_h = o * f(new_c)
        here = np.ones((n, 1), bool) if mask is None else mask[:, t, None] != 0
        h, c = np.where(here, new_h, h), np.where(here, new_c, c)
        y[:, t] = h
    return (y, c) if cell == "lstm" else y


REFERENCES: dict[str, Any] = {"recurrent": reference}

_GATES = {"simple": 1, "gru": 3, "lstm": 4}


def _case(cell: str, n: int, steps: int, units: int, given: str = "", **attrs: Any) -> Case:
    """`given`: which of b, h, c, mask (m) and keep (k) there are. Weights of a size that keeps states below 1."""
    width = _GATES[cell] * units
    mask = np.random.default_rng(steps).integers(0, 2, (n, steps)).astype(np.float32)
    mask[: n // 2, :1] = 0  # at the start there is no step before
    keep = np.random.default_rng(n).choice([0.0, 1.5], (n, units)).astype(np.float32)
    u = np.random.default_rng(units).standard_normal((units, width)).astype(np.float32) / np.sqrt(max(units, 1))
    return Case("recurrent", {
        "x": (n, steps, width), "u": u.astype(np.float32), "b": (width,) if "b" in given else None,
        "h": (n, units) if "h" in given else None, "c": (n, units) if "c" in given else None,
        "mask": mask if "m" in given else None, "keep": keep if "k" in given else None,
    }, {"cell": cell, **attrs}, terms=max(1, units * steps))


# (N, T, H, what is given): nothing to do; one of each; no whole vector, one and more; more samples than a block.
CASES = [
    _case(cell, n, steps, units, given.replace("c", "" if cell != "lstm" else "c"), **attrs)
    for cell, attrs in (("simple", {}), ("gru", {}), ("gru", {"reset_after": False}), ("lstm", {}))
    for n, steps, units, given in ((0, 3, 2, "h"), (2, 0, 3, "bhc"), (1, 1, 1, ""), (1, 1, 3, "bhc"), (3, 5, 17, "b"),
                                   (2, 7, 33, "hcm"), (9, 4, 16, "bhcm"), (19, 3, 32, "m"), (1, 20, 3, "bm"))
] + [
    _case(cell, 5, 6, units, given.replace("c", "" if cell != "lstm" else "c"), reversed=True, **attrs)
    for cell, attrs in (("simple", {"activation": "relu"}), ("gru", {"recurrent_activation": "tanh"}),
                        ("gru", {"reset_after": False, "activation": "elu"}),
                        ("lstm", {"activation": "leaky_relu", "recurrent_activation": "tanh"}))
    for units, given in ((16, "bhcm"), (5, ""), (33, "bhcmk"), (4, "k"))
] + [
    _case("gru", 2, 140, 5, "b"), _case("lstm", 40, 2, 70, "m"), _case("gru", 4, 3, 190, "b"),  # a step among threads
    _case("simple", 3, 4, 130, "b", activation="linear"),
]
