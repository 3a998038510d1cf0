"""The networks of the step benchmark, described without any framework; every contestant builds from these.

A net is a sequence of the descriptions below. Weights are one flat list in the order of the sequence (the
main branch of a `Residual` before its shortcut), in Keras' shapes: kernel, bias; gamma, beta, moving mean,
moving variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Conv:
    filters: int
    kernel: int = 3
    stride: int = 1
    padding: str = "valid"
    bias: bool = True
    groups: int = 1  # a filter sees its group's channels alone; depthwise: as many groups as channels


@dataclass(frozen=True)
class Dense:
    units: int


@dataclass(frozen=True)
class Recurrent:
    """SimpleRNN, GRU (reset after the product) or LSTM, the outputs of all steps."""

    cell: str
    units: int

    @property
    def gates(self) -> int:
        return {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}[self.cell]


@dataclass(frozen=True)
class BatchNorm:
    momentum: float = 0.99  # Keras' defaults
    epsilon: float = 1e-3


@dataclass(frozen=True)
class Relu:
    pass


@dataclass(frozen=True)
class MaxPool:
    size: int = 2


@dataclass(frozen=True)
class GlobalAveragePool:
    pass


@dataclass(frozen=True)
class Flatten:
    pass


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross-entropy of each row with the label (its number modulo the classes)."""


@dataclass(frozen=True)
class Residual:
    """main(x) + shortcut(x); an empty shortcut is the identity."""

    main: tuple[Any, ...]
    shortcut: tuple[Any, ...] = ()


class Net(NamedTuple):
    name: str
    input_shape: Shape
    layers: tuple[Any, ...]
    batch: int  # at which PERFORMANCE figures of this net are usually given

    @property
    def classes(self) -> int:
        return output_shape(self.layers, self.input_shape)[-1]


class Weight(NamedTuple):
    shape: Shape
    role: str  # kernel, bias, norm_scale, norm_shift, mean or variance
    fan_in: int = 0
    fan_out: int = 0

    @property
    def trainable(self) -> bool:
        return self.role not in ("mean", "variance")


def _block(filters: int, stride: int, project: bool) -> tuple[Any, ...]:
    def conv(stride: int, kernel: int = 3) -> tuple[Any, ...]:
        return Conv(filters, kernel, stride, "same", bias=False), BatchNorm()

    main = (*conv(stride), Relu(), *conv(1))
    return Residual(main, conv(stride, 1) if project else ()), Relu()


def _resnet20() -> tuple[Any, ...]:
    """ResNet-20 v1 for 32×32 images (arXiv 1512.03385, section 4.2), with projecting shortcuts."""
    layers: tuple[Any, ...] = (Conv(16, 3, 1, "same", bias=False), BatchNorm(), Relu())
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(3):
            first = stage > 0 and block == 0
            layers += _block(filters, 2 if first else 1, first)
    return (*layers, GlobalAveragePool(), Dense(10))


def _convs(*filters: int) -> tuple[Any, ...]:
    return tuple(layer for f in filters for layer in (Conv(f), Relu(), MaxPool()))


NETS = {
    net.name: net
    for net in (
        Net("mlp", (784,), (Dense(64), Relu(), Dense(64), Relu(), Dense(10)), 128),
        Net("cifar", (32, 32, 3), (*_convs(32, 64), Flatten(), Dense(128), Relu(), Dense(10)), 128),
        Net("imnet", (224, 224, 3), (*_convs(32, 64, 128), Flatten(), Dense(512), Relu(), Dense(1000)), 32),
        Net("resnet20", (32, 32, 3), _resnet20(), 128),
    )
}


CASES = (("mlp", 128), ("cifar", 32), ("cifar", 128), ("imnet", 32), ("resnet20", 128))
"""(net, batch) of the kept results."""


def cases_of(names: Sequence[str], batches: Sequence[int]) -> list[tuple[str, int]]:
    """Each net at each batch, or where none is given at those of CASES."""
    return [(name, batch) for name in names for batch in batches or [b for n, b in CASES if n == name]]


def layer_output(layer: Any, shape: Shape) -> Shape:
    """The shape of one sample after `layer`."""
    match layer:
        case Conv(filters, kernel, stride, padding):
            rest = kernel - 1 if padding == "valid" else 0
            return (*((size - rest + stride - 1) // stride for size in shape[:2]), filters)
        case Dense(units) | Recurrent(units=units):
            return (*shape[:-1], units)
        case MaxPool(size):
            return (shape[0] // size, shape[1] // size, shape[2])
        case GlobalAveragePool():
            return shape[-1:]
        case Flatten():
            return (int(np.prod(shape)),)
        case CrossEntropy():
            return ()
        case Residual(main, _):
            return output_shape(main, shape)
    return shape


def output_shape(layers: tuple[Any, ...], shape: Shape) -> Shape:
    for layer in layers:
        shape = layer_output(layer, shape)
    return shape


def leaves(layers: tuple[Any, ...], shape: Shape) -> Iterator[tuple[Any, Shape]]:
    """Every plain layer with the shape of one sample at its input, in the order of the weights."""
    for layer in layers:
        if isinstance(layer, Residual):
            yield from leaves(layer.main, shape)
            yield from leaves(layer.shortcut, shape)
        else:
            yield layer, shape
        shape = layer_output(layer, shape)


def layer_weights(layer: Any, shape: Shape) -> list[Weight]:
    channels = shape[-1]
    match layer:
        case Conv(filters, kernel, _, _, bias, groups):
            area, seen = kernel * kernel, channels // groups
            weights = [Weight((kernel, kernel, seen, filters), "kernel", area * seen, area * filters // groups)]
            return weights + [Weight((filters,), "bias")] * bias
        case Dense(units):
            return [Weight((channels, units), "kernel", channels, units), Weight((units,), "bias")]
        case Recurrent(cell, units):
            width = layer.gates * units
            kernels = [Weight((rows, width), "kernel", rows, units) for rows in (channels, units)]
            return [*kernels, Weight((2, width) if cell == "GRU" else (width,), "bias")]
        case BatchNorm():
            return [Weight((channels,), role) for role in ("norm_scale", "norm_shift", "mean", "variance")]
    return []


def weights_of(layers: tuple[Any, ...], shape: Shape) -> list[Weight]:
    return [weight for layer, at in leaves(layers, shape) for weight in layer_weights(layer, at)]


def initial_weights(layers: tuple[Any, ...], shape: Shape, seed: int = 0, kinks: bool = True) -> list[np.ndarray]:
    """Glorot-uniform kernels; small random biases and shifts, so that a lost one shows; unit scales.

    Without `kinks` the shifts of normalisations are ±2 to ±3, which keeps almost all of what reaches a ReLU
    away from zero. Near zero a unit turns on or off with the last bit of a sum, and its gradient with it; with
    millions of units some always do, and two right programs drift apart.
    """
    rng = np.random.default_rng(seed)
    arrays = []
    for weight in weights_of(layers, shape):
        if weight.role == "kernel":
            limit = (6 / (weight.fan_in + weight.fan_out)) ** 0.5
            array = rng.uniform(-limit, limit, weight.shape)
        elif weight.role == "norm_shift" and not kinks:
            array = rng.choice([-1.0, 1.0], weight.shape) * rng.uniform(2, 3, weight.shape)
        elif weight.role in ("bias", "norm_shift"):
            array = rng.uniform(-0.1, 0.1, weight.shape)
        else:
            array = np.zeros(weight.shape) if weight.role == "mean" else np.ones(weight.shape)
        arrays.append(array.astype(np.float32))
    return arrays


def random_batches(net: Net, batch: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`count` batches of standard-normal images (count, batch, …) and labels (count, batch) int32."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, batch, *net.input_shape), dtype=np.float32)
    return x, rng.integers(0, net.classes, (count, batch), dtype=np.int32)


def layer_flops(layer: Any, shape: Shape) -> float:
    """Of one sample forward, a multiply-add counted as two; the data and the weight gradient cost the same."""
    match layer:
        case Conv(kernel=kernel, groups=groups):
            return 2.0 * float(np.prod(layer_output(layer, shape))) * kernel * kernel * (shape[-1] // groups)
        case Dense(units):
            return 2.0 * float(np.prod(shape)) * units
        case Recurrent(units=units):
            return 2.0 * shape[0] * (shape[1] + units) * layer.gates * units
    return 0.0


def step_flops(net: Net, batch: int) -> float:
    """Products of one training step: forward, weight gradient and data gradient; none of the last for the
    layer that reads the images."""
    products = [flops for flops in (layer_flops(*leaf) for leaf in leaves(net.layers, net.input_shape)) if flops]
    return batch * (3 * sum(products) - products[0])


def trained_parameters(net: Net) -> int:
    return sum(int(np.prod(w.shape)) for w in weights_of(net.layers, net.input_shape) if w.trainable)
