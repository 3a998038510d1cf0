"""Layers that apply another one: to each step, or in both directions of time."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .. import ops
from ..graph import Tensor
from .base import Layer
from .recurrent import Recurrent


class Wrapper(Layer):
    """Base of layers that own others; their weights are its own, under `prefix` and their names."""

    supports_masking = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.wrapped: dict[str, Layer] = {}  # by prefix

    def build_wrapped(self, input_shape: Any) -> None:
        for prefix, layer in self.wrapped.items():
            if not layer.built:
                layer.build(input_shape)
                layer.built = True
            for attribute, parameter in layer._weights.items():
                parameter.name = f"{self.name}/{prefix}{attribute}"
                parameter.trainable = parameter.trainable and self.trainable
                parameter.frozen = parameter.frozen or not self.trainable
                self._weights[prefix + attribute] = parameter

    def apply(self, prefix: str, run: Callable[[Layer], Any]) -> Any:
        """What `run` makes of a wrapped layer; what that adds to the loss is added here."""
        layer = self.wrapped[prefix]
        # A model that was read from a file has them only here.
        layer._weights = {a.removeprefix(prefix): p for a, p in self._weights.items() if a.startswith(prefix)}
        for attribute, parameter in layer._weights.items():
            setattr(layer, attribute, parameter)
        layer.losses = []
        result = run(layer)
        layer._regularize_activity(result[:1] if isinstance(result, tuple) else (result,))
        self.losses += layer.losses
        return result


def _made(layer: Any, owner: str, argument: str, kind: type[Layer]) -> Any:
    """`layer`, or the one that a config stands for. Raises TypeError for anything else."""
    if isinstance(layer, dict):
        from . import from_config  # late: the table of all layers has this one too

        layer = from_config(layer)
    if not isinstance(layer, kind):
        expected = "a layer" if kind is Layer else "SimpleRNN, GRU or LSTM"
        raise TypeError(f"{owner}: argument '{argument}': expected {expected}, got {layer!r}")
    return layer


class Bidirectional(Wrapper):
    """A recurrent layer forwards in time and another backwards, their outputs joined.

    layer: SimpleRNN, GRU or LSTM; backward_layer: the other one, by default the same with weights of its own. Both
    are made anew from their configs. merge_mode: "concat" (2·units), "sum", "mul", "ave", or None: both, as a tuple.
    Outputs of all steps are in the order of the steps; those of masked steps are 0. With return_state the states of
    both follow; initial_state takes them in that order. Weights: those of the one, then of the other. arXiv 1303.5778.

    >>> import numpy as np
    >>> from wdfast import layers
    >>> layers.Bidirectional(layers.GRU(4, return_sequences=True))(np.zeros((2, 7, 3), np.float32)).shape
    (2, 7, 8)
    """

    input_axes = "N T in"

    def __init__(self, layer: Any, merge_mode: str | None = "concat", backward_layer: Any = None,
                 **options: Any) -> None:
        if merge_mode not in ("concat", "sum", "mul", "ave", None):
            raise ValueError("Bidirectional: argument 'merge_mode': expected 'concat', 'sum', 'mul', 'ave' or None, "
                             f"got {merge_mode!r}")
        super().__init__(**options)
        layer = _made(layer, "Bidirectional", "layer", Recurrent)
        self.merge_mode = merge_mode
        other = layer if backward_layer is None else _made(backward_layer, "Bidirectional", "backward_layer", Recurrent)
        change = {"go_backwards": True} if backward_layer is None else {}
        self.layer = self._copy(layer, "forward_")
        self.backward_layer = self._copy(other, "backward_", **change)
        for argument in ("return_sequences", "return_state"):
            if getattr(self.layer, argument) != getattr(self.backward_layer, argument):
                raise ValueError(f"Bidirectional: argument '{argument}': expected the same of both layers")
        if self.layer.go_backwards == self.backward_layer.go_backwards:
            raise ValueError("Bidirectional: argument 'go_backwards': expected one layer with it and one without")
        self.wrapped = {"forward_": self.layer, "backward_": self.backward_layer}

    @staticmethod
    def _copy(layer: Recurrent, prefix: str, **change: Any) -> Recurrent:
        config = layer.get_config() | {"name": prefix + layer.name.removeprefix(prefix)} | change
        return type(layer).from_config(config | {"zero_output_for_mask": layer.return_sequences})

    def build(self, input_shape: Any) -> None:
        self.build_wrapped(input_shape)

    def call(self, x: Any, mask: Any = None, initial_state: Any = None, training: bool = False) -> Any:
        states = [None, None]
        if initial_state is not None:
            half = len(initial_state) // 2
            states = [initial_state[:half], initial_state[half:]]
        made = [self.apply(prefix, lambda layer, start=start: _flat(layer.outputs(x, mask, start, training)))
                for prefix, start in zip(self.wrapped, states, strict=True)]
        (a, *a_states), (b, *b_states) = made
        if self.merge_mode == "concat":
            merged = [ops.concatenate([a, b], axis=-1)]
        elif self.merge_mode == "mul":
            merged = [ops.multiply(a, b)]
        elif self.merge_mode is None:
            merged = [a, b]
            if isinstance(b, Tensor):
                b.mask = self.compute_mask(x, mask)
        else:
            merged = [ops.multiply(ops.add(a, b), 0.5) if self.merge_mode == "ave" else ops.add(a, b)]
        results = (*merged, *a_states, *b_states) if self.layer.return_state else tuple(merged)
        return results[0] if len(results) == 1 else results

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return mask if self.layer.return_sequences else None


def _flat(outputs: tuple[Any, list[Any]]) -> tuple[Any, ...]:
    y, states = outputs
    return (y, *states)


class TimeDistributed(Wrapper):
    """A layer applied to each step of (N, T, …) by itself: all steps at once, as samples (N·T, …).

    A normalisation of batches therefore takes all steps together.

    >>> import numpy as np
    >>> from wdfast import layers
    >>> layers.TimeDistributed(layers.Conv2D(4, 3))(np.zeros((2, 5, 8, 8, 1), np.float32)).shape
    (2, 5, 6, 6, 4)
    """

    def __init__(self, layer: Any, **options: Any) -> None:
        super().__init__(**options)
        self.layer = _made(layer, "TimeDistributed", "layer", Layer)
        self.wrapped = {"": self.layer}

    def build(self, input_shape: Any) -> None:
        if len(input_shape) < 3:
            raise ValueError(f"expected input (N, T, …), got {tuple(input_shape)}")
        self.build_wrapped((None, *input_shape[2:]))

    def call(self, x: Any, training: bool = False) -> Any:
        steps = x.shape[1]
        knows = training and "training" in inspect.signature(self.layer.call).parameters
        options = {"training": True} if knows else {}
        y = self.apply("", lambda layer: layer.call(ops.reshape(x, (-1, *x.shape[2:])), **options))
        return ops.reshape(y, (-1, steps, *y.shape[1:]))
