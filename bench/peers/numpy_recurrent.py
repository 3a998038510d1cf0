"""SimpleRNN, GRU and LSTM in plain NumPy, step by step, and backward through time."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray


def _sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def forward(cell: str, weights: list[Array], x: Array) -> tuple[Array, Any]:
    """(the outputs of all steps, what backward needs). Weights in Keras' shapes and order of gates."""
    kernel, recurrent, bias = weights
    units = len(recurrent)
    first, second = bias if cell == "GRU" else (bias, 0.0)
    h = c = np.zeros((len(x), units), x.dtype)
    outputs, steps = [], []
    for t in range(x.shape[1]):
        a, b = x[:, t] @ kernel + first, h @ recurrent + second
        before = h, c
        if cell == "SimpleRNN":
            h = gates = np.tanh(a + b)
        elif cell == "GRU":
            z, r = np.split(_sigmoid(a[:, : 2 * units] + b[:, : 2 * units]), 2, axis=1)
            n = np.tanh(a[:, 2 * units :] + r * b[:, 2 * units :])
            h, gates = z * h + (1 - z) * n, (z, r, n, b[:, 2 * units :])
        else:
            i, f, g, o = np.split(a + b, 4, axis=1)
            i, f, g, o = _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)
            c = f * c + i * g
            h, gates = o * np.tanh(c), (i, f, g, o, np.tanh(c))
        outputs.append(h)
        steps.append((gates, *before))
    return np.stack(outputs, 1), (x, steps)


def backward(cell: str, weights: list[Array], cache: Any, dy: Array) -> tuple[Array, list[Array]]:
    """(dx, gradients of the weights)."""
    kernel, recurrent, _ = weights
    x, steps = cache
    dx, d_kernel, d_recurrent, d_bias = (np.zeros_like(a) for a in (x, *weights))
    dh = dc = np.zeros_like(dy[:, 0])
    for t in reversed(range(len(steps))):
        gates, h, c = steps[t]
        dh = dh + dy[:, t]
        if cell == "SimpleRNN":
            da = db = dh * (1 - gates * gates)
            dh = 0.0
        elif cell == "GRU":
            z, r, n, product = gates
            dn = dh * (1 - z) * (1 - n * n)
            both = [dh * (h - n) * z * (1 - z), dn * product * r * (1 - r)]
            da, db, dh = np.concatenate([*both, dn], 1), np.concatenate([*both, dn * r], 1), dh * z
        else:
            i, f, g, o, value = gates
            dc = dc + dh * o * (1 - value * value)
            parts = [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), dh * value * o * (1 - o)]
            da = db = np.concatenate(parts, 1)
            dh, dc = 0.0, dc * f
        dh = dh + db @ recurrent.T
        dx[:, t] = da @ kernel.T
        d_kernel += x[:, t].T @ da
        d_recurrent += h.T @ db
        d_bias += np.stack([da.sum(0), db.sum(0)]) if cell == "GRU" else da.sum(0)
    return dx, [d_kernel, d_recurrent, d_bias]
