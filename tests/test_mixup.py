"""Mixup: a step on a mixture is that of the mixed inputs and losses; the same again for threads and resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wdfast as wd
from wdfast import callbacks, data, layers, losses, models, optimizers
from wdfast.steps import Augment

RNG = np.random.default_rng(5)
X = RNG.integers(0, 256, (22, 5, 4, 3)).astype(np.uint8)
Y = RNG.integers(0, 3, 22)
W = RNG.uniform(0.5, 2, 22).astype(np.float32)


def linear(loss: Any = None) -> models.Sequential:
    wd.set_seed(1)
    model = models.Sequential([layers.Input((5, 4, 3)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(3)])
    model.compile(optimizers.SGD(0.3), loss or losses.SparseCategoricalCrossentropy(True), ["accuracy"])
    return model


def stepped(model: Any, batch: int, weights: np.ndarray, share: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """Mean loss and the weights after one epoch of SGD on mixtures, in float64."""
    w, b = (p.astype(np.float64) for p in model.get_weights())
    total = 0.0
    for step, begin in enumerate(range(0, len(X), batch)):
        rows = slice(begin, begin + batch)
        x, y, weight, s = X[rows].reshape(-1, 60) / 255, np.eye(3)[Y[rows]], weights[rows], float(share[step])
        x, y = s * x + (1 - s) * x[::-1], s * weight[:, None] * y + (1 - s) * (weight[:, None] * y)[::-1]
        z = x @ w + b
        logp = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        total -= (y * logp).sum()
        slope = (np.exp(logp) * y.sum(axis=1, keepdims=True) - y) / len(x)
        w, b = w - 0.3 * x.T @ slope, b - 0.3 * slope.sum(axis=0)
    return total / len(X), [w, b]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("one_hot", [False, True])
def test_a_step_is_that_of_the_mixture(one_hot: bool, weighted: bool) -> None:
    """Batches of 8, 8 and 6."""
    model = linear(losses.CategoricalCrossentropy(from_logits=True) if one_hot else None)
    augment = Augment(mixup=0.8)
    weights = W if weighted else np.ones_like(W)
    share = augment.shares(7, 0, 3)
    assert ((share >= 0.5) & (share < 0.999)).all()
    loss, expected = stepped(model, 8, weights, share)
    plain = linear()
    plain.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    history = model.fit(X, data.to_categorical(Y, 3) if one_hot else Y, batch_size=8, shuffle=False, seed=7, verbose=0,
                        augment=augment, sample_weight=W if weighted else None).history
    assert history["loss"][0] == pytest.approx(loss, rel=1e-5)
    for got, want, unmixed in zip(model.get_weights(), expected, plain.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-6)
        assert np.abs(unmixed - want).max() > 3e-4


def test_validation_is_not_mixed() -> None:
    model = linear()
    history = model.fit(X, Y, batch_size=8, seed=0, verbose=0, augment=Augment(mixup=1.0),
                        validation_data=(X, Y)).history
    assert [history["val_loss"][-1], history["val_accuracy"][-1]] == pytest.approx(model.evaluate(X, Y), rel=1e-6)


def convolutional() -> models.Sequential:
    wd.set_seed(2)
    model = models.Sequential([layers.Input((5, 4, 3)), layers.Conv2D(4, 3, activation="relu"), layers.Flatten(),
                               layers.Dropout(0.2), layers.Dense(3)])
    model.compile(optimizers.Adam(1e-2), losses.SparseCategoricalCrossentropy(True), ["accuracy"])
    return model


class Stop(callbacks.Callback):
    """Ends a run in the middle of its second epoch, as Ctrl-C would."""

    def __init__(self, at: int | None) -> None:
        self.at, self.seen = at, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen += 1
        if self.seen == self.at:
            import signal

            signal.raise_signal(signal.SIGINT)


def run(folder: Path | None = None, at: int | None = None, seed: int = 4) -> tuple[list[bytes], Any]:
    model = convolutional()
    history = model.fit(X, Y, batch_size=5, epochs=3, seed=seed, verbose=0, checkpoint=folder, callbacks=[Stop(at)],
                        augment=Augment(flip=True, crop=1, mixup=0.4)).history
    return [w.tobytes() for w in model.get_weights()], history


def test_the_same_bits_for_threads_and_after_an_interruption(tmp_path: Path) -> None:
    whole = run()
    for threads in (1, 3):
        wd.set_num_threads(threads)
        assert run() == whole
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, at=7)
    assert run(tmp_path) == whole
    assert run(seed=5)[0] != whole[0]


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match=r"'mixup': expected a finite number ≥ 0, got -0\.1"):
        Augment(mixup=-0.1)
    dense = models.Sequential([layers.Input((4,)), layers.Dense(1)])
    dense.compile("sgd", "mse")
    with pytest.raises(ValueError, match="expected an image input"):
        dense.fit(np.ones((3, 4)), np.ones(3), augment=Augment(flip=True, mixup=0.2), verbose=0)
    words = models.Sequential([layers.Input((4,), dtype="int32"), layers.Embedding(9, 2), layers.Flatten(),
                               layers.Dense(1)])
    words.compile("sgd", "mse")
    with pytest.raises(ValueError, match="mixup: expected float inputs, got integers"):
        words.fit(np.ones((3, 4), np.int32), np.ones(3), augment=Augment(mixup=0.2), verbose=0)


def test_rows_that_are_no_images_mix_too() -> None:
    model = models.Sequential([layers.Input((4,)), layers.Dense(1, use_bias=False)])
    model.compile(optimizers.SGD(0.1), "mse")
    x, y = RNG.normal(size=(6, 4)).astype(np.float32), RNG.normal(size=6).astype(np.float32)
    w = model.get_weights()[0].astype(np.float64)
    s = float(Augment(mixup=2.0).shares(3, 0, 1)[0])
    mixed = s * x + (1 - s) * x[::-1]
    slope = s * (mixed @ w - y[:, None]) + (1 - s) * (mixed @ w - y[::-1, None])
    model.fit(x, y, batch_size=6, shuffle=False, seed=3, verbose=0, augment=Augment(mixup=2.0))
    np.testing.assert_allclose(model.get_weights()[0], w - 0.1 * 2 / 6 * mixed.T @ slope, rtol=1e-4, atol=1e-6)
