"""Networks and data of every kind that a search trains, and one of its cells trained by `Model.fit` alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from wdfast import decay, initializers, layers, losses, models, optimizers, schedules, search
from wdfast.layers.base import numbered_anew
from wdfast.search.cell import _sha
from wdfast.steps import Augment

VALUES = [decay.none(), decay.decoupled(0.1), decay.epochs(2)]


class Case(NamedTuple):
    """What a search is given: `samples` is a multiple of neither the folds nor the batch size."""

    build: Callable[[], Any]
    x: Any
    y: Any
    settings: dict[str, Any]


def images(samples: int, dtype: Any = np.float32, shape: tuple[int, ...] = (8, 8, 1)) -> np.ndarray:
    x = np.random.default_rng(1).integers(0, 256, (samples, *shape)).astype(dtype)
    return x if dtype == np.uint8 else x / np.float32(255)


def classes(samples: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(2).permutation(samples) % count


def dense(units: int = 5, outputs: int = 3, features: int = 4) -> Any:
    """A small classifier; what most tests of a search need."""
    model = models.Sequential([layers.Input((features,)), layers.Dense(units, "relu"), layers.Dense(outputs)])
    model.compile(optimizers.AdamW(0.02), losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    return model


def features(samples: int = 61) -> tuple[np.ndarray, np.ndarray]:
    """Data for `dense`: three classes that overlap."""
    y = classes(samples)
    x = np.random.default_rng(3).standard_normal((samples, 4)).astype(np.float32)
    x[:, :3] += 1.5 * np.eye(3, dtype=np.float32)[y]
    return x, y


def _convolutional() -> Any:
    model = models.Sequential([
        layers.Input((8, 8, 1)), layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization(),
        layers.Activation("relu"), layers.MaxPooling2D(2), layers.Flatten(), layers.Dropout(0.3), layers.Dense(3)])
    model.compile(optimizers.SGD(schedules.CosineDecay(0.05, 20), momentum=0.9),
                  losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    return model


def _regression() -> Any:
    model = models.Sequential([layers.Input((4,)), layers.Dense(6, "tanh"), layers.GaussianNoise(0.1), layers.Dense(1)])
    model.compile(optimizers.Adam(0.02), "mse", ["mae"])
    return model


def _two_inputs() -> Any:
    one, two = layers.Input((4,)), layers.Input((2,))
    joined = layers.Concatenate()([layers.Dense(3, "relu")(one), two])
    model = models.Model([one, two], layers.Dense(3)(layers.Dropout(0.2)(joined)))
    model.compile(optimizers.AdamW(0.02), losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    return model


def _two_outputs() -> Any:
    x = layers.Input((4,))
    hidden = layers.Dense(5, "relu")(x)
    model = models.Model(x, [layers.Dense(3)(hidden), layers.Dense(1)(hidden)])  # their names are made up
    model.compile("adam", [losses.SparseCategoricalCrossentropy(from_logits=True), "mse"])
    return model


def _cases() -> dict[str, Case]:
    x, y = features()
    weights = np.random.default_rng(4).uniform(0.5, 2, 61).astype(np.float32)
    target = x @ np.arange(1, 5, dtype=np.float32)
    pixels = np.random.default_rng(5).integers(0, 256, (61, 8, 8, 1)).astype(np.uint8)
    return {
        "dense": Case(dense, x, y, {}),
        "sample weights": Case(dense, x, y, {"sample_weight": weights}),
        "class weights": Case(dense, x, y, {"class_weight": {0: 3.0, 2: 0.5}}),
        "in order": Case(dense, x, y, {"shuffle": False}),
        "images": Case(_convolutional, images(61), y, {"augment": Augment(flip=True, crop=1, cutout=2)}),
        "mixup": Case(_convolutional, images(61), y, {"augment": Augment(mixup=0.4)}),
        "uint8": Case(_convolutional, pixels, y, {}),
        "regression": Case(_regression, x, target, {}),
        "two inputs": Case(_two_inputs, [x, x[:, :2].copy()], y, {}),
        "two outputs": Case(_two_outputs, x, [y, target], {"metric": "val_loss"}),
    }


CASES = _cases()


def rows(value: Any, index: np.ndarray) -> Any:
    """The same rows of each array."""
    return [part[index] for part in value] if isinstance(value, list) else value[index]


def alone(case: Case, value: Any, split: search.Split, *, epochs: int, batch_size: int, seed: int) -> tuple[Any, Any]:
    """The model and the history of one training by `Model.fit` on copies of its rows."""
    settings = dict(case.settings)
    settings.pop("metric", None)
    weights = settings.pop("sample_weight", None)
    held = [rows(case.x, split.held_out), rows(case.y, split.held_out)]
    if weights is not None:
        settings["sample_weight"] = weights[split.train]
        held.append(weights[split.held_out])
    with initializers.seeded(seed), numbered_anew():
        model = case.build()
    model._set_optimizer(model.optimizer.fresh(decay=value))
    history = model.fit(rows(case.x, split.train), rows(case.y, split.train), batch_size, epochs, verbose=0, seed=seed,
                        validation_data=tuple(held), validation_batch_size=512, **settings)
    return model, history.history


def digest(model: Any) -> str:
    """What an outcome says of the weights."""
    return _sha(*(p.value for p in model.parameters))


class Outcomes:
    """A method that does what another does, and keeps the outcomes."""

    def __init__(self, method: Any = None) -> None:
        self.method = method or search.Grid()

    def run(self, under_way: Any, candidates: Any) -> None:
        self.search = under_way
        self.method.run(under_way, candidates)

    def of(self, value: Any, seed: int = 0, fold: int = 0) -> Any:
        """The outcome of a cell."""
        (found,) = (o for c, o in self.search.outcomes.items()
                    if (c.candidate.decay, c.seed, c.fold, c.epochs) == (value, seed, fold, self.search.problem.epochs))
        return found
