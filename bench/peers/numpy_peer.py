"""The nets in plain NumPy: convolution as a matrix product over gathered windows.

Short and slow on purpose: in float64 it is the reference that every contestant is proved against.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..nets import (
    BatchNorm,
    Conv,
    CrossEntropy,
    Dense,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Recurrent,
    Relu,
    Residual,
    layer_output,
    layer_weights,
)
from . import AdamW, numpy_recurrent
from . import Block as BlockBase
from . import Peer as PeerBase
from . import Predictor as PredictorBase
from . import Update as UpdateBase

Array = np.ndarray
_WINDOW_BYTES = 64 << 20
"""Windows are gathered for as many images as fit here: a whole batch of 224×224 would take gigabytes."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _pads(layer: Conv, x: Array) -> list[tuple[int, int]]:
    if layer.padding == "valid":
        return [(0, 0)] * 4
    sides = [same_padding(size, layer.kernel, layer.stride) for size in x.shape[1:3]]
    return [(0, 0), *sides, (0, 0)]


def _windows(layer: Conv, padded: Array) -> Iterator[tuple[slice, Array]]:
    """(images, their windows as rows of a matrix), a few images at a time."""
    k, s = layer.kernel, layer.stride
    views = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(1, 2))[:, ::s, ::s]
    views = views.transpose(0, 1, 2, 4, 5, 3)  # n, oh, ow, kh, kw, c
    row = int(np.prod(views.shape[3:]))
    images = max(1, _WINDOW_BYTES // (row * views.shape[1] * views.shape[2] * padded.itemsize))
    for begin in range(0, len(views), images):
        part = slice(begin, begin + images)
        yield part, views[part].reshape(-1, layer.kernel**2, row // layer.kernel**2)


def _by_group(array: Array, groups: int) -> Array:
    """(…, groups · c) → (groups, rows, c): a matrix for each group. Windows (rows, taps, groups · c) have their
    taps beside the channels: (groups, rows, taps · c)."""
    taps = array.shape[1] if array.ndim == 3 else 1
    parts = array.reshape(-1, taps, groups, array.shape[-1] // groups)
    return np.moveaxis(parts, 2, 0).reshape(groups, len(parts), -1)


def _joined(array: Array) -> Array:
    """(groups, rows, c) → (rows, groups · c)."""
    return array.swapaxes(0, 1).reshape(array.shape[1], -1)


def _conv(layer: Conv, weights: list[Array], x: Array) -> tuple[Array, Any]:
    padded = np.pad(x, _pads(layer, x)) if layer.padding == "same" else x
    height, width = ((size - layer.kernel) // layer.stride + 1 for size in padded.shape[1:3])
    y = np.empty((len(x), height, width, layer.filters), x.dtype)
    matrices = _by_group(weights[0], layer.groups)
    for part, rows in _windows(layer, padded):
        y[part] = _joined(_by_group(rows, layer.groups) @ matrices).reshape(y[part].shape)
    if layer.bias:
        y += weights[1]
    return y, (padded, x)


def _conv_backward(layer: Conv, weights: list[Array], cache: Any, dy: Array, need_dx: bool) -> tuple[Any, ...]:
    padded, x = cache
    w, s = weights[0], layer.stride
    dw = np.zeros_like(_by_group(w, layer.groups))
    for part, rows in _windows(layer, padded):
        dw += _by_group(rows, layer.groups).swapaxes(1, 2) @ _by_group(dy[part], layer.groups)
    gradients = [_joined(dw).reshape(w.shape)]
    if layer.bias:
        gradients.append(dy.sum((0, 1, 2)))
    if not need_dx:
        return None, gradients
    dx = np.zeros_like(padded)
    height, width = dy.shape[1:3]
    by_group = _by_group(dy, layer.groups)
    for i in range(layer.kernel):
        for j in range(layer.kernel):
            tap = by_group @ _by_group(w[i, j], layer.groups).swapaxes(1, 2)
            dx[:, i : i + s * height : s, j : j + s * width : s] += _joined(tap).reshape(*dy.shape[:3], -1)
    top, left = _pads(layer, x)[1][0], _pads(layer, x)[2][0]
    return dx[:, top : top + x.shape[1], left : left + x.shape[2]], gradients


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """The loss of each row, and its gradient for the logits."""
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    rows = np.arange(len(labels))
    gradient = np.exp(log_p)
    gradient[rows, labels] -= 1
    return -log_p[rows, labels], gradient


def forward(layer: Any, weights: list[Array], x: Array, training: bool = True) -> tuple[Array, Any]:
    """(y, what backward needs) of one layer; training updates running statistics in place."""
    match layer:
        case Conv():
            return _conv(layer, weights, x)
        case Dense():
            return x @ weights[0] + weights[1], x
        case Recurrent(cell):
            return numpy_recurrent.forward(cell, weights, x)
        case Relu():
            y = np.maximum(x, 0)
            return y, y
        case MaxPool(size):
            n, h, w, c = x.shape
            tiles = x[:, : h // size * size, : w // size * size].reshape(n, h // size, size, w // size, size, c)
            tiles = tiles.transpose(0, 1, 3, 5, 2, 4).reshape(n, h // size, w // size, c, size * size)
            index = tiles.argmax(-1)[..., None]
            return np.take_along_axis(tiles, index, -1)[..., 0], (index, x.shape)
        case GlobalAveragePool():
            return x.mean((1, 2)), x.shape
        case Flatten():
            return x.reshape(len(x), -1), x.shape
        case BatchNorm(momentum, epsilon):
            gamma, beta, moving_mean, moving_variance = weights
            if not training:
                return gamma * (x - moving_mean) / np.sqrt(moving_variance + epsilon) + beta, None
            axes = tuple(range(x.ndim - 1))
            mean, variance = x.mean(axes), x.var(axes)
            moving_mean += (1 - momentum) * (mean - moving_mean)
            moving_variance += (1 - momentum) * (variance - moving_variance)
            scale = 1 / np.sqrt(variance + epsilon)
            normal = (x - mean) * scale
            return gamma * normal + beta, (normal, scale)
        case CrossEntropy():
            return softmax_cross_entropy(x, np.arange(len(x)) % x.shape[1])
    raise TypeError(f"no NumPy form of {layer!r}")


def backward(layer: Any, weights: list[Array], cache: Any, dy: Array, need_dx: bool) -> tuple[Any, list[Array]]:
    """(dx, gradients of the trained weights)."""
    match layer:
        case Conv():
            return _conv_backward(layer, weights, cache, dy, need_dx)
        case Dense():
            return (dy @ weights[0].T if need_dx else None), [cache.T @ dy, dy.sum(0)]
        case Recurrent(cell):
            return numpy_recurrent.backward(cell, weights, cache, dy)
        case Relu():
            return dy * (cache > 0), []
        case MaxPool(size):
            index, (n, h, w, c) = cache
            tiles = np.zeros((*index.shape[:-1], size * size), dy.dtype)
            np.put_along_axis(tiles, index, dy[..., None], -1)
            tiles = tiles.reshape(n, h // size, w // size, c, size, size).transpose(0, 1, 4, 2, 5, 3)
            dx = np.zeros((n, h, w, c), dy.dtype)
            dx[:, : h // size * size, : w // size * size] = tiles.reshape(n, h // size * size, -1, c)
            return dx, []
        case GlobalAveragePool():
            n, h, w, c = cache
            return np.broadcast_to(dy[:, None, None] / (h * w), cache).copy(), []
        case Flatten():
            return dy.reshape(cache), []
        case BatchNorm():
            normal, scale = cache
            axes = tuple(range(dy.ndim - 1))
            d_gamma, d_beta = (dy * normal).sum(axes), dy.sum(axes)
            count = dy.size // dy.shape[-1]
            dx = weights[0] * scale * (dy - (d_beta + normal * d_gamma) / count)
            return dx, [d_gamma, d_beta]
        case CrossEntropy():
            return cache * dy[:, None], []
    raise TypeError(f"no NumPy form of {layer!r}")


class Network:
    """A sequence of layers with its weights: forward keeps what backward needs."""

    def __init__(self, layers: tuple[Any, ...], weights: list[Array], shape: tuple[int, ...]) -> None:
        self.layers, self.trained = layers, []
        self.parts: list[Any] = []  # per layer: its weights, or (main, shortcut) of a Residual
        for layer in layers:
            if isinstance(layer, Residual):
                main = Network(layer.main, weights, shape)
                shortcut = Network(layer.shortcut, weights, shape)
                self.parts.append((main, shortcut))
                self.trained += main.trained + shortcut.trained
            else:
                roles = layer_weights(layer, shape)
                mine = [weights.pop(0) for _ in roles]
                self.parts.append(mine)
                self.trained += [w for w, role in zip(mine, roles, strict=True) if role.trainable]
            shape = layer_output(layer, shape)
        self.caches: list[Any] = []

    def forward(self, x: Array, training: bool = True) -> Array:
        self.caches = []
        for layer, part in zip(self.layers, self.parts, strict=True):
            if isinstance(layer, Residual):
                main, shortcut = part
                x, cache = main.forward(x, training) + shortcut.forward(x, training), None
            else:
                x, cache = forward(layer, part, x, training)
            self.caches.append(cache)
        return x

    def backward(self, dy: Any, need_dx: bool = True) -> tuple[Any, list[Array]]:
        gradients: list[Array] = []
        for i in reversed(range(len(self.layers))):
            need = need_dx or any(isinstance(p, tuple) or p for p in self.parts[:i])
            if isinstance(self.layers[i], Residual):
                main, shortcut = self.parts[i]
                (d_main, mine), (d_shortcut, others) = main.backward(dy, need), shortcut.backward(dy, need)
                dy, mine = (d_main + d_shortcut if need else None), mine + others
            else:
                dy, mine = backward(self.layers[i], self.parts[i], self.caches[i], dy, need)
            gradients = mine + gradients
            if dy is None:
                break
        return dy, gradients


def adamw_step(rule: AdamW, count: int, p: Array, m: Array, v: Array, g: Array, decays: bool) -> None:
    """Step `count` (from 1) of one array, in place."""
    rate = rule.learning_rate / (1 - rule.beta_1**count)
    correction = 1 / np.sqrt(1 - rule.beta_2**count)
    if decays:
        p *= 1 - rule.learning_rate * rule.weight_decay
    m += (1 - rule.beta_1) * (g - m)
    v += (1 - rule.beta_2) * (g * g - v)
    root = np.sqrt(v)
    p -= rate * m / ((root + rule.epsilon) * correction if rule.epsilon_hat else root * correction + rule.epsilon)


class Peer(PeerBase):
    name = "numpy"
    dtype: Any = np.float32

    @staticmethod
    def version() -> str:
        return np.__version__

    def build(self, weights: list[np.ndarray]) -> None:
        self.arrays = [w.astype(self.dtype) for w in weights]
        self.network = Network(self.net.layers, list(self.arrays), self.net.input_shape)
        self.decays = [w.role == "kernel" for w in self.weight_list if w.trainable]
        self.m = [np.zeros_like(p) for p in self.network.trained]
        self.v = [np.zeros_like(p) for p in self.network.trained]
        self.count = 0

    def load(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y, self.cursor = x, y, 0

    def gradients(self, x: Array, y: Array) -> tuple[float, list[Array]]:
        losses, dy = softmax_cross_entropy(self.network.forward(x.astype(self.dtype, copy=False)), y)
        return float(losses.mean()), self.network.backward(dy / len(y), need_dx=False)[1]

    def run(self, steps: int) -> float:
        loss = 0.0
        for _ in range(steps):
            loss, gradients = self.gradients(self.x[self.cursor], self.y[self.cursor])
            self.cursor = (self.cursor + 1) % len(self.x)
            self.update(gradients)
        return loss

    def update(self, gradients: list[Array]) -> None:
        self.count += 1
        for p, m, v, g, decays in zip(self.network.trained, self.m, self.v, gradients, self.decays, strict=True):
            adamw_step(self.rule, self.count, p, m, v, g, decays)

    def weights(self) -> list[np.ndarray]:
        return [w.copy() for w in self.arrays]


class Reference(Peer):
    """The same in float64."""

    dtype = np.float64


class Predictor(PredictorBase):
    name = "numpy"
    dtype: Any = np.float32
    version = staticmethod(Peer.version)

    def build(self, weights: list[np.ndarray]) -> None:
        self.network = Network(self.net.layers, [w.astype(self.dtype) for w in weights], self.net.input_shape)

    def load(self, x: np.ndarray) -> None:
        self.x, self.cursor = x.astype(self.dtype, copy=False), 0

    def run(self, steps: int) -> float:
        for _ in range(steps):
            self.network.forward(self.x[self.cursor], training=False)
            self.cursor = (self.cursor + 1) % len(self.x)
        return 0.0

    def outputs(self) -> np.ndarray:
        return self.network.forward(self.x[0], training=False)


class ReferencePredictor(Predictor):
    dtype = np.float64


class Block(BlockBase):
    name = "numpy"
    dtype: Any = np.float32

    def build(self, weights: list[np.ndarray], x: np.ndarray, dy: np.ndarray) -> None:
        self.network = Network(self.layers, [w.astype(self.dtype) for w in weights], self.shape)
        self.x, self.dy = x.astype(self.dtype), dy.astype(self.dtype)

    def seconds(self, passes: int) -> tuple[float, float]:
        spent = [0.0, 0.0]
        for _ in range(passes):
            begin = time.perf_counter()
            self.network.forward(self.x)
            middle = time.perf_counter()
            self.network.backward(self.dy, self.data_gradient)
            spent[0] += middle - begin
            spent[1] += time.perf_counter() - middle
        return spent[0] / passes, spent[1] / passes

    def results(self) -> tuple[np.ndarray, list[np.ndarray]]:
        y = self.network.forward(self.x)
        dx, gradients = self.network.backward(self.dy, self.data_gradient)
        return y, [dx, *gradients] if self.data_gradient else gradients


class ReferenceBlock(Block):
    dtype = np.float64


class Update(UpdateBase):
    name = "numpy"
    dtype: Any = np.float32

    def build(self, p: Array, g: Array) -> None:
        self.p, self.g = p.astype(self.dtype), g.astype(self.dtype)
        self.m, self.v, self.count = np.zeros_like(self.p), np.zeros_like(self.p), 0

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.count += 1
            adamw_step(self.rule, self.count, self.p, self.m, self.v, self.g, True)

    def value(self) -> Array:
        return self.p


class ReferenceUpdate(Update):
    dtype = np.float64
