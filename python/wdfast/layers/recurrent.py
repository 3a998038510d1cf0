"""Layers along time that have a state. The input of all steps is one product, all else one op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import initializers, ops, regularizers
from ..graph import Tensor
from . import activation as activations
from .core import positive
from .regularization import Random

_NAMES = ("linear", "relu", "leaky_relu", "sigmoid", "tanh", "elu")  # known to the op


class Recurrent(Random):
    """Base of SimpleRNN, GRU and LSTM; x (N, T, in) → the last output (N, units), or all: (N, T, units).

    return_sequences: all outputs; return_state: (output, state, …), the states after the last step. go_backwards:
    from the last step to the first, outputs in that order. `layer(x, initial_state=[…])` starts from these states,
    (N, units) each, instead of zeros. dropout: of x, recurrent_dropout: of the state before its product, the same
    elements at every step of a sample and for all gates (arXiv 1512.05287; in Keras' GRU each gate has its own).
    At a step that is masked the state and the output stay as they were; with zero_output_for_mask the output is 0.

    activation: linear, relu, leaky_relu, sigmoid, tanh or elu. use_bias; kernel_, recurrent_ and bias_initializer and
    _regularizer as in Keras. unroll changes nothing. Raises ValueError for other activations and for stateful=True.
    """

    input_axes = "N T in"
    supports_masking = True
    cell: str
    gates: int
    recurrent_activation: str = "sigmoid"
    reset_after = True

    def __init__(self, units: int, activation: str = "tanh", *, use_bias: bool = True,
                 kernel_initializer: Any = "glorot_uniform", recurrent_initializer: Any = "orthogonal",
                 bias_initializer: Any = "zeros", kernel_regularizer: Any = None, recurrent_regularizer: Any = None,
                 bias_regularizer: Any = None, dropout: float = 0.0, recurrent_dropout: float = 0.0,
                 return_sequences: bool = False, return_state: bool = False, go_backwards: bool = False,
                 stateful: bool = False, unroll: bool = False, zero_output_for_mask: bool = False,
                 **options: Any) -> None:
        super().__init__(**options)
        kind = type(self).__name__
        self.units = positive(kind, "units", units)
        self.activation = _activation(kind, "activation", activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.recurrent_regularizer = regularizers.get(recurrent_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        for argument, rate in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
            if not 0 <= rate < 1:
                raise ValueError(f"{kind}: argument '{argument}': expected in [0, 1), got {rate!r}")
        if stateful:
            raise ValueError(f"{kind}: argument 'stateful': expected False; return_state=True gives the states, "
                             "initial_state= takes them")
        self.dropout, self.recurrent_dropout = dropout, recurrent_dropout
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.stateful, self.unroll = go_backwards, stateful, unroll
        self.zero_output_for_mask = zero_output_for_mask
        self.bias: Any = None

    def build(self, input_shape: Any) -> None:
        width = self.gates * self.units
        self.kernel = self.add_weight("kernel", (input_shape[-1], width), self.kernel_initializer,
                                      regularizer=self.kernel_regularizer)
        self.recurrent_kernel = self.add_weight("recurrent_kernel", (self.units, width), self.recurrent_initializer,
                                                role="recurrent_kernel", regularizer=self.recurrent_regularizer)
        if self.use_bias:
            self.bias = self.add_weight("bias", self.bias_shape, self.start_of_bias, role="bias",
                                        regularizer=self.bias_regularizer)

    @property
    def bias_shape(self) -> tuple[int, ...]:
        return (self.gates * self.units,)

    def start_of_bias(self, shape: Sequence[int]) -> np.ndarray:
        return self.bias_initializer(shape)

    def biases(self) -> tuple[Any, Any]:
        """What the input's product adds, and what the state's does."""
        return self.bias, None

    def call(self, x: Any, mask: Any = None, initial_state: Any = None, training: bool = False) -> Any:
        y, states = self.outputs(x, mask, initial_state, training)
        if self.return_sequences and self.go_backwards:
            y = flip(y)
        return (y, *states) if self.return_state else y

    def outputs(self, x: Any, mask: Any, initial_state: Any, training: bool) -> tuple[Any, list[Any]]:
        """The output, if of all steps then in their order in x, and the states after the last step."""
        steps = x.shape[1]
        if not steps:
            raise ValueError(f"expected at least one step of known number, got input {tuple(x.shape)}")
        h, c = self._start(initial_state)
        keep = None
        if self.recurrent_dropout and (training or isinstance(x, Tensor)):
            one = ops.where(ops.reshape(ops.slice(x, (0, 0, 0), (-1, 1, 1)), (None, 1)), 1.0, 1.0)
            ones = ops.multiply(one, np.ones((1, self.units), np.float32))
            keep = self._dropped(ones, self.recurrent_dropout, training)
        if self.dropout:
            x = self._dropped(x, self.dropout, training, noise_shape=(None, 1, None))
        if mask is not None:
            mask = ops.cast(mask, "float32")
        of_input, of_state = self.biases()
        result = ops.recurrent(ops.dense(x, self.kernel, of_input), self.recurrent_kernel, of_state, h, c, mask, keep,
                               cell=self.cell, activation=self.activation, reset_after=self.reset_after,
                               recurrent_activation=self.recurrent_activation, reversed=self.go_backwards)
        y, *cells = result if isinstance(result, tuple) else (result,)
        last = 0 if self.go_backwards else steps - 1
        h = ops.reshape(ops.slice(y, (0, last, 0), (-1, 1, -1)), (None, self.units))
        if not self.return_sequences:
            y = h
        elif self.zero_output_for_mask and mask is not None:
            y = ops.multiply(y, ops.expand_dims(mask, -1))
        return y, [h, *cells]

    def _dropped(self, x: Any, rate: float, training: bool, **options: Any) -> Any:
        draw = self.next_draw() if training else {}
        return ops.dropout(x, rate, training=training, **options, **draw)

    def _start(self, initial_state: Any) -> tuple[Any, Any]:
        count = 2 if self.cell == "lstm" else 1
        if initial_state is None:
            return None, None
        states = list(initial_state) if isinstance(initial_state, (list, tuple)) else [initial_state]
        if len(states) != count:
            raise ValueError(f"argument 'initial_state': expected {count} of (N, {self.units}), got {len(states)}")
        return states[0], states[1] if count == 2 else None

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """That of the input, in the order of the outputs, if they are of all steps."""
        if mask is None or not self.return_sequences:
            return None
        return flip(mask) if self.go_backwards else mask


def flip(x: Any) -> Any:
    """(N, T, …), the last step first."""
    rest = len(x.shape) - 2
    return ops.slice(x, (0, x.shape[1] - 1, *[0] * rest), (-1, x.shape[1], *[-1] * rest), (1, -1, *[1] * rest))


def _activation(owner: str, argument: str, value: Any) -> str:
    name = activations.resolve(owner, value)
    if name not in _NAMES:
        raise ValueError(f"{owner}: argument '{argument}': expected one of {_NAMES}, got {value!r}")
    return name


class SimpleRNN(Recurrent):
    """h ← f(x·W + b + h·U); the output is h. Arguments: those of `Recurrent`.

    kernel W (in, units), recurrent_kernel U (units, units), bias b (units,).

    >>> import numpy as np
    >>> from wdfast import layers
    >>> layer = layers.SimpleRNN(1, "relu", kernel_initializer="ones", recurrent_initializer="ones",
    ...                          return_sequences=True)
    >>> layer(np.array([[[1.0], [2.0], [3.0]]], np.float32)).ravel()
    array([1., 3., 6.], dtype=float32)
    """

    cell, gates = "simple", 1


class GRU(Recurrent):
    """z, r = s(x·W + b + h·U); n = f(x·W + b + r·(h·U + b')); h ← z·h + (1 − z)·n. Arguments: those of `Recurrent`.

    With reset_after=False n = f(x·W + b + (r·h)·U), arXiv 1406.1078. kernel W (in, 3·units), recurrent_kernel U
    (units, 3·units), gates in the order z, r, n; bias (2, 3·units): b and b', without reset_after (3·units,).

    >>> import numpy as np
    >>> from wdfast import layers
    >>> layers.GRU(4)(np.zeros((2, 7, 3), np.float32)).shape
    (2, 4)
    """

    cell, gates = "gru", 3

    def __init__(self, units: int, activation: str = "tanh", recurrent_activation: str = "sigmoid", *,
                 reset_after: bool = True, **options: Any) -> None:
        super().__init__(units, activation, **options)
        self.recurrent_activation = _activation("GRU", "recurrent_activation", recurrent_activation)
        self.reset_after = reset_after

    @property
    def bias_shape(self) -> tuple[int, ...]:
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def biases(self) -> tuple[Any, Any]:
        if not self.reset_after or self.bias is None:
            return self.bias, None
        rows = [ops.slice(self.bias, (i, 0), (1, -1)) for i in range(2)]
        return tuple(ops.reshape(row, (-1,)) for row in rows)


class LSTM(Recurrent):
    """i, f', o = s(x·W + b + h·U); g = f(x·W + b + h·U); c ← f'·c + i·g; h ← o·f(c). Arguments: those of `Recurrent`.

    kernel W (in, 4·units), recurrent_kernel U (units, 4·units), bias b (4·units,), gates in the order i, f', g, o.
    unit_forget_bias: the bias of f' starts at 1 (Jozefowicz et al., ICML 2015). The states are h and c.

    >>> import numpy as np
    >>> from wdfast import layers
    >>> y, h, c = layers.LSTM(4, return_sequences=True, return_state=True)(np.zeros((2, 7, 3), np.float32))
    >>> y.shape, h.shape, c.shape
    ((2, 7, 4), (2, 4), (2, 4))
    """

    cell, gates = "lstm", 4

    def __init__(self, units: int, activation: str = "tanh", recurrent_activation: str = "sigmoid", *,
                 unit_forget_bias: bool = True, **options: Any) -> None:
        super().__init__(units, activation, **options)
        self.recurrent_activation = _activation("LSTM", "recurrent_activation", recurrent_activation)
        self.unit_forget_bias = unit_forget_bias

    def start_of_bias(self, shape: Sequence[int]) -> np.ndarray:
        if not self.unit_forget_bias:
            return self.bias_initializer(shape)
        n = self.units
        return np.concatenate([self.bias_initializer((n,)), np.ones(n), self.bias_initializer((2 * n,))])
