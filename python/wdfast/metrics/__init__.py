"""Metrics, as in Keras: `metric(y_true, y_pred)` is that of these arrays, `fit` and `evaluate` tell that of all.

They are ops, so a training program computes them natively beside the loss: means over the samples, or sums that
add up over batches, of which the metric is made at the end of an epoch. A loss serves as a metric, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import losses
from .._measure import Measure, lookup
from .base import FunctionMetric, Metric, SumMetric
from .confusion import (
    AUC,
    F1Score,
    FalseNegatives,
    FalsePositives,
    FBetaScore,
    Precision,
    Recall,
    TrueNegatives,
    TruePositives,
)
from .frechet import frechet_distance
from .means import (
    BinaryAccuracy,
    CategoricalAccuracy,
    MeanAbsoluteError,
    MeanSquaredError,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    TopKCategoricalAccuracy,
)
from .overlap import BinaryIoU, IoU, MeanIoU, OneHotIoU, OneHotMeanIoU

__all__ = [
    "AUC", "BinaryAccuracy", "BinaryIoU", "CategoricalAccuracy", "F1Score", "FBetaScore", "FalseNegatives",
    "FalsePositives", "IoU", "MeanAbsoluteError", "MeanIoU", "MeanSquaredError", "Metric", "OneHotIoU",
    "OneHotMeanIoU", "Precision", "Recall", "SparseCategoricalAccuracy", "SparseTopKCategoricalAccuracy",
    "SumMetric", "TopKCategoricalAccuracy", "TrueNegatives", "TruePositives", "check_name", "confusion_matrix",
    "frechet_distance", "get",
]


_CLASSES: dict[str, type[Metric]] = {
    cls.__name__: cls
    for cls in (SparseCategoricalAccuracy, CategoricalAccuracy, BinaryAccuracy, SparseTopKCategoricalAccuracy,
                TopKCategoricalAccuracy, MeanSquaredError, MeanAbsoluteError, Precision, Recall, TruePositives,
                FalsePositives, TrueNegatives, FalseNegatives, AUC, FBetaScore, F1Score, MeanIoU, IoU, BinaryIoU,
                OneHotMeanIoU, OneHotIoU)
}
_CLASSES |= {
    "sparse_categorical_accuracy": SparseCategoricalAccuracy, "categorical_accuracy": CategoricalAccuracy,
    "binary_accuracy": BinaryAccuracy, "top_k_categorical_accuracy": TopKCategoricalAccuracy,
    "sparse_top_k_categorical_accuracy": SparseTopKCategoricalAccuracy,
    "mean_squared_error": MeanSquaredError, "mse": MeanSquaredError, "MSE": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError, "mae": MeanAbsoluteError, "MAE": MeanAbsoluteError,
    "precision": Precision, "recall": Recall, "true_positives": TruePositives, "false_positives": FalsePositives,
    "true_negatives": TrueNegatives, "false_negatives": FalseNegatives, "auc": AUC, "fbeta_score": FBetaScore,
    "f1_score": F1Score, "binary_io_u": BinaryIoU,
}
_ACCURACY = ("accuracy", "acc")


def check_name(name: str) -> None:
    """Raises ValueError if no metric has this name."""
    if name not in _ACCURACY:
        _named(name)


def _named(name: str) -> Metric:
    """A metric, or a loss as one, by its name."""
    if name not in _CLASSES and name in losses.names():
        return FunctionMetric(losses.get(name).values, name)
    return lookup("metric", name, _CLASSES)


def get(identifier: Any, loss: Any = None, output_shape: tuple[int | None, ...] | None = None) -> Metric:
    """A metric from a name, a config, a class, an instance, or a function (y_true, y_pred) of ops.

    "accuracy" is resolved as in Keras: binary after a binary cross-entropy or where the output's last axis
    is 1, else sparse where `loss` takes class numbers, else categorical. After a loss from logits the binary
    threshold is 0. Raises ValueError for an unknown name.

    >>> from wdfast import losses, metrics
    >>> metrics.get("accuracy", losses.SparseCategoricalCrossentropy(), (None, 10))
    <SparseCategoricalAccuracy 'accuracy'>
    """
    if isinstance(identifier, Metric):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Metric):
        return identifier()
    if isinstance(identifier, str):
        metric = _named(identifier) if identifier not in _ACCURACY else _accuracy(loss, output_shape)
        metric.name = identifier  # the key under which it was asked for is the one in the history
        return metric
    if isinstance(identifier, losses.Loss):
        identifier = identifier.values
    if callable(identifier):
        owner = getattr(identifier, "__self__", None)
        return FunctionMetric(identifier, owner.name if isinstance(owner, Measure) else None)
    return lookup("metric", identifier, _CLASSES)


def _accuracy(loss: Any, output_shape: tuple[int | None, ...] | None) -> Metric:
    sparse = getattr(loss, "label_dtype", "float32") == "int32"
    one_output = output_shape is not None and len(output_shape) > 0 and output_shape[-1] == 1
    if isinstance(loss, losses.BinaryCrossentropy) or (one_output and not sparse):
        return BinaryAccuracy(0.0 if getattr(loss, "from_logits", False) else 0.5)
    return SparseCategoricalAccuracy() if sparse else CategoricalAccuracy()


def confusion_matrix(y_true: Any, y_pred: Any, classes: int | None = None, sample_weight: Any = None) -> np.ndarray:
    """Counts[i, j] of samples of class i that were taken for class j, or Σ of their weights; (classes, classes).

    y_pred: class numbers of y_true's shape (N, …), or scores (N, …, classes) with one more axis. Two axes in both are
    (N, classes): one-hot and scores. int64, with weights (N, …) float64. Raises ValueError for shapes that differ and
    for classes out of range.

    >>> from wdfast import metrics
    >>> metrics.confusion_matrix([0, 1, 1], [0, 1, 0])
    array([[1, 0],
           [1, 1]])
    """
    rows, columns = np.asarray(y_true), np.asarray(y_pred)
    scored = [columns] if columns.ndim == rows.ndim + 1 else [y for y in (rows, columns) if y.ndim == 2]
    rows, columns = (
        (_largest(y) if any(y is s for s in scored) else y).astype(np.int64) for y in (rows, columns)
    )
    if rows.shape != columns.shape:
        raise ValueError(f"confusion_matrix: argument 'y_pred': expected shape {rows.shape}, got {columns.shape}")
    both = np.concatenate([rows.ravel(), columns.ravel()])
    if classes is None:
        classes = int(both.max(initial=-1)) + 1
    if both.size and (both.min() < 0 or both.max() >= classes):
        raise ValueError(
            f"confusion_matrix: expected classes from 0 to {classes - 1}, got {both.min()} to {both.max()}"
        )
    index = (rows * classes + columns).ravel()
    if sample_weight is not None:
        sample_weight = np.asarray(sample_weight, np.float64)
        missing = rows.ndim - sample_weight.ndim
        if sample_weight.shape != rows.shape[: sample_weight.ndim]:
            raise ValueError(
                f"confusion_matrix: argument 'sample_weight': expected shape {rows.shape}, got {sample_weight.shape}"
            )
        sample_weight = np.broadcast_to(sample_weight.reshape(*sample_weight.shape, *[1] * missing), rows.shape).ravel()
    return np.bincount(index, sample_weight, minlength=classes**2).reshape(classes, classes)


def _largest(y: np.ndarray) -> np.ndarray:
    return y.argmax(axis=-1) if y.shape[-1] != 1 else y[..., 0]
