"""Masks of outputs in losses and metrics: what is padding has no part, as in Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from wdfast import layers, losses, metrics, models, ops, optimizers

N, T, TOKENS, CLASSES = 13, 6, 9, 3


def data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of sequences of different lengths, one of them nothing but padding, and a class for each step."""
    tokens = rng.integers(1, TOKENS, (N, T))
    tokens[np.arange(T) >= rng.integers(1, T + 1, (N, 1))] = 0
    tokens[3] = 0
    return tokens, rng.integers(0, CLASSES, (N, T))


CELLS = {
    "simple": lambda layers: layers.SimpleRNN(5, return_sequences=True),
    "gru": lambda layers: layers.GRU(5, return_sequences=True),
    "gru before": lambda layers: layers.GRU(5, return_sequences=True, reset_after=False),
    "lstm": lambda layers: layers.LSTM(5, return_sequences=True),
    "both": lambda layers: layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
}


def tagger(weights: list[np.ndarray] | None = None, masked: bool = True, cell: str = "gru") -> Any:
    model = models.Sequential([
        layers.Input((T,), dtype="int32"), layers.Embedding(TOKENS, 4, mask_zero=masked), CELLS[cell](layers),
        layers.Dense(CLASSES, "softmax")])
    if weights is not None:
        model.set_weights(weights)
    return model


def some_weights(rng: np.random.Generator, cell: str = "gru") -> list[np.ndarray]:
    return [rng.uniform(-0.5, 0.5, p.shape).astype(np.float32) for p in tagger(cell=cell).parameters]


WANTED = ["accuracy", "sparse_top_k_categorical_accuracy"]


@pytest.mark.parametrize("cell", CELLS)
def test_training_is_that_of_keras(keras, rng, cell: str) -> None:
    """Losses, metrics and weights over two epochs of batches with different numbers of steps, evaluation."""
    (x, y), weights = data(rng), some_weights(rng, cell)
    sample_weight = rng.uniform(0.5, 2, (N, T)).astype(np.float32)
    theirs = keras.Sequential([
        keras.layers.Input((T,)), keras.layers.Embedding(TOKENS, 4, mask_zero=True), CELLS[cell](keras.layers),
        keras.layers.Dense(CLASSES, "softmax")])
    theirs.set_weights(weights)
    ours = tagger(weights, cell=cell)
    wanted = ["accuracy", losses.SparseCategoricalCrossentropy(name="ce").values]
    ours.compile(optimizers.SGD(0.5), "sparse_categorical_crossentropy", metrics=wanted)
    theirs.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy",
                   metrics=["accuracy", keras.metrics.SparseCategoricalCrossentropy(name="ce")])
    for weight in (None, sample_weight):
        fitted = [model.fit(x, y, batch_size=7, epochs=2, shuffle=False, verbose=0, sample_weight=weight).history
                  for model in (ours, theirs)]
        np.testing.assert_allclose(fitted[0]["loss"], fitted[1]["loss"], rtol=1e-4)
        np.testing.assert_allclose(fitted[0]["accuracy"], fitted[1]["accuracy"], rtol=1e-6)
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    mine, expected = (model.evaluate(x, y, batch_size=5, return_dict=True, verbose=0) for model in (ours, theirs))
    for name in ("loss", "accuracy", "ce"):
        np.testing.assert_allclose(mine[name], expected[name], rtol=1e-4)


def test_loss_and_metrics_are_means_over_the_steps_that_are_there(rng) -> None:
    (x, y), weights = data(rng), some_weights(rng)
    model = tagger(weights)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy", metrics.MeanIoU(CLASSES,
                                                                     sparse_y_pred=False)])
    measured = model.evaluate(x, y, batch_size=N, return_dict=True)
    p, there = model.predict(x), x != 0
    np.testing.assert_allclose(measured["loss"], -np.log(np.take_along_axis(p, y[..., None], -1))[there].mean(),
                               rtol=1e-5)
    np.testing.assert_allclose(measured["accuracy"], (p.argmax(-1) == y)[there].mean(), rtol=1e-6)
    table = metrics.confusion_matrix(y[there], p.argmax(-1)[there], CLASSES)
    both = np.diag(table)
    np.testing.assert_allclose(measured["mean_io_u"], (both / (table.sum(0) + table.sum(1) - both)).mean(), rtol=1e-6)
    in_batches = model.evaluate(x, y, batch_size=4, return_dict=True)
    np.testing.assert_allclose(in_batches["accuracy"], measured["accuracy"], rtol=1e-6)


def test_labels_of_padding_change_nothing(rng) -> None:
    (x, y), weights = data(rng), some_weights(rng)
    others = np.where(x == 0, (y + 1) % CLASSES, y)
    trained = []
    for labels in (y, others):
        model = tagger(weights)
        model.compile(optimizers.Adam(0.1), "sparse_categorical_crossentropy", metrics=WANTED)
        history = model.fit(x, labels, batch_size=4, epochs=2, seed=0, verbose=0, validation_data=(x, labels))
        trained.append((model.get_weights(), history.history))
    assert trained[0][1] == trained[1][1]
    for a, b in zip(trained[0][0], trained[1][0], strict=True):
        np.testing.assert_array_equal(a, b)
    bare = tagger(weights, masked=False)
    bare.compile("sgd", "sparse_categorical_crossentropy")
    assert bare.test_on_batch(x, y) != bare.test_on_batch(x, others)


def test_a_batch_of_padding_alone(rng) -> None:
    weights = some_weights(rng)
    model = tagger(weights)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x = np.zeros((2, T), np.int32)
    assert model.train_on_batch(x, x) == [0.0, 0.0]
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_masks_are_saved(tmp_path, rng) -> None:
    (x, y), weights = data(rng), some_weights(rng)
    model = tagger(weights)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.save(tmp_path / "m.safetensors")
    again = models.load(tmp_path / "m.safetensors")
    assert again.masks[0] is not None
    assert again.evaluate(x, y) == model.evaluate(x, y)


def test_masks_of_composed_models(rng) -> None:
    (x, y), weights = data(rng), some_weights(rng)
    model = tagger(weights)
    tensor = layers.Input((T,), dtype="int32")
    outer = models.Model(tensor, model(tensor))
    for m in (model, outer):
        m.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    assert outer.evaluate(x, y) == model.evaluate(x, y)
    middle = model.outputs[0].node.inputs["x"]  # a part of it that begins behind the tokens has no mask to tell
    head = models.Model(middle, model.outputs[0])
    assert head.masks == [None]
    head.compile("sgd", "sparse_categorical_crossentropy")
    head.test_on_batch(np.zeros((2, *middle.shape[1:]), np.float32), y[:2])


def test_a_loss_without_a_value_per_step_says_so(rng) -> None:
    (x, y), weights = data(rng), some_weights(rng)
    model = tagger(weights)
    model.compile("sgd", lambda y_true, y_pred: ops.mean(y_pred))
    with pytest.warns(UserWarning, match="the output has a mask, and this has no value per step"):
        model.test_on_batch(x, y)


def test_every_kind_of_metric_leaves_padding_out(rng) -> None:
    """Each equals itself on the steps that are there, given as samples."""
    x, y = data(rng)[0], rng.integers(0, 2, (N, T, 1)).astype(np.float32)
    model = models.Sequential([
        layers.Input((T,), dtype="int32"), layers.Embedding(TOKENS, 4, mask_zero=True),
        layers.Bidirectional(layers.LSTM(5, return_sequences=True)),
        layers.TimeDistributed(layers.Dense(1, "sigmoid"))])
    model.set_weights([rng.uniform(-2, 2, p.shape) if p.size > 1 else [0.1] for p in model.parameters])
    wanted = [metrics.BinaryAccuracy(), metrics.Precision(), metrics.Recall(0.4), metrics.AUC(), metrics.BinaryIoU(),
              metrics.MeanSquaredError(), metrics.F1Score(average="micro", threshold=0.5)]
    model.compile("sgd", losses.BinaryCrossentropy(), metrics=wanted)
    measured = model.evaluate(x, y, batch_size=4, return_dict=True)
    p, there = model.predict(x), x != 0
    assert there.sum() < there.size
    for metric in wanted:
        expected = metric(y[there], p[there])
        np.testing.assert_allclose(measured[metric.name], expected, rtol=1e-5, err_msg=metric.name)
        assert abs(float(metric(y.reshape(-1, 1), p.reshape(-1, 1))) - expected) > 1e-3, "padding would not show"
