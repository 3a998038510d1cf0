"""Layers beside Keras on PyTorch: the same weights and input give the same output and the same gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from support import as_tuple
from test_layers import CASES as PLAIN
from test_layers import RANDOM, label
from test_recurrent_layers import CASES as RECURRENT
from test_recurrent_layers import SHAPE, padding
from test_sequence_layers import CASES as SEQUENCES
from test_sequence_layers import sequences

from wdfast import layers, models


def assert_like_keras(torch: Any, rng: np.random.Generator, model: Any, theirs: Any, arrays: Sequence[np.ndarray],
                      call: Callable[..., Any] | None = None, low: float = -0.5) -> None:
    """Outputs, gradients of float inputs and of weights, all weights drawn from [low, 1). `call` is given tensors."""
    weights = [rng.uniform(low, 1, w.shape).astype(np.float32) for w in theirs.get_weights()]
    assert [p.shape for p in model.parameters] == [w.shape for w in weights]
    model.set_weights(weights)
    theirs.set_weights(weights)
    floats = [a.dtype == np.float32 for a in arrays]
    given = [torch.tensor(a, requires_grad=real) for a, real in zip(arrays, floats, strict=True)]
    expected = as_tuple((call or theirs)(*given))
    ys, pullback = model.vjp(list(arrays) if len(arrays) > 1 else arrays[0])
    dys = [rng.standard_normal(y.shape).astype(np.float32) for y in as_tuple(ys)]
    torch.autograd.backward(expected, [torch.tensor(dy) for dy in dys])
    dxs = as_tuple(pullback(dys if len(dys) > 1 else dys[0]))
    found = [(y, e.detach()) for y, e in zip(as_tuple(ys), expected, strict=True)]
    found += [(dx, g.grad) for dx, g, real in zip(dxs, given, floats, strict=True) if real]
    trained = [p for p in model.parameters if p.trainable]
    found += [(p.grad, v.value.grad) for p, v in zip(trained, theirs.trainable_variables, strict=True)]
    for mine, peer in found:
        scale = peer.abs().max().item()
        assert scale > 0
        np.testing.assert_allclose(mine, peer.numpy(), rtol=1e-5, atol=1e-5 * scale)


def applied(layer: Any, *shapes: tuple[int, ...], dtype: str = "float32") -> Any:
    """The model that is `layer` alone, for arrays of these shapes."""
    made = [layers.Input(shape[1:], dtype=dtype) for shape in shapes]
    return models.Model(made if len(made) > 1 else made[0], layer(made if len(made) > 1 else made[0]))


@pytest.mark.parametrize(("name", "arguments", "shape"), [case for case in PLAIN if case[0] not in RANDOM], ids=label)
def test_layers(keras, torch, rng, name: str, arguments: dict, shape: tuple[int, ...]) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    theirs = getattr(keras.layers, name)(**arguments)
    theirs.build(shape)
    training = {"training": True} if name == "BatchNormalization" else {}
    assert_like_keras(torch, rng, applied(getattr(layers, name)(**arguments), shape), theirs, [x],
                      lambda x: theirs(x, **training), low=0.2)


@pytest.mark.parametrize(("name", "arguments"), SEQUENCES, ids=label)
def test_layers_of_sequences(keras, torch, rng, name: str, arguments: dict) -> None:
    x = sequences(rng)
    theirs = getattr(keras.layers, name)(**arguments)
    theirs.build(x.shape)
    assert_like_keras(torch, rng, applied(getattr(layers, name)(**arguments), x.shape), theirs, [x])


@pytest.mark.parametrize("arguments", [{"input_dim": 9, "output_dim": 5},
                                       {"input_dim": 9, "output_dim": 4, "mask_zero": True}], ids=["plain", "masked"])
def test_embedding(keras, torch, rng, arguments: dict) -> None:
    tokens = rng.integers(0, 9, (3, 11)).astype(np.int32)
    theirs = keras.layers.Embedding(**arguments)
    theirs.build(tokens.shape)
    assert_like_keras(torch, rng, applied(layers.Embedding(**arguments), tokens.shape, dtype="int32"), theirs, [tokens])


MERGES = [("Add", {}, 3), ("Subtract", {}, 2), ("Multiply", {}, 3), ("Average", {}, 3), ("Maximum", {}, 3),
          ("Minimum", {}, 3), ("Concatenate", {}, 3), ("Concatenate", {"axis": 1}, 2)]


@pytest.mark.parametrize(("name", "arguments", "count"), MERGES, ids=label)
def test_merges(keras, torch, rng, name: str, arguments: dict, count: int) -> None:
    arrays = [rng.standard_normal((3, 5, 4)).astype(np.float32) for _ in range(count)]
    theirs = getattr(keras.layers, name)(**arguments)
    model = applied(getattr(layers, name)(**arguments), *[a.shape for a in arrays])
    assert_like_keras(torch, rng, model, theirs, arrays, lambda *given: theirs(list(given)))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("name", "arguments"), RECURRENT, ids=label)
def test_recurrent_layers(keras, torch, rng, name: str, arguments: dict, masked: bool) -> None:
    x, mask = rng.standard_normal(SHAPE).astype(np.float32), padding(rng)
    theirs = getattr(keras.layers, name)(**arguments)
    theirs.build(x.shape)
    made, present = layers.Input(SHAPE[1:]), layers.Input(SHAPE[1:2], dtype="int32")
    y = getattr(layers, name)(**arguments)(made, mask=present if masked else None)
    model = models.Model([made, present] if masked else made, y)
    arrays = [x, mask.astype(np.int32)] if masked else [x]
    assert_like_keras(torch, rng, model, theirs, arrays,
                      lambda x, mask=None: theirs(x, mask=None if mask is None else mask != 0))


@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave", None])
@pytest.mark.parametrize(("name", "arguments"), [("SimpleRNN", {}), ("GRU", {}), ("GRU", {"reset_after": False}),
                                                 ("LSTM", {"return_sequences": True})], ids=label)
def test_bidirectional(keras, torch, rng, name: str, arguments: dict, merge_mode: Any) -> None:
    x = rng.standard_normal(SHAPE).astype(np.float32)
    ours = layers.Bidirectional(getattr(layers, name)(5, **arguments), merge_mode)
    theirs = keras.layers.Bidirectional(getattr(keras.layers, name)(5, **arguments), merge_mode)
    theirs.build(x.shape)
    assert_like_keras(torch, rng, applied(ours, x.shape), theirs, [x])


@pytest.mark.parametrize(("name", "arguments", "shape"), [
    ("Dense", {"units": 6, "activation": "tanh"}, (3, 5, 4)),
    ("Conv2D", {"filters": 4, "kernel_size": 3}, (3, 5, 6, 6, 2)),
    ("LSTM", {"units": 3}, (2, 3, 5, 4)),
], ids=label)
def test_time_distributed(keras, torch, rng, name: str, arguments: dict, shape: tuple[int, ...]) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    ours = layers.TimeDistributed(getattr(layers, name)(**arguments))
    theirs = keras.layers.TimeDistributed(getattr(keras.layers, name)(**arguments))
    theirs.build(shape)
    assert_like_keras(torch, rng, applied(ours, shape), theirs, [x])
