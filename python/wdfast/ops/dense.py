"""Fully connected layer: y = f(x·w + b)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._dispatch import Array, Case, call
from ._precision import factors, precision_attr
from .activation import activation as apply_activation
from .activation import reference as activation_reference

__all__ = ["dense"]


def dense(x: Array, w: Array, b: Array | None = None, activation: str = "linear", alpha: float | None = None,
          precision: str = "highest") -> Array:
    """A fully connected layer on the last axis: y = f(x·w + b).

    x (…, in), w (in, out), or (1, 1, in, out) as of a 1 × 1 convolution, b (out,) or None; float32. Returns (…, out).
    `activation` as in `ops.activation`.
    precision: of the products, and of those of the gradients, as in `Model.compile`.
    Raises ValueError, naming the argument, where shapes do not fit.

    >>> import numpy as np
    >>> from wdfast import ops
    >>> ops.dense(np.ones((1, 3), np.float32), np.eye(3, 2, dtype=np.float32), np.array([0, -2], np.float32), "relu")
    array([[1., 0.]], dtype=float32)
    """
    inputs, asked = {"x": x, "w": w, "b": b}, precision_attr(precision)
    if activation == "gelu":
        return apply_activation(call("dense", inputs, **asked), "gelu")
    return call("dense", inputs, activation=activation, alpha=alpha, **asked)


def reference(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, activation: str = "linear",
              alpha: float | None = None, precision: str = "highest") -> np.ndarray:
    x, w = factors(precision, x, w)
    z = x @ w
    return activation_reference(z if b is None else z + b, activation, alpha)


REFERENCES: dict[str, Any] = {"dense": reference}

CASES = [
    Case("dense", {"x": (m, i), "w": (i, o), "b": (o,)}, {"activation": "relu"}, terms=i)
    for m, i, o in [(0, 3, 2), (1, 1, 1), (2, 31, 33), (7, 32, 31), (13, 33, 32), (128, 64, 10), (5, 7, 129),
                    (29, 300, 65), (3, 0, 2), (33, 97, 66), (64, 193, 128)]
] + [
    Case("dense", {"x": (2, 3, 5), "w": (5, 4), "b": None}, {"activation": name}, terms=5)
    for name in ("linear", "leaky_relu", "sigmoid", "tanh", "elu", "gelu")
] + [
    Case("dense", {"x": (3, 8200), "w": (8200, 17), "b": (17,)}, {}, terms=8200),
    Case("dense", {"x": (1, 8203), "w": (8203, 33), "b": (33,)}, {"activation": "relu"}, terms=8203),
    Case("dense", {"x": (5, 8201), "w": (8201, 17), "b": None}, {}, terms=8201),
    Case("dense", {"x": (3, 1030), "w": (1030, 70), "b": (70,)}, {"activation": "relu"}, terms=1030),
    Case("dense", {"x": (5000, 5), "w": (5, 3), "b": (3,)}, {}, terms=5000),
    Case("dense", {"x": (150, 520), "w": (520, 300), "b": (300,)}, {"activation": "relu"}, terms=520),
    Case("dense", {"x": (4100, 256), "w": (256, 40), "b": None}, {}, terms=4100),
    Case("dense", {"x": (2, 3, 5, 7), "w": (1, 1, 7, 9), "b": (9,)}, {"activation": "tanh"}, terms=30),
] + [
    Case("dense", {"x": (m, i), "w": (i, o), "b": (o,)}, {"activation": name, "precision": "medium"}, terms=i)
    for m, i, o, name in [
        (0, 3, 2, "linear"), (1, 1, 1, "linear"), (2, 31, 33, "tanh"), (7, 32, 31, "linear"), (13, 33, 32, "sigmoid"),
        (128, 64, 10, "linear"), (29, 301, 129, "linear"), (33, 97, 67, "linear"),
        (3, 0, 2, "linear"), (3, 8201, 17, "linear"),
        (5001, 5, 3, "linear"), (40, 96, 64, "gelu")]
] + [Case("dense", {"x": (7, 65), "w": (65, 33), "b": None}, {"precision": "high"}, terms=65)]
