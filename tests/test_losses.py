"""Losses: values and weights against Keras and closed forms, the stable rewriting, shapes, names."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wdfast import graph, layers, losses, ops
from wdfast._config import serialize


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True)).astype(np.float32)


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[labels]


def data(kind: str, rng: np.random.Generator, lead: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    z = rng.standard_normal((*lead, 5)).astype(np.float32)
    labels = rng.integers(0, 5, lead)
    return {
        "sparse": (labels, softmax(z)), "sparse_logits": (labels, z),
        "one_hot": (one_hot(labels, 5), softmax(z)), "one_hot_logits": (one_hot(labels, 5), z),
        "binary": ((z > 0.3).astype(np.float32), softmax(z)), "binary_logits": ((z > 0.3).astype(np.float32), z),
        "real": (rng.standard_normal((*lead, 5)).astype(np.float32), z),
        "signs": (np.where(z > 0.3, 1, -1).astype(np.float32), rng.standard_normal(z.shape).astype(np.float32)),
        "distribution": (softmax(z), softmax(-z)),
    }[kind]


CASES = [
    ("SparseCategoricalCrossentropy", {}, "sparse"),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, "sparse_logits"),
    ("CategoricalCrossentropy", {}, "one_hot"),
    ("CategoricalCrossentropy", {"from_logits": True, "label_smoothing": 0.1}, "one_hot_logits"),
    ("CategoricalCrossentropy", {"label_smoothing": 0.2}, "one_hot"),
    ("BinaryCrossentropy", {}, "binary"),
    ("BinaryCrossentropy", {"label_smoothing": 0.1}, "binary"),
    ("BinaryCrossentropy", {"from_logits": True, "label_smoothing": 0.1}, "binary_logits"),
    ("MeanSquaredError", {}, "real"),
    ("MeanAbsoluteError", {}, "real"),
    ("Huber", {}, "real"),
    ("Huber", {"delta": 0.3}, "real"),
    ("Hinge", {}, "signs"),
    ("Hinge", {}, "binary"),
    ("KLDivergence", {}, "distribution"),
    ("Dice", {"axis": -1}, "one_hot"),
]


@pytest.mark.parametrize("lead", [(7,), (3, 4)])
@pytest.mark.parametrize(("name", "arguments", "kind"), CASES)
def test_value_and_weights_are_those_of_keras(keras, rng, name: str, arguments: dict, kind: str, lead) -> None:
    y_true, y_pred = data(kind, rng, lead)
    ours, theirs = getattr(losses, name)(**arguments), getattr(keras.losses, name)(**arguments)
    result = ours(y_true, y_pred)
    assert result.shape == ()
    assert result.dtype == np.float32
    assert float(result) == pytest.approx(float(theirs(y_true, y_pred)), rel=2e-5)
    values = ours.values(y_true, y_pred)
    assert values.shape == lead
    np.testing.assert_allclose(values, np.asarray(theirs.call(y_true, y_pred)), rtol=2e-4, atol=2e-6)
    weight = rng.uniform(0, 2, lead[0]).astype(np.float32)
    expected = (np.asarray(values) * weight.reshape(-1, *[1] * (len(lead) - 1))).mean()
    assert float(ours(y_true, y_pred, sample_weight=weight)) == pytest.approx(expected, rel=1e-5)
    if len(lead) == 1:
        keras_weighted = float(theirs(y_true, y_pred, sample_weight=weight))
        assert float(ours(y_true, y_pred, sample_weight=weight)) == pytest.approx(keras_weighted, rel=2e-5)


def test_closed_forms() -> None:
    assert float(losses.BinaryCrossentropy(from_logits=True)([[1.0]], [[0.0]])) == pytest.approx(math.log(2))
    assert float(losses.SparseCategoricalCrossentropy()([2], [[0.25, 0.25, 0.5]])) == pytest.approx(math.log(2))
    assert float(losses.MeanSquaredError()([[1.0, 2.0]], [[3.0, 2.0]])) == 2.0
    assert float(losses.Huber()([[0.0, 0.0]], [[0.5, 3.0]])) == pytest.approx((0.125 + 2.5) / 2)
    probabilities = np.array([[0.0, 1.0]], np.float32)  # clipped: finite, and as large as ε allows
    clipped = float(losses.SparseCategoricalCrossentropy()([0], probabilities))
    assert clipped == pytest.approx(-math.log(1e-7), rel=1e-4)
    clipped = float(losses.BinaryCrossentropy()([[1.0]], [[0.0]]))
    assert clipped == pytest.approx(-math.log(1e-7), rel=1e-3)


@pytest.mark.parametrize("convert", [np.float64, list, np.int64])
def test_takes_what_keras_takes(convert) -> None:
    y_true, y_pred = np.array([[1, 0], [0, 1]]), np.array([[1, 1], [2, 0]])
    given = (y.tolist() if convert is list else y.astype(convert) for y in (y_true, y_pred))
    assert float(losses.MeanSquaredError()(*given)) == pytest.approx((0.5 + 2.5) / 2)


@pytest.mark.parametrize(("loss", "activation"), [
    (losses.SparseCategoricalCrossentropy(), "softmax"), (losses.CategoricalCrossentropy(), "softmax"),
    (losses.BinaryCrossentropy(), "sigmoid"),
])
def test_probabilities_of_a_node_become_logits(loss: losses.Loss, activation: str) -> None:
    logits = layers.Input((3,))
    sparse = loss.label_dtype == "int32"
    label = graph.Tensor((None,) if sparse else (None, 3), loss.label_dtype)
    result = loss(label, layers.Activation(activation)(logits))
    nodes = graph.subgraph([result])
    assert [n.op for n in nodes if n.op in ("softmax", "activation", "unary")] == []
    # The same ops on extreme logits: exact where probabilities would have been 0 and 1.
    extreme = np.array([[1000.0, -1000.0, 0.0]], np.float32)
    y = np.array([1]) if sparse else np.array([[0.0, 1.0, 0.0]])
    stable = type(loss)(from_logits=True)(y, extreme)
    expected = 2000.0 if activation == "softmax" else (1000 + 1000 + math.log(2)) / 3
    assert float(stable) == pytest.approx(expected)
    replayed = {id(logits): extreme, id(label): y.astype(loss.label_dtype)}
    for node in nodes:
        inputs = {k: replayed.get(id(v), v) for k, v in node.inputs.items()}
        replayed[id(node.outputs[0])] = ops.call(node.op, inputs, **node.attrs)
    assert float(replayed[id(result)]) == pytest.approx(expected)


def test_probabilities_from_elsewhere_are_clipped() -> None:
    p = layers.Input((3,))
    result = losses.SparseCategoricalCrossentropy()(graph.Tensor((None,), "int32"), p)
    assert result.shape == ()
    cross_entropy = next(n for n in graph.subgraph([result]) if n.op == "softmax_cross_entropy")
    assert cross_entropy.inputs["logits"] is not p  # log(clip(p)) stands between


def test_symbolic_with_weights() -> None:
    p, y, w = layers.Input((4,)), graph.Tensor((None, 4)), graph.Tensor((None,))
    for name in ("mse", "mae", "huber", "hinge", "kl_divergence", "binary_crossentropy", "categorical_crossentropy"):
        loss = losses.get(name)
        assert loss.values(y, p).shape == (None,)
        assert loss(y, p, sample_weight=w).shape == ()


def test_labels_with_a_last_axis_of_one() -> None:
    z = np.array([[1.0, 2.0], [3.0, 0.0]], np.float32)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    np.testing.assert_array_equal(loss.values([[1], [0]], z), loss.values([1, 0], z))
    symbolic = loss.values(graph.Tensor((None, 1), "int32"), layers.Input((2,)))
    assert symbolic.shape == (None,)
    mse = losses.MeanSquaredError()
    assert mse.values([1.0, 2.0], [[1.0], [4.0]]).tolist() == [0.0, 4.0]
    assert losses.BinaryCrossentropy(from_logits=True).values([1, 0], [[0.0], [0.0]]).shape == (2,)


@pytest.mark.parametrize("lead", [(7,), (3, 4)], ids=["samples", "pixels"])
@pytest.mark.parametrize(("name", "arguments", "kind"), CASES)
def test_gradients_are_those_of_keras(keras, torch, rng, name: str, arguments: dict, kind: str, lead) -> None:
    y_true, y_pred = data(kind, rng, lead)
    loss = getattr(losses, name)(**arguments)
    given = torch.tensor(y_pred, requires_grad=True)
    getattr(keras.losses, name)(**arguments)(y_true, given).backward()
    _, pullback = ops.vjp(loss, y_true.astype(loss.label_dtype), y_pred)
    gradient = given.grad.numpy()
    assert np.abs(gradient).max() > 0
    np.testing.assert_allclose(pullback(np.ones((), np.float32))[1], gradient, rtol=1e-5,
                               atol=1e-5 * np.abs(gradient).max())


def formula(name: str, y: np.ndarray, p: np.ndarray, from_logits: bool = False, label_smoothing: float = 0.0,
            delta: float = 1.0, axis: int = -1) -> np.ndarray:
    """The values of a loss, in float64; probabilities lie inside what they are clipped to."""
    e, s = p - y if p.shape == y.shape else None, label_smoothing
    if name.endswith("CategoricalCrossentropy"):
        y = np.eye(p.shape[-1])[y] if name.startswith("Sparse") else y
        q = np.exp(p) if from_logits else p
        return -((y * (1 - s) + s / p.shape[-1]) * np.log(q / q.sum(-1, keepdims=True))).sum(-1)
    if name == "BinaryCrossentropy":
        y, q = y * (1 - s) + s / 2, 1 / (1 + np.exp(-p)) if from_logits else p
        return -(y * np.log(q) + (1 - y) * np.log(1 - q)).mean(-1)
    if name == "KLDivergence":
        return (y * np.log(y / p)).sum(-1)
    if name == "Dice":
        return 1 - 2 * (y * p).sum(axis) / (y.sum(axis) + p.sum(axis) + 1e-7)
    return {
        "MeanSquaredError": e**2, "HalfMeanSquaredError": e**2 / 2, "MeanAbsoluteError": np.abs(e),
        "Huber": np.where(np.abs(e) <= delta, e**2 / 2, delta * (np.abs(e) - delta / 2)),
        "Hinge": np.maximum(1 - np.where(y == 0, -1, y) * p, 0),
    }[name].mean(-1)


@pytest.mark.parametrize("lead", [(7,), (3, 4)], ids=["samples", "pixels"])
@pytest.mark.parametrize(("name", "arguments", "kind"), [*CASES, ("HalfMeanSquaredError", {}, "real")])
def test_gradients(rng, name: str, arguments: dict, kind: str, lead) -> None:
    """Against central differences of the formula: h² of truncation and 1e-16/h of rounding, both far below float32."""
    y_true, y_pred = data(kind, rng, lead)
    loss = getattr(losses, name)(**arguments)
    value, pullback = ops.vjp(loss, y_true.astype(loss.label_dtype), y_pred)
    y, p = y_true if y_true.dtype.kind == "i" else y_true.astype(np.float64), y_pred.astype(np.float64)
    assert float(value) == pytest.approx(formula(name, y, p, **arguments).mean(), rel=1e-5)
    step, numeric = 1e-6, np.zeros_like(p)
    for i in np.ndindex(p.shape):
        moved = np.zeros_like(p)
        moved[i] = step
        ends = [formula(name, y, p + sign * moved, **arguments).mean() for sign in (1, -1)]
        numeric[i] = (ends[0] - ends[1]) / (2 * step)
    # No error lies within the step of a kink: those of |e|, of Huber, of Hinge.
    assert name != "Hinge" or np.abs(1 - np.where(y == 0, -1, y) * p).min() > 10 * step
    scale = np.abs(numeric).max()
    assert scale > 0
    np.testing.assert_allclose(pullback(np.ones((), np.float32))[1], numeric, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("axis", [None, (1, 2, 3), (0, 1, 2), -1])
def test_dice_is_that_of_keras(keras, rng, axis) -> None:
    labels = rng.integers(0, 5, (3, 4, 2))
    p = softmax(rng.standard_normal((3, 4, 2, 5)).astype(np.float32))
    expected = keras.losses.Dice(axis=axis)
    ours = losses.Dice(axis)
    assert float(ours(one_hot(labels, 5), p)) == pytest.approx(float(expected(one_hot(labels, 5), p)), rel=1e-5)
    np.testing.assert_allclose(ours.values(labels, p), np.asarray(expected.call(one_hot(labels, 5), p)), rtol=1e-5)
    symbolic = ours.values(graph.Tensor((None, 4, 2)), layers.Input((4, 2, 5)))
    assert symbolic.shape == {None: (), (1, 2, 3): (None,), (0, 1, 2): (5,), -1: (None, 4, 2)}[axis]


def test_a_function_and_a_class_of_ones_own() -> None:
    def cubic(y_true, y_pred):
        return ops.mean(ops.abs(ops.power(ops.subtract(y_pred, y_true), 3.0)), axis=-1)

    loss = losses.get(cubic)
    assert loss.name == "cubic"
    assert loss.label_dtype == "float32"
    assert float(loss([[1.0], [1.0]], [[3.0], [2.0]])) == pytest.approx(4.5)
    assert float(loss([[1.0], [1.0]], [[3.0], [2.0]], sample_weight=[1, 0])) == pytest.approx(4.0)
    whole = losses.get(lambda y_true, y_pred: ops.mean(ops.square(ops.subtract(y_pred, y_true))))
    assert float(whole([[1.0]], [[3.0]])) == 4.0
    assert whole(graph.Tensor((None, 2)), layers.Input((2,))).shape == ()

    class Own(losses.Loss):
        def call(self, y_true, y_pred):
            return ops.sum(ops.subtract(y_pred, y_true), axis=-1)

    assert float(losses.get(Own)([[1.0, 1.0]], [[2.0, 2.0]])) == 2.0


@pytest.mark.parametrize(("name", "expected"), [
    ("sparse_categorical_crossentropy", "SparseCategoricalCrossentropy"), ("mse", "MeanSquaredError"),
    ("categorical_crossentropy", "CategoricalCrossentropy"), ("binary_crossentropy", "BinaryCrossentropy"),
    ("mean_squared_error", "MeanSquaredError"), ("mae", "MeanAbsoluteError"), ("MSE", "MeanSquaredError"),
    ("huber", "Huber"), ("hinge", "Hinge"), ("kl_divergence", "KLDivergence"), ("Huber", "Huber"),
    ("dice", "Dice"), ("half_mse", "HalfMeanSquaredError"), ("half_mean_squared_error", "HalfMeanSquaredError"),
])
def test_names_of_keras(name: str, expected: str) -> None:
    assert type(losses.get(name)) is getattr(losses, expected)


def test_functions_of_keras() -> None:
    assert isinstance(losses.get(losses.binary_crossentropy), losses.BinaryCrossentropy)
    assert losses.mean_squared_error([[1.0]], [[3.0]]).tolist() == [4.0]


@pytest.mark.parametrize(("name", "arguments", "kind"), CASES)
def test_config_round_trip(name: str, arguments: dict, kind: str) -> None:
    loss = getattr(losses, name)(**arguments)
    again = losses.get(serialize(loss))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    assert arguments.items() <= loss.get_config().items()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: losses.get("mes"), "loss: expected one of .*'mse'.*got 'mes'"),
    (lambda: losses.get(3), "got 3"),
    (lambda: losses.MeanSquaredError()(np.zeros((3, 2)), np.zeros((3, 4))),
     r"MeanSquaredError: argument 'y_true': expected shape \(3, 4\), got \(3, 2\)"),
    (lambda: losses.MeanSquaredError()(np.zeros(3), np.zeros((3, 4))), r"expected shape \(3, 4\), got \(3,\)"),
    (lambda: losses.SparseCategoricalCrossentropy()(np.zeros((3, 4)), np.full((3, 4), 0.25)), "argument 'y_true'"),
    (lambda: losses.MeanSquaredError()(graph.Tensor((None, 3)), layers.Input((4,))), r"expected shape \(N, 4\)"),
    (lambda: losses.MeanSquaredError()([[1.0]], [[1.0]], sample_weight=[1, 2, 3]), "argument 'sample_weight'"),
    (lambda: losses.Dice()([[1.0]], [[1.0]], sample_weight=[1]),
     "Dice: argument 'sample_weight': this loss is one value for the whole batch"),
    (lambda: losses.Dice()([[1.0, 0.0]], [[1.0, 0.0, 0.0]]), "Dice: argument 'y_true': expected shape"),
    (lambda: losses.CategoricalCrossentropy(label_smoothing=2), "argument 'label_smoothing'.*got 2"),
])
def test_errors(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
