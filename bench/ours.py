"""wdfast as a contestant. A step is what a user gets from `model.fit`: gather of the batch, forward, loss,
backward, optimizer and bookkeeping, over the steps of an epoch; building the program is not counted, nor is
the first epoch."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from .. import __version__, callbacks, decay, layers, losses, models, ops, optimizers, search
from ..models import place_parameters
from ..program import GraphProgram
from ..steps import Arrays, Augment
from .nets import (
    BatchNorm,
    Conv,
    CrossEntropy,
    Dense,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Net,
    Recurrent,
    Relu,
    Residual,
    initial_weights,
)
from .peers import Block as BlockBase
from .peers import Peer as PeerBase
from .peers import Predictor as PredictorBase
from .peers import SearchCase
from .peers import Update as UpdateBase


def _layer(layer: Any) -> layers.Layer:
    match layer:
        case Conv(filters, kernel, stride, padding, bias, groups):
            return layers.Conv2D(filters, kernel, strides=stride, padding=padding, use_bias=bias, groups=groups)
        case Dense(units):
            return layers.Dense(units)
        case Recurrent(cell, units):
            return getattr(layers, cell)(units, return_sequences=True)
        case BatchNorm(momentum, epsilon):
            return layers.BatchNormalization(momentum=momentum, epsilon=epsilon)
        case Relu():
            return layers.ReLU()
        case MaxPool(size):
            return layers.MaxPooling2D(size)
        case GlobalAveragePool():
            return layers.GlobalAveragePooling2D()
        case Flatten():
            return layers.Flatten()
    raise TypeError(f"no layer for {layer!r}")


class Network:
    """The graph of a sequence of layers, its parameters in the order of `bench.nets`."""

    def __init__(self, sequence: tuple[Any, ...], shape: tuple[int, ...], weights: list[np.ndarray]) -> None:
        self.labels: Any = None  # the input of a CrossEntropy
        self.parameters: list[Any] = []
        self.input = layers.Input(shape)
        self.output = self._apply(sequence, self.input)
        for parameter, value in zip(self.parameters, weights, strict=True):
            parameter.assign(value)

    def _apply(self, sequence: tuple[Any, ...], x: Any) -> Any:
        for item in sequence:
            if isinstance(item, Residual):
                main = self._apply(item.main, x)
                x = layers.Add()([main, self._apply(item.shortcut, x)])
            elif isinstance(item, CrossEntropy):
                self.labels = layers.Input((), dtype="int32")
                x = ops.softmax_cross_entropy(x, self.labels)
            else:
                layer = _layer(item)
                x = layer(x)
                self.parameters += layer.parameters
        return x

    def weights(self) -> list[np.ndarray]:
        return [p.numpy() for p in self.parameters]


class _Clock(callbacks.Callback):
    """Times epochs after the first, and ends the training when enough were seen."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.epochs, self.begin, self.spent, self.loss = seconds, -1, 0.0, 0.0, 0.0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.epochs += 1
        self.loss = (logs or {})["loss"]
        now = time.perf_counter()
        if self.epochs == 0:
            self.begin = now
        self.spent = now - self.begin
        if self.epochs and self.spent >= self.seconds:
            self.model.stop_training = True


class Peer(PeerBase):
    name = "wdfast"

    @staticmethod
    def version() -> str:
        return __version__

    def build(self, weights: list[np.ndarray]) -> None:
        rule = self.rule
        self.network = Network(self.net.layers, self.net.input_shape, weights)
        self.model = models.Model(self.network.input, self.network.output)
        self.model.compile(
            optimizer=optimizers.AdamW(rule.learning_rate, weight_decay=rule.weight_decay, beta_1=rule.beta_1,
                                       beta_2=rule.beta_2, epsilon=rule.epsilon),
            loss=losses.SparseCategoricalCrossentropy(from_logits=True), precision=self.precision,
        )

    def load(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x.reshape(-1, *x.shape[2:]), y.reshape(-1)
        self.cursor = 0

    def run(self, steps: int) -> float:
        """By `fit`, as it is timed: the steps before the last in one call, the last alone for its loss."""
        order = (self.cursor + np.arange(steps)) % (len(self.x) // self.batch)
        self.cursor = (self.cursor + steps) % (len(self.x) // self.batch)
        for part in (order[:-1], order[-1:]):
            rows = (part[:, None] * self.batch + np.arange(self.batch)).ravel()
            if len(rows):
                history = self.model.fit(self.x[rows], self.y[rows], batch_size=self.batch, epochs=1, shuffle=False,
                                         verbose=0, seed=0)
        return history.history["loss"][-1]

    def timed(self, seconds: float) -> tuple[float, int, float]:
        clock = _Clock(seconds)
        self.model.fit(self.x, self.y, batch_size=self.batch, epochs=2**31 - 1, verbose=0, callbacks=[clock], seed=0)
        steps = clock.epochs * (len(self.x) // self.batch)
        return clock.spent / steps, steps, clock.loss

    def weights(self) -> list[np.ndarray]:
        return self.network.weights()

    def profile(self, steps: int) -> tuple[float, list[tuple[str, str, float, int, float]]]:
        """(seconds a step, (op, pass, FLOP, bytes, seconds a step) of each entry of the Program) of `steps` steps
        in one call, as `fit` makes it."""
        arrays = Arrays([self.x], [self.y])
        step = self.model._step(arrays, self.batch, training=True, rows=True)
        order = np.arange(steps * self.batch, dtype=np.int32) % len(self.x)
        described = step.native.describe()
        spent = np.zeros(len(described))
        begin = time.perf_counter()
        step.run(steps, {step.index: order.reshape(steps, self.batch)}, seconds=spent)
        wall = time.perf_counter() - begin
        return wall / steps, [(*entry, s / steps) for entry, s in zip(described, spent.tolist(), strict=True)]


class Predictor(PredictorBase):
    """A call is `model.predict_on_batch`, from array to array."""

    name = "wdfast"
    version = staticmethod(Peer.version)

    def build(self, weights: list[np.ndarray]) -> None:
        network = Network(self.net.layers, self.net.input_shape, weights)
        self.model = models.Model(network.input, network.output)

    def load(self, x: np.ndarray) -> None:
        self.x, self.cursor = list(x), 0

    def run(self, steps: int) -> float:
        for _ in range(steps):
            self.model.predict_on_batch(self.x[self.cursor])
            self.cursor = (self.cursor + 1) % len(self.x)
        return 0.0

    def outputs(self) -> np.ndarray:
        return self.model.predict_on_batch(self.x[0])


class _Passes:
    """Forward, then backward to the data, the weights or both, in one native Program that reads x and dy where they
    lie, as an op in the middle of a network does."""

    def __init__(self, network: Network, x: np.ndarray, dy: np.ndarray, trained: list[Any], data: bool) -> None:
        program = GraphProgram(len(x), training=True, trained=trained)
        self.native = program.native
        self.dx = np.zeros_like(x) if data else None
        program.assign(network.input, self.native.bind(x, self.dx))
        if network.labels is not None:
            labels = np.arange(len(x), dtype=np.int32) % x.shape[-1]
            program.assign(network.labels, self.native.bind(labels))
        (self.y,) = program.emit([network.output])
        self.native.differentiate([(self.y, self.native.bind(dy))])
        self.native.compile([self.y])

    def seconds(self, part: int, passes: int, threads: int) -> float:
        """Of `passes` runs; part 0 is forward, 1 backward of the last forward."""
        begin = time.perf_counter()
        self.native.run(passes, {}, {}, part=part, threads=threads)
        return time.perf_counter() - begin


class Block(BlockBase):
    """The layers as `model.fit` would run them: fused, a native Program for each backward pass."""

    name = "wdfast"

    def build(self, weights: list[np.ndarray], x: np.ndarray, dy: np.ndarray) -> None:
        network = Network(self.layers, self.shape, weights)
        self.parameters = [p for p in network.parameters if p.trainable]
        place_parameters(network.parameters)
        self.programs = [_Passes(network, x, dy, self.parameters * trains, data)
                         for data, trains in self.backward.values()]

    def seconds(self, passes: int) -> tuple[float, ...]:
        spent = [self.programs[0].seconds(0, passes, self.threads)]
        for program in self.programs[1:]:
            program.seconds(0, 1, self.threads)
        spent += [program.seconds(1, passes, self.threads) for program in self.programs]
        return tuple(s / passes for s in spent)

    def results(self) -> tuple[np.ndarray, list[np.ndarray]]:
        for part in (0, 1):
            for program in self.programs:
                program.seconds(part, 1, self.threads)
        gradients = [program.dx.copy() for program in self.programs if program.dx is not None]
        return self.programs[0].native.read(self.programs[0].y), gradients + [p.grad.copy() for p in self.parameters]


class Epoch:
    """`model.fit` for one epoch, the images augmented in the input pass."""

    variants = ("",)
    version = staticmethod(Peer.version)

    def __init__(self, net: Net, data: tuple[np.ndarray, np.ndarray], batch: int, crop: int, threads: int,
                 variant: str) -> None:
        self.data, self.batch, self.variant = data, batch, variant
        self.augment = Augment(flip=True, crop=crop)
        self.peer = Peer(net, initial_weights(net.layers, net.input_shape), batch, threads)

    def augmented(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(images (count, H, W, C) as the net gets them, their rows in the data)."""
        rows = np.random.default_rng(0).permutation(len(self.data[0]))[:count].astype(np.int32)
        native = GraphProgram(count, training=True).native
        index = native.feed([count], "int32")
        inputs = [native.bind(self.data[0]), index, -1, -1]
        (images,) = native.op("gather_images", inputs, {"scale": 1.0, **asdict(self.augment)})
        native.compile([images])
        native.run(1, {index: rows[None]}, {})
        return native.read(images), rows

    def epoch(self) -> tuple[float, float]:
        """(seconds, mean loss) of an epoch."""
        begin = time.perf_counter()
        history = self.peer.model.fit(*self.data, batch_size=self.batch, epochs=1, verbose=0, seed=0,
                                      augment=self.augment)
        return time.perf_counter() - begin, history.history["loss"][-1]


class Update(UpdateBase):
    name = "wdfast"

    def build(self, p: np.ndarray, g: np.ndarray) -> None:
        rule = self.rule
        self.p, self.g = p, g
        self.optimizer = optimizers.AdamW(rule.learning_rate, weight_decay=rule.weight_decay, beta_1=rule.beta_1,
                                          beta_2=rule.beta_2, epsilon=rule.epsilon)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.step([self.p], [self.g])

    def value(self) -> np.ndarray:
        return self.p


class Search:
    """`search.decay` as a user calls it."""

    version = staticmethod(Peer.version)

    def __init__(self, case: SearchCase, threads: int, variant: str) -> None:
        self.case, self.threads, self.x = case, threads, case.images
        small = all(isinstance(layer, (Dense, Relu)) for layer in case.net.layers)
        self.variant = "processes" if small else "threads"

    def run(self) -> dict[int, list[float]]:
        """The held-out accuracies of the folds, of every λ (by its place) that was trained to the end."""
        case = self.case

        def build() -> models.Model:
            network = Network(case.net.layers, case.net.input_shape, case.weights)
            model = models.Model(network.input, network.output)
            model.compile(optimizers.AdamW(1e-3), losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
            return model

        values = [decay.decoupled(value) for value in case.lambdas]
        method = search.Halving() if case.halving else "grid"
        result = search.decay(build, self.x, case.y, values, folds=case.splits, epochs=case.epochs,
                              batch_size=case.batch, method=method, jobs=self.threads, workers=self.variant, verbose=0)
        return {values.index(row.candidate.decay): row.scores.tolist()
                for row in result.rows if row.epochs == case.epochs}
