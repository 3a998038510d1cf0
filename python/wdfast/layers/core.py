"""Input, Dense, and the layers that only rename or rescale what they get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import initializers, ops, regularizers
from ..graph import Tensor
from . import activation as activations
from .base import Layer, auto_name


def Input(shape: Sequence[int], *, dtype: str = "float32", name: str | None = None) -> Tensor:
    """A symbolic input of samples of this shape; the batch axis is added. dtype: float32, int32 or uint8.

    >>> from wdfast import layers
    >>> layers.Input((28, 28, 1), name="image")
    <Tensor image (None, 28, 28, 1) float32>
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"Input: argument 'shape': expected the sizes of one sample, got {shape}")
    if dtype not in ("float32", "int32", "uint8"):
        raise ValueError(f"Input: argument 'dtype': expected float32, int32 or uint8, got {dtype!r}")
    return Tensor((None, *shape), dtype, name=name or auto_name("InputLayer"))


class InputLayer(Layer):
    """Says the shape of one sample, as first element of a Sequential; passes its input on."""

    def __init__(self, shape: Sequence[int] | None = None, **options: Any) -> None:
        super().__init__(**({} if shape is None else {"input_shape": shape}) | options)

    def call(self, x: Any) -> Any:
        return x


class Affine(Layer):
    """Base of layers that end in + bias and an activation.

    activation: a name, a function of ops, or None. use_bias, bias_initializer, bias_regularizer as in Keras.
    """

    def __init__(self, *, activation: str | Callable[[Any], Any] | None = None, use_bias: bool = True,
                 bias_initializer: Any = "zeros", bias_regularizer: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.activation = activations.resolve(type(self).__name__, activation)
        self.use_bias = use_bias
        self.bias_initializer = initializers.get(bias_initializer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.bias: Any = None

    def add_bias(self, size: int) -> None:
        if self.use_bias:
            self.bias = self.add_weight("bias", (size,), self.bias_initializer, role="bias",
                                        regularizer=self.bias_regularizer)

    def activate(self, y: Any) -> Any:
        return activations.apply(y, self.activation)


class Dense(Affine):
    """y = f(x·W + b), over the last axis.

    x (N, …, in) → (N, …, units); kernel (in, units), bias (units,). Raises ValueError for a wrong shape or
    dtype. Other arguments: kernel_initializer, kernel_regularizer, and those of `Affine` and `Layer`.

    >>> import numpy as np
    >>> from wdfast import layers
    >>> layers.Dense(2, kernel_initializer="ones")(np.ones((1, 3), np.float32))
    array([[3., 3.]], dtype=float32)
    """

    input_axes = "N … in"
    supports_masking = True

    def __init__(self, units: int, activation: str | Callable[[Any], Any] | None = None, *,
                 kernel_initializer: Any = "glorot_uniform", kernel_regularizer: Any = None,
                 **options: Any) -> None:
        super().__init__(activation=activation, **options)
        self.units = positive("Dense", "units", units)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight("kernel", (input_shape[-1], self.units), self.kernel_initializer,
                                      regularizer=self.kernel_regularizer)
        self.add_bias(self.units)

    def call(self, x: Any) -> Any:
        return self.activate(ops.dense(x, self.kernel, self.bias))


def positive(owner: str, argument: str, value: Any) -> int:
    """`value` as an int ≥ 1, or a ValueError that names it."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"{owner}: argument '{argument}': expected an int ≥ 1, got {value!r}")
    return int(value)


class Flatten(Layer):
    """(N, …) → (N, product of the rest), row by row."""

    def call(self, x: Any) -> Any:
        return ops.flatten(x)


class Reshape(Layer):
    """(N, …) → (N, …`target_shape`); one size of the target may be −1. Raises ValueError where it cannot fit.

    >>> import numpy as np
    >>> from wdfast import layers
    >>> layers.Reshape((2, -1))(np.zeros((5, 12), np.float32)).shape
    (5, 2, 6)
    """

    def __init__(self, target_shape: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        self.target_shape = tuple(target_shape)
        if self.target_shape.count(-1) > 1 or any(n < -1 for n in self.target_shape):
            raise ValueError(
                f"Reshape: argument 'target_shape': expected sizes, one −1 at most, got {target_shape}"
            )

    def call(self, x: Any) -> Any:
        return ops.reshape(x, (None, *self.target_shape))


class Permute(Layer):
    """The axes of a sample in another order: axis i of the result is axis dims[i] of the input, counted from 1.

    Raises ValueError if `dims` is no permutation of 1 … n.

    >>> import numpy as np
    >>> from wdfast import layers
    >>> layers.Permute((2, 1))(np.zeros((5, 3, 4), np.float32)).shape
    (5, 4, 3)
    """

    def __init__(self, dims: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        self.dims = tuple(dims)
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ValueError(f"Permute: argument 'dims': expected each of 1 … {len(self.dims)} once, got {dims!r}")

    def call(self, x: Any) -> Any:
        return ops.transpose(x, (0, *self.dims))


class RepeatVector(Layer):
    """(N, features) → (N, n, features), the same row n times.

    >>> import numpy as np
    >>> from wdfast import layers
    >>> layers.RepeatVector(2)(np.array([[1.0, 3.0]], np.float32))
    array([[[1., 3.],
            [1., 3.]]], dtype=float32)
    """

    input_axes = "N features"

    def __init__(self, n: int, **options: Any) -> None:
        super().__init__(**options)
        self.n = positive("RepeatVector", "n", n)

    def call(self, x: Any) -> Any:
        features = x.shape[-1]
        rows = ops.up_sampling2d(ops.reshape(x, (None, 1, 1, features)), (self.n, 1))
        return ops.reshape(rows, (None, self.n, features))


class Rescaling(Layer):
    """y = x·scale + offset, float32; x of any dtype. scale, offset: numbers, or one per channel.

    >>> import numpy as np
    >>> from wdfast import layers
    >>> layers.Rescaling(1 / 255)(np.array([[0, 255]], np.uint8))
    array([[0., 1.]], dtype=float32)
    """

    supports_masking = True

    def __init__(self, scale: Any, offset: Any = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.scale, self.offset = scale, offset

    def call(self, x: Any) -> Any:
        if str(x.dtype) != "float32":
            x = ops.cast(x, "float32")
        return ops.add(ops.multiply(x, self.scale), self.offset)
