"""Layers beside PyTorch: the same weights and input give the same output and gradients, while training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import EPS32, ROUNDINGS

from wdfast import layers, models

IMAGE = (2, 9, 8, 6)
SEQUENCE = (3, 11, 5)  # an odd number of steps: padding of 1 at both ends is "same"


def image(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of channels-first images as one of channels-last ones."""
    return lambda torch, x, *weights: function(torch, x.permute(0, 3, 1, 2), *weights).permute(0, 2, 3, 1)


def steps(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of channels-first sequences as one of channels-last ones."""
    return lambda torch, x: function(torch, x.permute(0, 2, 1)).permute(0, 2, 1)


def kernel(w: Any) -> Any:
    return w.permute(3, 2, 0, 1)


def depthwise(torch: Any, x: Any, w: Any, b: Any = None) -> Any:
    grouped = w.permute(2, 3, 0, 1).reshape(-1, 1, *w.shape[:2])
    return torch.nn.functional.conv2d(x, grouped, b, groups=w.shape[2])


def batch_norm(torch: Any, x: Any, gamma: Any, beta: Any, mean: Any, variance: Any) -> Any:
    return torch.nn.functional.batch_norm(x, mean.detach(), variance.detach(), gamma, beta, True, 0.01, 1e-3)


# (layer, its arguments, shape of the input, the same in PyTorch from x and the weights in their order)
CASES: list[tuple[str, dict[str, Any], tuple[int, ...], Callable[..., Any]]] = [
    ("Dense", {"units": 3}, (5, 7), lambda t, x, w, b: x @ w + b),
    ("Dense", {"units": 3, "activation": "tanh", "use_bias": False}, (5, 2, 7), lambda t, x, w: t.tanh(x @ w)),
    ("Conv2D", {"filters": 4, "kernel_size": 3, "strides": 2}, IMAGE,
     image(lambda t, x, w, b: t.conv2d(x, kernel(w), b, 2))),
    ("Conv2D", {"filters": 4, "kernel_size": 3, "padding": "same", "groups": 2, "activation": "relu"}, IMAGE,
     image(lambda t, x, w, b: t.relu(t.conv2d(x, kernel(w), b, padding=1, groups=2)))),
    ("Conv2D", {"filters": 4, "kernel_size": (3, 2), "dilation_rate": 2, "use_bias": False}, IMAGE,
     image(lambda t, x, w: t.conv2d(x, kernel(w), dilation=2))),
    ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 2}, IMAGE, image(depthwise)),
    ("SeparableConv2D", {"filters": 5, "kernel_size": 3}, IMAGE,
     image(lambda t, x, d, p, b: t.conv2d(depthwise(t, x, d), kernel(p), b))),
    ("Conv2DTranspose", {"filters": 4, "kernel_size": 3, "strides": 2}, IMAGE,
     image(lambda t, x, w, b: t.conv_transpose2d(x, kernel(w), b, 2))),
    ("MaxPooling2D", {"pool_size": 3, "strides": 2}, IMAGE, image(lambda t, x: t.max_pool2d(x, 3, 2))),
    ("AveragePooling2D", {"pool_size": (2, 3)}, IMAGE,
     image(lambda t, x: t.nn.functional.avg_pool2d(x, (2, 3)))),
    ("GlobalMaxPooling2D", {}, IMAGE, lambda t, x: x.amax((1, 2))),
    ("GlobalAveragePooling2D", {"keepdims": True}, IMAGE, lambda t, x: x.mean((1, 2), keepdim=True)),
    ("MaxPooling1D", {"pool_size": 3, "strides": 2}, SEQUENCE, steps(lambda t, x: t.max_pool1d(x, 3, 2))),
    ("MaxPooling1D", {"pool_size": 3, "strides": 2, "padding": "same"}, SEQUENCE,
     steps(lambda t, x: t.max_pool1d(x, 3, 2, padding=1))),
    ("AveragePooling1D", {}, SEQUENCE, steps(lambda t, x: t.nn.functional.avg_pool1d(x, 2))),
    ("AveragePooling1D", {"pool_size": 4, "strides": 3}, SEQUENCE,
     steps(lambda t, x: t.nn.functional.avg_pool1d(x, 4, 3))),
    ("AveragePooling1D", {"pool_size": 3, "strides": 2, "padding": "same"}, SEQUENCE,
     steps(lambda t, x: t.nn.functional.avg_pool1d(x, 3, 2, padding=1, count_include_pad=False))),
    ("GlobalMaxPooling1D", {}, SEQUENCE, lambda t, x: x.amax(1)),
    ("GlobalMaxPooling1D", {"keepdims": True}, SEQUENCE, lambda t, x: x.amax(1, keepdim=True)),
    ("GlobalAveragePooling1D", {}, SEQUENCE, lambda t, x: x.mean(1)),
    ("GlobalAveragePooling1D", {"keepdims": True}, SEQUENCE, lambda t, x: x.mean(1, keepdim=True)),
    ("UpSampling2D", {"size": (2, 3)}, IMAGE,
     image(lambda t, x: t.nn.functional.interpolate(x, scale_factor=(2, 3)))),
    ("UpSampling2D", {"interpolation": "bilinear"}, IMAGE,
     image(lambda t, x: t.nn.functional.interpolate(x, scale_factor=2, mode="bilinear"))),
    ("BatchNormalization", {}, IMAGE, image(batch_norm)),
    ("BatchNormalization", {"scale": False, "center": False}, (33, 7),
     lambda t, x, m, v: batch_norm(t, x, None, None, m, v)),
    ("LayerNormalization", {}, (5, 3, 37), lambda t, x, g, b: t.layer_norm(x, (37,), g, b, 1e-3)),
    ("LayerNormalization", {"axis": (1, 2, 3), "epsilon": 1e-5, "center": False}, IMAGE,
     lambda t, x, g: t.layer_norm(x, x.shape[1:], g, None, 1e-5)),
    ("GroupNormalization", {"groups": 3}, IMAGE, image(lambda t, x, g, b: t.group_norm(x, 3, g, b, 1e-3))),
    ("GroupNormalization", {"groups": -1}, IMAGE, image(lambda t, x, g, b: t.group_norm(x, 6, g, b, 1e-3))),
    ("GroupNormalization", {"groups": 2}, (5, 34), lambda t, x, g, b: t.group_norm(x, 2, g, b, 1e-3)),
    ("PReLU", {"shared_axes": (1, 2)}, IMAGE, image(lambda t, x, a: t.prelu(x, a.reshape(-1)))),
    ("LeakyReLU", {}, IMAGE, lambda t, x: t.nn.functional.leaky_relu(x, 0.3)),
    ("ELU", {"alpha": 0.5}, IMAGE, lambda t, x: t.nn.functional.elu(x, 0.5)),
    ("ReLU", {"max_value": 6.0}, (7, 9), lambda t, x: t.nn.functional.relu6(x)),
    ("GELU", {}, IMAGE, lambda t, x: t.nn.functional.gelu(x)),
    ("GELU", {"approximate": True}, IMAGE, lambda t, x: t.nn.functional.gelu(x, approximate="tanh")),
    ("Softmax", {}, (5, 33), lambda t, x: t.softmax(x, -1)),
    ("Softmax", {"axis": 1}, IMAGE, lambda t, x: t.softmax(x, 1)),
    ("ZeroPadding2D", {"padding": ((1, 0), (2, 3))}, IMAGE, image(lambda t, x: t.nn.functional.pad(x, (2, 3, 1, 0)))),
    ("ZeroPadding1D", {"padding": (1, 2)}, (3, 5, 4), lambda t, x: t.nn.functional.pad(x, (0, 0, 1, 2))),
    ("Cropping2D", {"cropping": ((1, 0), (2, 3))}, IMAGE, lambda t, x: x[:, 1:, 2:-3]),
    ("Cropping1D", {}, (3, 5, 4), lambda t, x: x[:, 1:-1]),
    ("Permute", {"dims": (3, 1, 2)}, IMAGE, lambda t, x: x.permute(0, 3, 1, 2)),
    ("RepeatVector", {"n": 4}, (3, 5), lambda t, x: x[:, None].expand(-1, 4, -1)),
    ("Reshape", {"target_shape": (-1, 6)}, IMAGE, lambda t, x: x.reshape(2, -1, 6)),
    ("Flatten", {}, IMAGE, lambda t, x: x.flatten(1)),
    ("Rescaling", {"scale": 0.5, "offset": -1.0}, IMAGE, lambda t, x: 0.5 * x - 1),
    *[("Activation", {"activation": name}, (7, 33), function) for name, function in {
        "sigmoid": lambda t, x: t.sigmoid(x), "log_softmax": lambda t, x: t.log_softmax(x, -1),
        "softplus": lambda t, x: t.nn.functional.softplus(x), "selu": lambda t, x: t.selu(x),
        "silu": lambda t, x: t.nn.functional.silu(x), "mish": lambda t, x: t.nn.functional.mish(x),
        "softsign": lambda t, x: t.nn.functional.softsign(x), "exponential": lambda t, x: t.exp(x),
        "hard_sigmoid": lambda t, x: t.nn.functional.hardsigmoid(x),
        "hard_silu": lambda t, x: t.nn.functional.hardswish(x),
        "log_sigmoid": lambda t, x: t.nn.functional.logsigmoid(x),
    }.items()],
]


@pytest.mark.parametrize(("name", "arguments", "shape", "peer"), CASES,
                         ids=[f"{case[0]}-{i}" for i, case in enumerate(CASES)])
def test_output_and_gradients(torch: Any, isa: str, name: str, arguments: dict, shape: Any, peer: Any) -> None:
    """Against PyTorch in float64: ε·8·√terms of the largest value, the bound of the tests of ops."""
    rng = np.random.default_rng(len(shape))
    x = rng.standard_normal(shape).astype(np.float32)
    made = layers.Input(shape[1:])
    model = models.Model(made, getattr(layers, name)(**arguments)(made))
    model.set_weights([rng.uniform(0.2, 1, p.shape) for p in model.parameters])
    given = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, *model.get_weights())]
    expected = peer(torch, *given)
    y, pullback = model.vjp(x)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    expected.backward(torch.tensor(dy, dtype=torch.float64))
    found = [(y, expected), (pullback(dy), given[0].grad)]
    found += [(p.grad, g.grad) for p, g in zip(model.parameters, given[1:], strict=True) if p.trainable]
    terms = max(x.size, y.size)
    for mine, theirs in found:
        theirs = theirs.detach().numpy()
        assert mine.shape == theirs.shape
        assert np.abs(theirs).max() > 0
        limit = ROUNDINGS * EPS32 * np.sqrt(terms) * max(1.0, np.abs(theirs).max())
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=limit)


MERGES: dict[str, Callable[..., Any]] = {
    "add": lambda t, a, b: a + b, "subtract": lambda t, a, b: a - b, "multiply": lambda t, a, b: a * b,
    "maximum": lambda t, a, b: t.maximum(a, b), "minimum": lambda t, a, b: t.minimum(a, b),
    "average": lambda t, a, b: (a + b) / 2, "concatenate": lambda t, a, b: t.cat([a, b], -1),
}


@pytest.mark.parametrize("name", MERGES)
def test_merges(torch: Any, name: str) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((3, 5, 4)).astype(np.float32) for _ in range(2)]
    made = [layers.Input((5, 4)), layers.Input((5, 4))]
    model = models.Model(made, getattr(layers, name)(made))
    given = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = MERGES[name](torch, *given)
    y, pullback = model.vjp(arrays)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    expected.backward(torch.tensor(dy))
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=4 * EPS32)
    for mine, peer in zip(pullback(dy), given, strict=True):
        np.testing.assert_allclose(mine, peer.grad.numpy(), rtol=4 * EPS32)
