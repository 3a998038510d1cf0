"""Activations, as layers and as the `activation=` argument of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import initializers, ops, regularizers
from .base import Layer

_NAMES = ("linear", "relu", "leaky_relu", "sigmoid", "tanh", "elu", "gelu")  # fused into the op before them
_ROOT_2_OVER_PI = 0.7978845608028654


def _gelu_tanh(x: Any) -> Any:
    """Gelu with tanh in place of the error function, off by 5e-4 at most."""
    inner = ops.multiply(ops.add(x, ops.multiply(ops.power(x, 3.0), 0.044715)), _ROOT_2_OVER_PI)
    return ops.multiply(ops.multiply(x, 0.5), ops.add(ops.tanh(inner), 1.0))


def _relu6(x: Any) -> Any:
    return ops.minimum(ops.relu(x), 6.0)


def _hard_sigmoid(x: Any) -> Any:
    return ops.multiply(_relu6(ops.add(x, 3.0)), 1 / 6)


# Keras' other names, made of ops. Softmax and log_softmax are over the last axis. Sources: selu 1706.02515, silu
# 1702.03118, mish 1908.08681, hard_silu 1905.02244.
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "softmax": ops.softmax,
    "log_softmax": ops.log_softmax,
    "softplus": ops.softplus,
    "exponential": ops.exp,
    "relu6": _relu6,
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": lambda x: ops.multiply(x, _hard_sigmoid(x)),
    "log_sigmoid": lambda x: ops.negative(ops.softplus(ops.negative(x))),
    "mish": lambda x: ops.multiply(x, ops.tanh(ops.softplus(x))),
    "selu": lambda x: ops.multiply(ops.elu(x, 1.6732632423543772), 1.0507009873554805),
    "silu": lambda x: ops.multiply(x, ops.sigmoid(x)),
    "softsign": lambda x: ops.divide(x, ops.add(ops.abs(x), 1.0)),
}
_FUNCTIONS |= {"swish": _FUNCTIONS["silu"], "hard_swish": _FUNCTIONS["hard_silu"]}


def resolve(owner: str, activation: str | Callable[[Any], Any] | None) -> str | Callable[[Any], Any]:
    """The name of an activation, or a function of ops for one of a user's own; None is "linear".

    Raises ValueError for an unknown name.
    """
    if activation is None:
        return "linear"
    name = activation if isinstance(activation, str) else getattr(activation, "__name__", "")
    known = name in _NAMES or name in _FUNCTIONS
    if isinstance(activation, str):
        if not known:
            raise ValueError(
                f"{owner}: argument 'activation': expected one of {(*_NAMES, *_FUNCTIONS)} or a function, "
                f"got {name!r}"
            )
        return name
    if not callable(activation):
        raise ValueError(f"{owner}: argument 'activation': expected a name or a function, got {activation!r}")
    return name if known and getattr(ops, name, None) is activation else activation


def apply(x: Any, activation: str | Callable[[Any], Any], alpha: float | None = None) -> Any:
    """Adds the op of an activation that `resolve` gave; "linear" adds none."""
    if callable(activation):
        return activation(x)
    if activation in _FUNCTIONS:
        return _FUNCTIONS[activation](x)
    return x if activation == "linear" else ops.activation(x, activation, alpha)


class Activation(Layer):
    """y = f(x), elementwise or softmax over the last axis; any shape.

    activation: a name (linear, relu, leaky_relu, sigmoid, tanh, elu, gelu, softmax, log_softmax, softplus,
    softsign, selu, silu or swish, mish, relu6, exponential, hard_sigmoid, hard_silu, log_sigmoid) or a function
    of ops. Raises ValueError for an unknown name.

    >>> import numpy as np
    >>> from wdfast import layers
    >>> layers.Activation("relu")(np.array([[-1.0, 2.0]], np.float32))
    array([[0., 2.]], dtype=float32)
    """

    supports_masking = True

    def __init__(self, activation: str | Callable[[Any], Any], **options: Any) -> None:
        super().__init__(**options)
        self.activation = resolve("Activation", activation)

    def call(self, x: Any) -> Any:
        return apply(x, self.activation)


def _slope(owner: str, value: float) -> float:
    if value < 0:
        raise ValueError(f"{owner}: argument 'negative_slope': expected a number ≥ 0, got {value!r}")
    return value


class ReLU(Layer):
    """y = max(x, 0), or `negative_slope`·x below 0; at most `max_value` if given."""

    supports_masking = True

    def __init__(self, max_value: float | None = None, negative_slope: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        if max_value is not None and max_value < 0:
            raise ValueError(f"ReLU: argument 'max_value': expected a number ≥ 0, got {max_value!r}")
        self.max_value, self.negative_slope = max_value, _slope("ReLU", negative_slope)

    def call(self, x: Any) -> Any:
        slope = self.negative_slope
        y = apply(x, "leaky_relu", slope) if slope else apply(x, "relu")
        return y if self.max_value is None else ops.minimum(y, float(self.max_value))


class LeakyReLU(Layer):
    """y = x if x > 0 else `negative_slope`·x. Maas et al., ICML 2013."""

    supports_masking = True

    def __init__(self, negative_slope: float = 0.3, **options: Any) -> None:
        super().__init__(**options)
        self.negative_slope = _slope("LeakyReLU", negative_slope)

    def call(self, x: Any) -> Any:
        return apply(x, "leaky_relu", self.negative_slope)


class ELU(Layer):
    """y = x if x > 0 else α(eˣ − 1), α = `alpha`. arXiv 1511.07289."""

    supports_masking = True

    def __init__(self, alpha: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.alpha = alpha

    def call(self, x: Any) -> Any:
        return apply(x, "elu", self.alpha)


class GELU(Layer):
    """y = x·Φ(x), Φ the normal distribution's; with `approximate`, tanh stands in for it. arXiv 1606.08415."""

    supports_masking = True

    def __init__(self, approximate: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.approximate = approximate

    def call(self, x: Any) -> Any:
        return _gelu_tanh(x) if self.approximate else apply(x, "gelu")


class PReLU(Layer):
    """y = x if x > 0 else α·x with a trained α per element of a sample. arXiv 1502.01852.

    shared_axes: the axes, counted from 1, along which α is one, such as (1, 2) for one per channel of images.
    Weight alpha: the shape of a sample with 1 for these. By default it does not decay, as the paper has it.

    >>> import numpy as np
    >>> from wdfast import layers
    >>> layers.PReLU("ones", shared_axes=1)(np.array([[-2.0, 3.0]], np.float32))
    array([[-2.,  3.]], dtype=float32)
    """

    supports_masking = True

    def __init__(self, alpha_initializer: Any = "zeros", alpha_regularizer: Any = None,
                 shared_axes: int | Sequence[int] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.alpha_initializer = initializers.get(alpha_initializer)
        self.alpha_regularizer = regularizers.get(alpha_regularizer)
        self.shared_axes = [shared_axes] if isinstance(shared_axes, int) else list(shared_axes or [])

    def build(self, input_shape: Any) -> None:
        if not all(1 <= axis < len(input_shape) for axis in self.shared_axes):
            raise ValueError(f"argument 'shared_axes': expected 1 … {len(input_shape) - 1}, got {self.shared_axes}")
        shape = tuple(1 if i in self.shared_axes else n for i, n in enumerate(input_shape) if i > 0)
        self.alpha = self.add_weight("alpha", shape, self.alpha_initializer, role="slope",
                                     regularizer=self.alpha_regularizer)

    def call(self, x: Any) -> Any:
        return ops.where(ops.greater(x, 0.0), x, ops.multiply(self.alpha, x))


class Softmax(Layer):
    """yᵢ = exp(xᵢ) / Σⱼ exp(xⱼ) over `axis`. Raises ValueError for an axis that the input lacks."""

    supports_masking = True

    def __init__(self, axis: int = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = axis

    def call(self, x: Any) -> Any:
        rank = len(x.shape)
        if not -rank <= self.axis < rank:
            raise ValueError(f"argument 'axis': expected {-rank} … {rank - 1}, got {self.axis!r}")
        if self.axis in (-1, rank - 1):
            return ops.softmax(x)
        order = list(range(rank))
        order[self.axis], order[-1] = order[-1], order[self.axis]  # its own inverse
        return ops.transpose(ops.softmax(ops.transpose(x, order)), order)
