"""Losses, as in Keras: callable on arrays (computed now) and on symbolic tensors (adds to the graph).

`loss(y_true, y_pred, sample_weight=None)` is a float32 scalar, Σ wᵢ·valueᵢ / n; `loss.values` gives one value
per sample. A cross-entropy on probabilities that a softmax or sigmoid node made is rewritten to the stable
form from logits; probabilities from elsewhere are clipped to [ε, 1 − ε], ε = 1e-7, as Keras does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import ops
from ._measure import FunctionMeasure, Measure, lookup

__all__ = [
    "BinaryCrossentropy", "CategoricalCrossentropy", "Dice", "HalfMeanSquaredError", "Hinge", "Huber",
    "KLDivergence", "Loss", "MeanAbsoluteError", "MeanSquaredError", "SparseCategoricalCrossentropy",
    "binary_crossentropy", "categorical_crossentropy", "dice", "get", "hinge", "huber", "kl_divergence",
    "mean_absolute_error", "mean_squared_error", "names", "sparse_categorical_crossentropy",
]

_FEWEST = 1e-12  # of the steps: where a mask leaves none, the loss is 0
_EPSILON = 1e-7  # Keras' backend epsilon: 1 − ε is still below 1 in float32


class Loss(Measure):
    """Base: a subclass defines `call(y_true, y_pred)` with ops, one value per sample.

    >>> from wdfast import losses, ops
    >>> class Cubic(losses.Loss):
    ...     def call(self, y_true, y_pred):
    ...         return ops.mean(ops.power(ops.abs(ops.subtract(y_true, y_pred)), 3.0), axis=-1)
    >>> float(Cubic()([[0.0], [0.0]], [[1.0], [2.0]]))
    4.5
    """

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> Any:
        """Σ wᵢ·valueᵢ / n: the mean over all values (Keras' "sum_over_batch_size"), shape ().

        mask (N, T) or None: n counts only the steps where it is not 0, the others have no part.
        """
        values = self.values(y_true, y_pred)
        if sample_weight is not None:
            if len(values.shape) == 0:
                raise ValueError(f"{type(self).__name__}: argument 'sample_weight': this loss is one value for the "
                                 "whole batch, of which samples have no part of their own")
            values = ops.multiply(values, self.weights_for(values, sample_weight))
        mask = self.mask_for(values, mask)
        if mask is None:
            return ops.mean(values)
        kept = ops.mean(ops.where(mask, values, 0.0))
        return ops.divide(kept, ops.maximum(ops.mean(mask), _FEWEST))


class FunctionLoss(FunctionMeasure, Loss):
    """A user's function (y_true, y_pred) of ops as a loss."""


def _source(y_pred: Any, op: str, activation: str | None = None) -> Any:
    """What the op that made `y_pred` was applied to; None if another op made it, or if it is an array."""
    node = getattr(y_pred, "node", None)
    if node is None or node.op != op or node.attrs.get("activation") != activation:
        return None
    return node.inputs["x"]


class _Crossentropy(Loss):
    """Softmax cross-entropy; its arguments are those of the two classes below."""

    label_smoothing = 0.0

    def __init__(self, from_logits: bool = False, name: str | None = None) -> None:
        super().__init__(name)
        self.from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        logits = y_pred if self.from_logits else _source(y_pred, "softmax")
        if logits is None:  # softmax(log p) = p/Σp: the same op, and p need not add up to 1
            logits = ops.log(ops.clip(y_pred, _EPSILON, 1 - _EPSILON))
        return ops.softmax_cross_entropy(logits, y_true, label_smoothing=self.label_smoothing)


class SparseCategoricalCrossentropy(_Crossentropy):
    """−log p[y]: cross-entropy with class numbers.

    y_true: integers (N, …) or (N, …, 1) below the number of classes; y_pred: (N, …, classes) probabilities,
    or logits with `from_logits`. Raises ValueError for other shapes.

    >>> from wdfast import losses
    >>> round(float(losses.SparseCategoricalCrossentropy()([1], [[0.25, 0.75]])), 4)
    0.2877
    """

    label_dtype = "int32"
    labels = "sparse"


class CategoricalCrossentropy(_Crossentropy):
    """−Σ yᵢ log pᵢ over the last axis: cross-entropy with one-hot labels or probabilities.

    y_true, y_pred: (N, …, classes). label_smoothing s: labels become y(1 − s) + s/classes (arXiv 1512.00567).
    """

    labels = "same"

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0, name: str | None = None) -> None:
        super().__init__(from_logits, name)
        self.label_smoothing = _smoothing("CategoricalCrossentropy", label_smoothing)


class BinaryCrossentropy(Loss):
    """−y log p − (1 − y) log(1 − p), the mean over the last axis.

    y_true, y_pred: (N, …, k); y_pred probabilities, or logits with `from_logits`. label_smoothing s: labels
    become y(1 − s) + s/2.

    >>> from wdfast import losses
    >>> round(float(losses.BinaryCrossentropy(from_logits=True)([[1.0]], [[0.0]])), 4)
    0.6931
    """

    labels = "same"

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0, name: str | None = None) -> None:
        super().__init__(name)
        self.from_logits = from_logits
        self.label_smoothing = _smoothing("BinaryCrossentropy", label_smoothing)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        if self.label_smoothing:
            y_true = ops.add(ops.multiply(y_true, 1 - self.label_smoothing), self.label_smoothing / 2)
        logits = y_pred if self.from_logits else _source(y_pred, "activation", "sigmoid")
        if logits is None:
            p = ops.clip(y_pred, _EPSILON, 1 - _EPSILON)
            logits = ops.subtract(ops.log(p), ops.log(ops.subtract(1.0, p)))
        return ops.mean(ops.binary_cross_entropy(logits, y_true), axis=-1)


def _smoothing(owner: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{owner}: argument 'label_smoothing': expected 0 … 1, got {value!r}")
    return value


class MeanSquaredError(Loss):
    """(y_true − y_pred)², the mean over the last axis. y_true, y_pred: (N, …, k)."""

    labels = "same"

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.mean_squared_error(y_pred, y_true)


class HalfMeanSquaredError(Loss):
    """½(y_true − y_pred)², the mean over the last axis: 1/(2n) Σ e², whose slope is e/n. y_true, y_pred: (N, …, k).

    >>> from wdfast import losses
    >>> float(losses.HalfMeanSquaredError()([[1.0], [2.0]], [[3.0], [2.0]]))
    1.0
    """

    labels = "same"

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.multiply(ops.mean_squared_error(y_pred, y_true), 0.5)


class MeanAbsoluteError(Loss):
    """|y_true − y_pred|, the mean over the last axis. y_true, y_pred: (N, …, k)."""

    labels = "same"

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.abs(ops.subtract(y_pred, y_true)), axis=-1)


class Huber(Loss):
    """½e² where |e| ≤ delta, else delta·(|e| − ½delta); e = y_pred − y_true, the mean over the last axis.

    Huber, Annals of Mathematical Statistics 35, 1964.
    """

    labels = "same"

    def __init__(self, delta: float = 1.0, name: str | None = None) -> None:
        super().__init__(name)
        self.delta = delta

    def call(self, y_true: Any, y_pred: Any) -> Any:
        error = ops.abs(ops.subtract(y_pred, y_true))
        inner = ops.minimum(error, self.delta)  # ½·inner² + delta·(error − inner) is both branches at once
        outer = ops.multiply(ops.subtract(error, inner), self.delta)
        return ops.mean(ops.add(ops.multiply(ops.square(inner), 0.5), outer), axis=-1)


class Hinge(Loss):
    """max(1 − y·p, 0), the mean over the last axis; y is −1 or 1 (0 counts as −1)."""

    labels = "same"

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_true = ops.where(ops.equal(y_true, 0.0), -1.0, y_true)
        return ops.mean(ops.maximum(ops.subtract(1.0, ops.multiply(y_true, y_pred)), 0.0), axis=-1)


class KLDivergence(Loss):
    """Σ y·log(y/p) over the last axis, y and p clipped to [ε, 1]. y_true, y_pred: (N, …, classes)."""

    labels = "same"

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y, p = ops.clip(y_true, _EPSILON, 1.0), ops.clip(y_pred, _EPSILON, 1.0)
        return ops.sum(ops.multiply(y, ops.subtract(ops.log(y), ops.log(p))), axis=-1)


class Dice(Loss):
    """1 − 2 Σ y·p / (Σ y + Σ p + ε), ε = 1e-7: the share of labels and predictions that do not overlap.

    y_true, y_pred: (N, …, classes), y_pred probabilities; or y_true class numbers (N, …). axis: the sums' axes; None
    is all of them, so that the batch has one value, and sample weights have no meaning; (1, 2, 3) gives one per image,
    (0, 1, 2) one per class. Milletari et al., arXiv 1606.04797, without its squares.

    >>> from wdfast import losses
    >>> round(float(losses.Dice()([[1.0, 0.0]], [[0.5, 0.5]])), 4)
    0.5
    """

    def __init__(self, axis: int | Sequence[int] | None = None, name: str | None = None) -> None:
        super().__init__(name)
        self.axis = axis

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_true = self.one_hot(y_true, y_pred)
        both = ops.sum(ops.multiply(y_true, y_pred), axis=self.axis)
        each = ops.add(ops.sum(y_true, axis=self.axis), ops.sum(y_pred, axis=self.axis))
        return ops.subtract(1.0, ops.divide(ops.multiply(both, 2.0), ops.add(each, _EPSILON)))


# Keras' functions: one value per sample, with the default arguments of the class.
sparse_categorical_crossentropy = SparseCategoricalCrossentropy().values
categorical_crossentropy = CategoricalCrossentropy().values
binary_crossentropy = BinaryCrossentropy().values
mean_squared_error = MeanSquaredError().values
mean_absolute_error = MeanAbsoluteError().values
huber = Huber().values
hinge = Hinge().values
kl_divergence = KLDivergence().values
dice = Dice().values

_CLASSES: dict[str, type[Loss]] = {
    cls.__name__: cls
    for cls in (SparseCategoricalCrossentropy, CategoricalCrossentropy, BinaryCrossentropy, MeanSquaredError,
                HalfMeanSquaredError, MeanAbsoluteError, Huber, Hinge, KLDivergence, Dice)
}
_CLASSES |= {
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy, "binary_crossentropy": BinaryCrossentropy,
    "mean_squared_error": MeanSquaredError, "mse": MeanSquaredError, "MSE": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError, "mae": MeanAbsoluteError, "MAE": MeanAbsoluteError,
    "half_mean_squared_error": HalfMeanSquaredError, "half_mse": HalfMeanSquaredError,
    "huber": Huber, "hinge": Hinge, "kl_divergence": KLDivergence, "kld": KLDivergence, "dice": Dice,
}


def names() -> frozenset[str]:
    """The names that `get` knows."""
    return frozenset(_CLASSES)


def get(identifier: Any) -> Loss:
    """A loss from a name ("mse"), a config, a class, an instance, or a function (y_true, y_pred) of ops.

    Raises ValueError for an unknown name.

    >>> from wdfast import losses
    >>> losses.get("binary_crossentropy").from_logits
    False
    """
    if isinstance(identifier, Loss):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Loss):
        return identifier()
    if callable(identifier):
        owner = getattr(identifier, "__self__", None)  # one of Keras' functions above
        return owner if isinstance(owner, Loss) else FunctionLoss(identifier)
    return lookup("loss", identifier, _CLASSES)
