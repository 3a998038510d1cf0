"""What a metric is: a mean over samples, or a function of sums over all samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from .._measure import FunctionMeasure, Measure
from ..graph import Tensor


class Metric(Measure):
    """Base: a subclass defines `call(y_true, y_pred)` with ops, one value per sample; the metric is their mean.

    `metric(y_true, y_pred)` is that of these arrays alone. `update_state` adds a batch to what `result` is of,
    until `reset_state`.

    >>> from wdfast import metrics
    >>> metric = metrics.BinaryAccuracy()
    >>> metric.update_state([[1.0], [0.0]], [[0.9], [0.8]]); metric.update_state([[1.0]], [[0.7]])
    >>> round(metric.result(), 4)
    0.6667
    """

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The mean of the values, or Σ wᵢ·valueᵢ / Σ wᵢ; shape ()."""
        values = self.values(y_true, y_pred)
        if sample_weight is None:
            return ops.mean(values)
        weight = self.weights_for(values, sample_weight)
        return ops.divide(ops.mean(ops.multiply(values, weight)), ops.mean(weight))

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds these arrays to what `result` is of."""
        self._state = getattr(self, "_state", 0.0) + self._sums(y_true, y_pred, sample_weight)

    def result(self) -> Any:
        """The metric of everything since `reset_state`. Raises ValueError before the first `update_state`."""
        if not hasattr(self, "_state"):
            raise ValueError(f"{type(self).__name__}: nothing to tell before the first update_state")
        return self._finish(self._state)

    def reset_state(self) -> None:
        """Forgets what `update_state` added."""
        vars(self).pop("_state", None)

    def _sums(self, y_true: Any, y_pred: Any, sample_weight: Any) -> np.ndarray:
        values = np.asarray(self.values(y_true, y_pred), np.float64)
        weight = np.ones(()) if sample_weight is None else self.weights_for(values, sample_weight)
        weight = np.broadcast_to(weight, values.shape).astype(np.float64)
        return np.array([(values * weight).sum(), weight.sum()])

    def _finish(self, sums: np.ndarray) -> Any:
        return float(divide_no_nan(sums[0], sums[1]))

    def measured(self, y_true: Any, y_pred: Any, mask: Any = None) -> tuple[Any, Callable[[np.ndarray], Any] | None]:
        """Of symbolic tensors: the mean over a batch and None; or sums, and what makes the metric of them.

        mask (N, T) or None: steps where it is 0 have no part, as in Keras.
        """
        values = self.values(y_true, y_pred)
        mask = self.mask_for(values, mask)
        if mask is None:
            return ops.mean(values), None
        mask = ops.where(values, mask, mask)  # one for each value
        sums = [ops.sum(ops.where(mask, values, 0.0)), ops.sum(mask)]
        return ops.concatenate([ops.reshape(s, (1,)) for s in sums], axis=0), self._finish


class SumMetric(Metric):
    """Base of metrics that are no mean over samples, but a function of sums over all of them.

    A subclass defines two functions. `sums(y_true, y_pred, weight)`, with ops: a float32 vector that adds up over
    batches; weight is None, or one per sample. `finish(sums)`, with NumPy in float64: the metric, a number, or one
    for each class or threshold, which the history then has as `name_0`, `name_1`, …

    >>> from wdfast import metrics, ops
    >>> class LargestError(metrics.SumMetric):
    ...     def sums(self, y_true, y_pred, weight):
    ...         error = ops.abs(ops.subtract(y_true, y_pred))
    ...         return ops.bincount(ops.cast(ops.multiply(error, 10.0), "int32"), length=100)
    ...     def finish(self, sums):
    ...         return sums.nonzero()[0].max() / 10
    >>> LargestError()([[1.0], [2.0]], [[1.5], [2.0]])
    0.5
    """

    def sums(self, y_true: Any, y_pred: Any, weight: Any) -> Any:
        raise TypeError(f"{type(self).__name__}: must define sums(self, y_true, y_pred, weight)")

    def finish(self, sums: np.ndarray) -> Any:
        raise TypeError(f"{type(self).__name__}: must define finish(self, sums)")

    def statistics(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The sums over these arrays (computed now) or symbolic tensors (adds to the graph)."""
        y_true, y_pred = self.prepared(y_true, y_pred)
        if sample_weight is not None and not isinstance(sample_weight, Tensor):
            sample_weight = np.asarray(sample_weight, np.float32)
        return self.sums(y_true, y_pred, sample_weight)

    def measured(self, y_true: Any, y_pred: Any, mask: Any = None) -> tuple[Any, Callable[[np.ndarray], Any] | None]:
        return self.statistics(y_true, y_pred, mask), self.finish

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The metric of these arrays alone."""
        return self._finish(self._sums(y_true, y_pred, sample_weight))

    def _sums(self, y_true: Any, y_pred: Any, sample_weight: Any) -> np.ndarray:
        return np.asarray(self.statistics(y_true, y_pred, sample_weight), np.float64)

    def _finish(self, sums: np.ndarray) -> Any:
        value = np.asarray(self.finish(sums))
        return value.item() if value.ndim == 0 else value


class FunctionMetric(FunctionMeasure, Metric):
    """A user's function (y_true, y_pred) of ops as a metric."""


def divide_no_nan(a: Any, b: Any) -> np.ndarray:
    """a/b, and 0 where b is 0."""
    b = np.asarray(b, np.float64)
    return np.where(b == 0, 0.0, a / np.where(b == 0, 1.0, b))


def broadcast_weight(measure: Measure, weight: Any, like: Any) -> Any:
    """One weight for each element of `like`; None stays."""
    if weight is None:
        return None
    weight = measure.weights_for(like, weight)
    return ops.where(like, weight, weight)
