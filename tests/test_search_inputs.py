"""What a search cannot do is said before anything is trained, by the name of the argument."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_cases import VALUES, dense, features

from wdfast import data, decay, layers, losses, models, search

X, Y = features()
SEVERAL = [X, X]


def run(build: Any = dense, x: Any = X, y: Any = Y, values: Any = VALUES[:1], **settings: Any) -> search.Result:
    return search.decay(build, x, y, values, **{"folds": 2, "epochs": 1, "verbose": 0, **settings})


def nothing() -> None:
    pass


def plain() -> Any:
    return models.Sequential([layers.Input((4,)), layers.Dense(3)])


def broken() -> Any:
    raise RuntimeError("the user's own error")


def with_nan(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float32)
    values[7] = np.nan
    return values


@pytest.mark.parametrize(("arguments", "message"), [
    ({"values": []}, "'values': expected at least one decay, got none"),
    ({"learning_rates": []}, "'learning_rates': expected numbers above 0"),
    ({"learning_rates": [0.1, 0]}, r"'learning_rates': expected numbers above 0, got \[0.1, 0\]"),
    ({"learning_rates": [-1]}, "'learning_rates': expected numbers above 0"),
    ({"learning_rates": [float("nan")]}, "'learning_rates': expected numbers above 0"),
    ({"epochs": 0}, "'epochs': expected an int ≥ 1, got 0"),
    ({"epochs": 1.5}, "'epochs': expected an int ≥ 1, got 1.5"),
    ({"epochs": "3", "values": None}, "'epochs': expected an int ≥ 1, got '3'"),
    ({"batch_size": 0}, "'batch_size': expected an int ≥ 1, got 0"),
    ({"seeds": 0}, "'seeds': expected an int ≥ 1, got 0"),
    ({"seeds": 1.5}, "'seeds': expected an int ≥ 1, got 1.5"),
    ({"seed": -1}, "'seed': expected an int ≥ 0, got -1"),
    ({"jobs": 0}, "'jobs': expected an int ≥ 1, got 0"),
    ({"jobs": -2}, "'jobs': expected an int ≥ 1, got -2"),
    ({"jobs": 1.5}, "'jobs': expected an int ≥ 1, got 1.5"),
    ({"metric": "val_accuray"}, "'metric': expected one of loss, accuracy, val_loss, val_accuracy, got 'val_accuray'"),
    ({"method": "grit"}, "'method': expected one of grid, halving, gradient, .*, got 'grit'"),
    ({"verbose": 3}, "'verbose': expected 0, 1, 2 or 'auto', got 3"),
    ({"folds": 62}, "at most one fold per sample, got 62 folds of 61 samples"),
    ({"y": Y[:-1]}, "'y': expected 61 samples as in 'x', got 60"),
    ({"y": np.r_[Y[:-1], 3]}, "'y': expected labels from 0 to 2, got 0 to 3"),
    ({"y": np.full(61, 2)}, "'y': expected samples of at least two classes, got only class 2"),
    ({"y": np.full((61, 1), 2)}, "'y': expected samples of at least two classes, got only class 2"),
    ({"y": np.eye(3)[np.full(61, 2)]}, "'y': expected samples of at least two classes, got only class 2"),
    ({"y": np.ones(61, bool)}, "'y': expected samples of at least two classes, got only class True"),
    ({"y": np.zeros(61, int), "validation_split": 0.5}, "'y': expected samples of at least two classes"),
    ({"y": np.zeros(61, int), "validation_data": (X, Y)}, "'y': expected samples of at least two classes"),
    ({"client": "tcp://127.0.0.1:9", "workers": "processes"}, "'workers': with 'client', Dask's workers train"),
    ({"y": with_nan(Y)}, "'y': expected finite numbers"),
    ({"x": with_nan(X)}, "'x': expected finite numbers"),
    ({"x": X[:, :3]}, r"'x': expected \(N, 4\) float32, got \(61, 3\)"),
    ({"x": X[:0], "y": Y[:0]}, "expected at most one fold per sample, got 2 folds of 0 samples"),
    ({"x": 3.0}, "'x': expected arrays with the samples as their first axis"),
    ({"x": []}, "'y': expected 0 samples as in 'x', got 61"),
    ({"x": None}, "'x': expected at least one array, got none"),
    ({"y": None}, "'y': expected labels for the outputs"),
    ({"sample_weight": np.ones(60)}, "'sample_weight': expected 61 weights, got 60"),
    ({"sample_weight": with_nan(np.ones(61))}, "'sample_weight': expected finite numbers"),
    ({"class_weight": {0: float("inf")}}, "'class_weight': expected finite numbers"),
    ({"validation_data": X}, "'validation_data': expected"),
    ({"validation_data": (X[:, :3], Y)}, "'validation_data': expected the shape of 'x'"),
    ({"validation_data": (X.astype(np.uint8), Y)}, "'validation_data': expected the dtype of 'x', float32, got uint8"),
    ({"validation_data": (X, with_nan(Y))}, "'validation_data': expected finite numbers"),
    ({"build": nothing}, "'build': expected it to return a compiled model, got None"),
    ({"build": plain}, "'build': expected it to return a compiled model, got"),
])
def test_values_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(**arguments)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"values": [0.1]}, r"expected a value such as decay.decoupled\(0.01\).*got 0.1"),
    ({"values": 0.1}, "'values': expected a list of decays, got 0.1"),
    ({"values": decay.l2(0.1)}, r"'values': expected a list of decays, got l2\(0.1\)"),
    ({"learning_rates": 0.1}, "'learning_rates': expected a list of numbers, got 0.1"),
    ({"method": 3}, "'method': expected a name or a method, got 3"),
    ({"build": dense()}, "'build': expected a function that returns a compiled model"),
    ({"folds": None}, "'folds': expected an int"),
])
def test_types_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        run(**arguments)


@pytest.mark.parametrize("make", [decay.decoupled, decay.l2, decay.epochs])
def test_a_decay_below_zero(make: Any) -> None:
    with pytest.raises(ValueError, match=r"λ: expected a finite number [>≥] 0, got -1"):
        run(values=[make(-1)])


@pytest.mark.parametrize(("make", "message"), [
    (lambda: search.Halving((0.5, 0.25)), "'rungs': expected rising numbers"),
    (lambda: search.Halving((0, 0.5)), "'rungs': expected rising numbers"),
    (lambda: search.Halving((0.5, 1)), "'rungs': expected rising numbers"),
    (lambda: search.Halving(keep=1), r"'keep': expected in \(0, 1\), got 1"),
    (lambda: search.Gradient(start=0.0), "expected start, rate > 0"),
    (lambda: search.Gradient(rate=0.0), "expected start, rate > 0"),
    (lambda: search.Gradient(every=0), "every ≥ 1"),
])
def test_methods_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_stream_cannot_be_split(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        image.new("RGB", (4, 4)).save(tmp_path / name / "1.png")
    with pytest.raises(ValueError, match="'x': expected arrays, which can be split, got a stream"):
        run(x=data.stream(tmp_path), y=None)


def test_an_error_of_build_is_the_users() -> None:
    with pytest.raises(RuntimeError, match="the user's own error"):
        run(build=broken)


def test_build_has_to_make_a_new_model() -> None:
    model = dense()
    with pytest.raises(TypeError, match="'build': expected a new model at each call"):
        run(build=lambda: model)
    shared = layers.Dense(3)

    def build() -> Any:
        made = models.Sequential([layers.Input((4,)), shared])
        made.compile("sgd", losses.SparseCategoricalCrossentropy(from_logits=True))
        return made

    with pytest.raises(TypeError, match="weights that another model trains"):
        run(build=build, jobs=2)


def test_a_frozen_base_may_be_shared() -> None:
    base = models.Sequential([layers.Input((4,)), layers.Dense(5, "relu"), layers.BatchNormalization()])
    base.trainable = False
    before = [w.copy() for w in base.get_weights()]

    def build() -> Any:
        inputs = layers.Input((4,))
        made = models.Model(inputs, layers.Dense(3)(base(inputs)))
        made.compile("sgd", losses.SparseCategoricalCrossentropy(from_logits=True))
        return made

    run(build=build, values=VALUES, jobs=2)
    for weight, old in zip(base.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_measured_values_may_be_all_the_same() -> None:
    def build() -> Any:
        made = models.Sequential([layers.Input((4,)), layers.Dense(1)])
        made.compile("sgd", "mse")
        return made

    assert len(run(build=build, y=np.ones(61, np.float32)).rows) == 1


def test_decays_by_layer_are_candidates() -> None:
    layered = [decay.per_layer({"dense_1": decay.l2(v)}, default=decay.l2(0.01)) for v in (0.1, 10.0)]
    result = run(values=[*layered, layered[0], decay.none()], folds=3, epochs=3)
    assert len(result.rows) == 3  # the one that was named twice is one
    assert len({row.curves["weight_norm"][:, -1].tobytes() for row in result.rows}) == 3  # the pattern finds its layer


def test_nothing_is_trained_before_an_error() -> None:
    calls = []

    def build() -> Any:
        calls.append(1)
        return dense()

    for arguments in ({"jobs": 0}, {"metric": "nothing"}, {"folds": 99}, {"values": []}, {"y": with_nan(Y)}):
        with pytest.raises(ValueError, match="expected"):
            run(build=build, **arguments)
    assert len(calls) <= 2  # a probe where only the model knows
