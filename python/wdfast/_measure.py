"""What losses and metrics share: a number per sample, from labels and predictions."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np

from . import ops
from ._config import config_of, snake_case
from .graph import Tensor


class Measure:
    """Base of losses and metrics. A subclass defines `call(y_true, y_pred)` with ops: one value per sample.

    `label_dtype` is what labels are converted to. `labels`: "same" if they have the shape of the
    predictions, "sparse" if they are class numbers (the last axis is missing, or 1), "any" if `call` looks
    after that itself.
    """

    label_dtype: Literal["float32", "int32"] = "float32"
    labels: Literal["same", "sparse", "any"] = "any"

    def __init__(self, name: str | None = None) -> None:
        self.name = name or snake_case(type(self).__name__)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        raise TypeError(f"{type(self).__name__}: must define call(self, y_true, y_pred)")

    def values(self, y_true: Any, y_pred: Any) -> Any:
        """One value per sample, shape (N, …); of arrays (computed now) or of symbolic tensors."""
        return self.call(*self.prepared(y_true, y_pred))

    def prepared(self, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
        """Both as arrays or tensors of the dtypes and shapes that `call` expects."""
        y_pred = _as(y_pred, "float32")
        y_true = _as(y_true, self.label_dtype)
        if self.labels != "any":
            shape = y_pred.shape if self.labels == "same" else y_pred.shape[:-1]
            y_true = self._fit("y_true", y_true, shape)
        return y_true, y_pred

    def one_hot(self, y_true: Any, y_pred: Any) -> Any:
        """y_true in the shape of y_pred: class numbers, which lack its last axis, become one-hot."""
        shape = tuple(y_pred.shape)
        if len(y_true.shape) == len(shape) - 1 and shape[-1] != 1:
            numbers = self._fit("y_true", y_true, shape[:-1])
            return ops.equal(numbers[..., None], np.arange(shape[-1], dtype=np.float32))
        return self._fit("y_true", y_true, shape)

    def weights_for(self, values: Any, sample_weight: Any) -> Any:
        """`sample_weight`, one per sample or per value, ready to multiply `values`."""
        weight = _as(sample_weight, "float32")
        missing = len(values.shape) - len(weight.shape)
        if missing > 0:
            weight = ops.reshape(weight, (None, *weight.shape[1:], *[1] * missing))
        return self._fit("sample_weight", weight, values.shape)

    def mask_for(self, values: Any, mask: Any) -> Any:
        """`mask` (N, T) as float32, ready to choose among `values`; None, with a warning, if these are not of steps."""
        if mask is None:
            return None
        if len(values.shape) < 2:
            warnings.warn(f"{type(self).__name__}: the output has a mask, and this has no value per step: padding "
                          "counts as data", UserWarning, stacklevel=3)
            return None
        return ops.not_equal(self.weights_for(values, mask), 0.0)

    def get_config(self) -> dict[str, Any]:
        """The keyword arguments that make this object again."""
        return config_of(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} '{self.name}'>"

    def _fit(self, argument: str, value: Any, shape: tuple[int | None, ...]) -> Any:
        """Adds or drops a last axis of size 1, so that nothing broadcasts by accident."""
        have = tuple(value.shape)
        if shape and len(have) == len(shape) + 1 and have[-1] == 1:
            value = ops.reshape(value, (None, *have[1:-1]))
        elif len(have) + 1 == len(shape) and shape[-1] == 1:
            value = ops.reshape(value, (None, *have[1:], 1))
        elif len(have) != len(shape):
            self._refuse(argument, shape, have)
        broadcast = (None, 1) if argument == "sample_weight" else (None,)
        for a, b in zip(value.shape, shape, strict=True):
            if a != b and a not in broadcast and b is not None:
                self._refuse(argument, shape, have)
        return value

    def _refuse(self, argument: str, shape: tuple[int | None, ...], have: tuple[int | None, ...]) -> None:
        expected = ", ".join("N" if n is None else str(n) for n in shape)
        raise ValueError(
            f"{type(self).__name__}: argument '{argument}': expected shape ({expected}), got {have}"
        )


class FunctionMeasure(Measure):
    """A user's function (y_true, y_pred) of ops."""

    def __init__(self, function: Any, name: str | None = None) -> None:
        super().__init__(name or getattr(function, "__name__", "function"))
        self.function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.function(y_true, y_pred)


def lookup(what: str, identifier: Any, classes: dict[str, type[Any]]) -> Any:
    """The instance that a name or {"class_name": …, "config": …} stands for."""
    name, config = identifier, {}
    if isinstance(identifier, dict):
        name, config = identifier.get("class_name"), identifier.get("config", {})
    if not isinstance(name, str) or name not in classes:
        names = sorted(n for n in classes if n.islower())
        raise ValueError(f"{what}: expected one of {names}, an instance or a function, got {identifier!r}")
    return classes[name](**config)


def _as(value: Any, dtype: str) -> Any:
    if isinstance(value, Tensor):
        return value if value.dtype == dtype else ops.cast(value, dtype)
    return np.asarray(value, dtype)
