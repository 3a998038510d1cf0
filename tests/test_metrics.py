"""Metrics: values against Keras, the meaning of "accuracy", the confusion matrix."""

from __future__ import annotations

import numpy as np
import pytest

from wdfast import graph, layers, losses, metrics, ops
from wdfast._config import serialize

CASES = [
    ("SparseCategoricalAccuracy", {}, "sparse"),
    ("CategoricalAccuracy", {}, "one_hot"),
    ("BinaryAccuracy", {}, "binary"),
    ("BinaryAccuracy", {"threshold": 0.2}, "binary"),
    ("SparseTopKCategoricalAccuracy", {"k": 2}, "sparse"),
    ("TopKCategoricalAccuracy", {"k": 3}, "one_hot"),
    ("MeanSquaredError", {}, "real"),
    ("MeanAbsoluteError", {}, "real"),
]


def data(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    scores = rng.uniform(size=(40, 6)).astype(np.float32)
    labels = rng.integers(0, 6, 40)
    return {
        "sparse": (labels, scores), "one_hot": (np.eye(6, dtype=np.float32)[labels], scores),
        "binary": (rng.integers(0, 2, (40, 6)), scores), "real": (rng.standard_normal((40, 6)), scores),
    }[kind]


@pytest.mark.parametrize(("name", "arguments", "kind"), CASES)
def test_values_are_those_of_keras(keras, rng, name: str, arguments: dict, kind: str) -> None:
    y_true, y_pred = data(kind, rng)
    ours = getattr(metrics, name)(**arguments)
    expected = float(getattr(keras.metrics, name)(**arguments)(y_true, y_pred))
    assert float(ours(y_true, y_pred)) == pytest.approx(expected, rel=1e-5)
    assert ours.values(y_true, y_pred).shape == (40,)
    weight = rng.uniform(0, 2, 40)
    expected = float(getattr(keras.metrics, name)(**arguments)(y_true, y_pred, sample_weight=weight))
    assert float(ours(y_true, y_pred, sample_weight=weight)) == pytest.approx(expected, rel=1e-5)
    assert expected > 0
    assert ours.name == getattr(keras.metrics, name)(**arguments).name


@pytest.mark.parametrize(("name", "arguments", "kind"), CASES)
def test_symbolic_and_config(rng, name: str, arguments: dict, kind: str) -> None:
    metric = getattr(metrics, name)(**arguments)
    label = graph.Tensor((None,) if kind == "sparse" else (None, 6), metric.label_dtype)
    assert metric.values(label, layers.Input((6,))).shape == (None,)
    again = metrics.get(serialize(metric))
    assert type(again) is type(metric)
    assert again.get_config() == metric.get_config()


def test_more_axes() -> None:
    scores = np.zeros((2, 3, 3, 4), np.float32)
    scores[..., 1] = 1
    labels = np.ones((2, 3, 3), np.int64)
    labels[0, 0, 0] = 2
    assert float(metrics.SparseCategoricalAccuracy()(labels, scores)) == pytest.approx(17 / 18)
    np.testing.assert_array_equal(metrics.SparseCategoricalAccuracy().values(labels[..., None], scores),
                                  labels == 1)


@pytest.mark.parametrize(("loss", "shape", "expected", "threshold"), [
    (losses.SparseCategoricalCrossentropy(), (None, 10), metrics.SparseCategoricalAccuracy, None),
    (losses.CategoricalCrossentropy(), (None, 10), metrics.CategoricalAccuracy, None),
    (losses.BinaryCrossentropy(), (None, 1), metrics.BinaryAccuracy, 0.5),
    (losses.BinaryCrossentropy(from_logits=True), (None, 1), metrics.BinaryAccuracy, 0.0),
    (losses.BinaryCrossentropy(), (None, 7), metrics.BinaryAccuracy, 0.5),
    (losses.MeanSquaredError(), (None, 1), metrics.BinaryAccuracy, 0.5),
    (losses.MeanSquaredError(), (None, 10), metrics.CategoricalAccuracy, None),
])
@pytest.mark.parametrize("name", ["accuracy", "acc"])
def test_accuracy_follows_the_loss(loss, shape, expected, threshold, name: str) -> None:
    metric = metrics.get(name, loss=loss, output_shape=shape)
    assert type(metric) is expected
    assert metric.name == name
    assert getattr(metric, "threshold", None) == threshold


def test_get() -> None:
    assert metrics.get("mse").name == "mse"
    assert metrics.get("top_k_categorical_accuracy").k == 5
    made = metrics.BinaryAccuracy(0.3, name="mine")
    assert metrics.get(made) is made
    assert isinstance(metrics.get(metrics.BinaryAccuracy), metrics.BinaryAccuracy)

    def within(y_true, y_pred):
        return ops.less(ops.abs(ops.subtract(y_true, y_pred)), 0.5)

    own = metrics.get(within)
    assert own.name == "within"
    assert float(own([1.0, 2.0], [1.2, 3.0])) == 0.5
    assert metrics.get(losses.mean_squared_error).name == "mean_squared_error"


def test_confusion_matrix(rng) -> None:
    y_true, y_pred = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    counts = metrics.confusion_matrix(y_true, y_pred, 5)
    assert counts.shape == (5, 5)
    for i in range(5):
        for j in range(5):
            assert counts[i, j] == ((y_true == i) & (y_pred == j)).sum()
    scores = np.eye(5, dtype=np.float32)[y_pred]
    np.testing.assert_array_equal(metrics.confusion_matrix(np.eye(5)[y_true], scores, 5), counts)
    assert metrics.confusion_matrix([], []).shape == (0, 0)


def test_frechet_distance(rng) -> None:
    a, turn = rng.normal(size=(500, 3)) * [1, 2, 3] + 5, np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(a, a + np.array([1, 2, 0])) == pytest.approx(5, rel=1e-9)
    b = a.mean(axis=0) + (a - a.mean(axis=0)) * 3  # σ to 3σ: Σ (3σ − σ)²
    assert metrics.frechet_distance(a, b) == pytest.approx(4 * a.var(axis=0, ddof=1).sum(), rel=1e-9)
    b = rng.normal(size=(400, 3))
    far = metrics.frechet_distance(a, b)
    assert metrics.frechet_distance(b @ turn, a @ turn) == pytest.approx(far, rel=1e-9)
    product = np.cov(a.T) @ np.cov(b.T)
    root = np.sqrt(np.linalg.eigvals(product).real).sum()
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2 * root
    assert far == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: metrics.frechet_distance([[1.0]], [[1.0], [2.0]]), r"argument 'a': expected \(N ≥ 2, 1\), got \(1, 1\)"),
    (lambda: metrics.frechet_distance([[1.0], [2.0]], [1.0, 2.0]), r"argument 'b': expected \(N ≥ 2, 1\), got"),
    (lambda: metrics.check_name("acuracy"), "metric: expected one of .*got 'acuracy'"),
    (lambda: metrics.get("acuracy"), "got 'acuracy'"),
    (lambda: metrics.TopKCategoricalAccuracy(k=0), "argument 'k': expected an int ≥ 1, got 0"),
    (lambda: metrics.confusion_matrix([0, 1], [0]), r"argument 'y_pred': expected shape \(2,\), got \(1,\)"),
    (lambda: metrics.confusion_matrix([0, 3], [0, 1], 2), "classes from 0 to 1, got 0 to 3"),
    (lambda: metrics.BinaryAccuracy()([[1, 0]], [[0.5]]), r"argument 'y_true': expected shape \(1, 1\), got \(1, 2\)"),
])
def test_errors(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_known_names() -> None:
    for name in ("accuracy", "acc", "mse", "binary_accuracy"):
        metrics.check_name(name)
