"""Gradients of layers against central differences of their own outputs: no peer is needed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import as_tuple
from test_layers import CASES as PLAIN
from test_layers import RANDOM, label
from test_recurrent_layers import CASES as RECURRENT
from test_recurrent_layers import SHAPE
from test_sequence_layers import CASES as SEQUENCES
from test_sequence_layers import SEQUENCE, sequences

from wdfast import layers, models

# The outputs are float32: their rounding, some 1e-7 of them, divided by the step is far below the tolerance, and so
# is the truncation, the step's square. A kink within the step is seen by slopes that differ on the two sides of it:
# half of their difference is what it adds to the error, and such inputs are drawn again.
STEP, TOLERANCE = 1e-3, 5e-3
PROBES, DRAWS = 3, 16


def slopes(outputs: Callable[[list[np.ndarray]], tuple], arrays: list[np.ndarray], k: int, direction: np.ndarray,
           dys: list[np.ndarray]) -> tuple[float, float, float]:
    """Σ dy·ẏ along `direction` of array k, ahead and behind, and √Σ(dy·ẏ)², about what size it has."""
    behind, here, ahead = (
        [y.astype(np.float64) for y in outputs([a if j != k else (a + signed * direction).astype(np.float32)
                                                for j, a in enumerate(arrays)])]
        for signed in (-STEP, 0, STEP))
    terms = [np.ravel(dy * (b - a)) / (2 * STEP) for dy, a, b in zip(dys, behind, ahead, strict=True)]
    sides = [sum(float(np.sum(dy * (b - a))) / STEP for dy, a, b in zip(dys, *pair, strict=True))
             for pair in ((here, ahead), (behind, here))]
    return sides[0], sides[1], float(np.linalg.norm(np.concatenate(terms)))


def check(layer: Any, draw: Callable[[np.random.Generator], list[np.ndarray]], low: float = -0.5) -> None:
    """The gradients of all float inputs and trainable weights (from [low, 1)) along random directions."""
    def fed(inputs: list[Any]) -> Any:
        return inputs if len(inputs) > 1 else inputs[0]

    first = draw(np.random.default_rng(0))
    made = [layers.Input(a.shape[1:], dtype=str(a.dtype)) for a in first]
    model = models.Model(fed(made), layer(fed(made)))
    count = len(first)
    places = [k for k, a in enumerate(first) if a.dtype == np.float32]
    places += [count + i for i, p in enumerate(model.parameters) if p.trainable]
    assert places
    training = {"training": True} if isinstance(layer, layers.BatchNormalization) else {}

    def outputs(arrays: list[np.ndarray]) -> tuple:
        layer.set_weights(arrays[count:])
        return as_tuple(layer(fed(arrays[:count]), **training))

    for probe, k in itertools.product(range(PROBES), places):
        for seed in range(DRAWS):
            rng = np.random.default_rng([probe, k, seed])
            inputs = draw(rng)
            arrays = [*inputs, *(rng.uniform(low, 1, p.shape).astype(np.float32) for p in model.parameters)]
            ys = outputs(arrays)
            dys = [rng.standard_normal(y.shape).astype(np.float32) for y in ys]
            direction = rng.standard_normal(arrays[k].shape)
            if isinstance(layer, layers.Masking):  # what equals the value is masked there alone
                direction[arrays[k] == layer.mask_value] = 0
            ahead, back, size = slopes(outputs, arrays, k, direction, dys)
            if abs(ahead - back) <= TOLERANCE * size:
                break
        else:
            raise AssertionError(f"array {k}: no inputs without a kink nearby in {DRAWS} draws")
        model.set_weights(arrays[count:])
        model.zero_grad()
        found, pullback = model.vjp(fed(inputs))
        for y, again in zip(ys, as_tuple(found), strict=True):
            np.testing.assert_allclose(again, y, rtol=1e-4, atol=1e-5)
        dxs = as_tuple(pullback(fed(dys)))
        gradient = dxs[k] if k < count else model.parameters[k - count].grad
        assert gradient.shape == direction.shape
        assert size > 0
        error = abs(float(np.sum(gradient * direction)) - (ahead + back) / 2)
        assert error <= TOLERANCE * size, f"array {k}: error {error:.3g} > {TOLERANCE} of {size:.3g}"


def normal(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], list[np.ndarray]]:
    return lambda rng: [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize(("name", "arguments", "shape"), [case for case in PLAIN if case[0] not in RANDOM], ids=label)
def test_layers(name: str, arguments: dict, shape: tuple[int, ...]) -> None:
    check(getattr(layers, name)(**arguments), normal(shape), low=0.2)


@pytest.mark.parametrize(("name", "arguments"), SEQUENCES, ids=label)
def test_layers_of_sequences(name: str, arguments: dict) -> None:
    check(getattr(layers, name)(**arguments),
          normal(SEQUENCE) if name != "Masking" else lambda rng: [sequences(rng)])


@pytest.mark.parametrize(("name", "arguments"), RECURRENT, ids=label)
def test_recurrent_layers(name: str, arguments: dict) -> None:
    check(getattr(layers, name)(**arguments), normal(SHAPE))


@pytest.mark.parametrize("name", ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"])
def test_merges(name: str) -> None:
    check(getattr(layers, name)(), normal((3, 5, 4), (3, 5, 4)))


@pytest.mark.parametrize("layer", [
    lambda: layers.Bidirectional(layers.GRU(3, return_sequences=True)),
    lambda: layers.TimeDistributed(layers.LSTM(3)),
], ids=["both", "each"])
def test_wrappers(layer: Callable[[], Any]) -> None:
    made = layer()
    check(made, normal(SHAPE if isinstance(made, layers.Bidirectional) else (2, *SHAPE[:2], 3)))


def test_embedding() -> None:
    check(layers.Embedding(9, 5), lambda rng: [rng.integers(0, 9, (3, 11)).astype(np.int32)])
