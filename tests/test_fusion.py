"""Fusion changes what runs, never what comes out: graphs in a Program against the same ops one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from wdfast import decay, initializers, layers, losses, models, ops, optimizers, program
from wdfast.graph import subgraph
from wdfast.ops.optimizer_step import TABLE
from wdfast.program import GraphProgram, fuse
from wdfast.steps import Arrays


def planned(outputs: Any, training: bool) -> list[str]:
    """The ops that a Program for these outputs runs."""
    outputs = outputs if isinstance(outputs, list) else [outputs]
    return [step.op for step in fuse(subgraph(outputs), outputs, training=training)]


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def unfused(model: Any, x: np.ndarray) -> list[np.ndarray]:
    """Every node of the model by itself, eagerly, in inference mode."""
    values = {id(model.inputs[0]): x}
    for node in model.nodes:
        given = {name: values.get(id(v), v) for name, v in node.inputs.items()}
        results = ops.call(node.op, given, **node.attrs)
        results = results if isinstance(results, tuple) else (results,)
        values |= {id(t): r for t, r in zip(node.outputs, results, strict=True)}
    return [values[id(t)] for t in model.outputs]


def check(model: Any, x: np.ndarray) -> None:
    given = model.predict(x)
    for y, expected in zip(given if isinstance(given, list) else [given], unfused(model, x), strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "tanh", "elu", "gelu"])
def test_convolution_takes_in_activation_and_pooling(activation: str) -> None:
    x = layers.Input((9, 8, 3))
    conv = layers.Conv2D(5, 3)(x)
    y = layers.MaxPooling2D(2)(layers.Activation(activation)(conv))
    if activation != "gelu":
        assert planned(y, training=True) == ["conv2d"]
    check(models.Model(x, y), image(2, 9, 8, 3))


def test_normalisation_and_dense_take_in_their_activation() -> None:
    x = layers.Input((6,))
    y = layers.Activation("relu")(layers.BatchNormalization()(layers.Dense(7, activation="tanh")(x)))
    assert planned(y, training=True) == ["dense", "batch_norm"]
    check(models.Model(x, y), image(5, 6))


def test_normalisation_takes_in_a_residual_and_the_activation_after_it() -> None:
    x = layers.Input((5, 4, 3))
    trunk = layers.Conv2D(6, 1, activation="relu")(x)
    normed = layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same")(trunk))
    for inputs in ([normed, trunk], [trunk, normed]):
        y = layers.Activation("relu")(layers.Add()(inputs))
        assert planned(y, training=True) == ["dense", "conv2d", "batch_norm"]
        check(models.Model(x, y), image(2, 5, 4, 3))
    # Projected: the first of the two norms takes in the second, and waits for it.
    projected = layers.BatchNormalization()(layers.Conv2D(6, 1)(x))
    y = layers.Activation("relu")(layers.Add()([normed, projected]))
    assert planned(y, training=True) == ["dense", "conv2d", "dense", "batch_norm", "batch_norm"]
    check(models.Model(x, y), image(2, 5, 4, 3))


def test_what_is_no_residual_is_not_taken_in() -> None:
    x = layers.Input((4, 4, 3))
    normed = layers.BatchNormalization()(x)
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)  # is repeated along two axes
    for y in (ops.add(normed, pooled), ops.subtract(normed, x), ops.add(normed, 1.0), ops.add(normed, normed),
              ops.add(layers.Activation("relu")(normed), x)):
        assert "binary" in planned(y, training=True)
        check(models.Model(x, y), image(2, 4, 4, 3))
    assert planned(ops.add(ops.add(normed, x), x), training=True) == ["batch_norm", "binary"]


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_of_a_residual_block_are_those_of_its_parts(frozen: bool) -> None:
    x = layers.Input((4, 4, 3))
    norm = layers.BatchNormalization()
    y = layers.Activation("tanh")(layers.Add()([x, norm(layers.Conv2D(3, 3, padding="same", use_bias=False)(x))]))
    model = models.Model(x, layers.Multiply()([x, y]))  # the gradient of x has come from here when the block adds to it
    norm.trainable = not frozen
    value = image(2, 4, 4, 3)
    w, gamma, beta, mean, variance = model.get_weights()

    def parts(x: Any, w: Any, gamma: Any, beta: Any) -> Any:
        z = ops.batch_norm(ops.conv2d(x, w, padding="same"), gamma, beta, mean, variance, training=not frozen)
        return ops.multiply(x, ops.activation(ops.add(x, z), "tanh"))

    expected, pullback = ops.vjp(parts, value, w, gamma, beta)
    got, model_pullback = model.vjp(value)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    dy = image(*expected.shape)
    dx, *gradients = pullback(dy)
    np.testing.assert_allclose(model_pullback(dy), dx, rtol=1e-4, atol=1e-5)
    for parameter, gradient in zip(model.parameters, gradients[: 1 if frozen else 3], strict=False):
        np.testing.assert_allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-4)


def test_value_that_is_read_twice_stays() -> None:
    x = layers.Input((6,))
    z = layers.Dense(4)(x)
    y = layers.Add()([layers.Activation("relu")(z), z])
    assert planned(y, training=True)[:2] == ["dense", "activation"]
    check(models.Model(x, y), image(5, 6))


def test_value_that_is_an_output_stays() -> None:
    x = layers.Input((6,))
    z = layers.Dense(4)(x)
    y = layers.Activation("relu")(z)
    assert planned([y, z], training=True) == ["dense", "activation"]
    check(models.Model(x, [y, z]), image(5, 6))


def test_a_second_activation_is_not_taken_in() -> None:
    x = layers.Input((6,))
    y = layers.Activation("tanh")(layers.Activation("relu")(layers.Dense(4)(x)))
    assert planned(y, training=True) == ["dense", "activation"]
    check(models.Model(x, y), image(5, 6))


def test_pooling_before_the_activation_is_not_taken_in_after_it() -> None:
    x = layers.Input((8, 8, 3))
    y = layers.Activation("tanh")(layers.MaxPooling2D(2)(layers.Conv2D(5, 3)(x)))
    assert "activation" in planned(y, training=True)
    check(models.Model(x, y), image(2, 8, 8, 3))


def test_dropout_is_gone_in_inference_and_its_readers_count_as_those_of_its_input() -> None:
    x = layers.Input((6,))
    dropped = layers.Dropout(0.5)(layers.Dense(4)(x))
    activated = layers.Activation("relu")(dropped)
    assert planned(activated, training=False) == ["dense"]
    assert planned(activated, training=True) == ["dense", "dropout", "activation"]
    both = layers.Add()([activated, dropped])
    assert planned(both, training=False)[:2] == ["dense", "activation"]
    check(models.Model(x, both), image(5, 6))
    check(models.Model(x, [activated, dropped]), image(5, 6))
    twice = layers.Dropout(0.3)(layers.Dropout(0.5)(x))
    check(models.Model(x, layers.Add()([twice, x])), image(5, 6))


def test_gradients_are_those_of_the_parts() -> None:
    """dy through the fused block, against ops.vjp over its parts."""
    x = layers.Input((9, 9, 3))
    y = layers.MaxPooling2D(2)(layers.Activation("tanh")(layers.Conv2D(5, 3)(x)))
    model = models.Model(x, y)
    value = image(2, 9, 9, 3)
    w, b = model.get_weights()

    def parts(x: Any, w: Any, b: Any) -> Any:
        return ops.max_pool2d(ops.activation(ops.conv2d(x, w, b), "tanh"), 2)

    expected, pullback = ops.vjp(parts, value, w, b)
    got, model_pullback = model.vjp(value)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    dy = image(*expected.shape)
    dx, dw, db = pullback(dy)
    np.testing.assert_allclose(model_pullback(dy), dx, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.parameters[0].grad, dw, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.parameters[1].grad, db, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model_pullback(2 * dy), 2 * dx, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.parameters[0].grad, 3 * dw, rtol=1e-4, atol=3e-4)


def test_value_from_outside_the_graph() -> None:
    x, other = layers.Input((6,)), layers.Input((6,))
    program = GraphProgram(3, training=False)
    program.feed(x)
    with pytest.raises(ValueError, match="does not depend on the model's inputs"):
        program.emit([ops.add(x, other)])


# ---- the step of a matrix by the factors of its gradient ------------------------------------------------


def three_dense(bias: bool = True) -> models.Model:
    with initializers.seeded(5):
        x = layers.Input((40,))
        hidden = layers.Dense(96, "tanh", use_bias=bias)(x)
        return models.Model(x, layers.Dense(3)(layers.Dense(64, "relu")(hidden)))


def trained(model: models.Model, optimizer: Any, precision: str = "highest") -> tuple[list[np.ndarray], Any]:
    """Weights and losses after four epochs, the last batch of each smaller."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((100, 40)).astype(np.float32), rng.integers(0, 3, 100)
    model.compile(optimizer, losses.SparseCategoricalCrossentropy(from_logits=True), precision=precision)
    history = model.fit(x, y, batch_size=32, epochs=4, verbose=0, seed=1)
    return model.get_weights(), history.history


def matrices_by_factors(model: models.Model) -> int:
    step = model._step(Arrays([np.zeros((8, 40), np.float32)], [np.zeros(8, np.int32)]), 8, training=True, rows=False)
    return sum(bool(run.factors) for run in step.plan.runs)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "AdamW": lambda: optimizers.AdamW(1e-2),
    "momentum, l2": lambda: optimizers.SGD(1e-2, momentum=0.9, decay=decay.l2(1e-3)),
    "l1": lambda: optimizers.Adam(1e-3, decay=decay.l1(1e-4)),
    "proximal": lambda: optimizers.Adam(1e-3, decay=decay.l1(1e-4, proximal=True)),
    "towards the first weights": lambda: optimizers.SGD(1e-2, decay=decay.toward(None, 0.1)),
    "average": lambda: optimizers.AdamW(1e-2, use_ema=True),
    "accumulated": lambda: optimizers.AdamW(1e-2, gradient_accumulation_steps=2),
    "bfloat16 state": lambda: optimizers.AdamW(1e-2, state_dtype="bfloat16"),
}
SUMMED: dict[str, Callable[[], Any]] = {  # over other parts of the matrix: in the last digits
    "clipped by the norm of all": lambda: optimizers.AdamW(1e-2, global_clipnorm=0.1),
    "constrained": lambda: optimizers.AdamW(1e-2, decay=decay.constrained(0.9)),
    "stable": lambda: optimizers.AdamW(1e-2, decay=decay.stable(5e-2)),
    "bounded": lambda: optimizers.SGD(1e-1, decay=decay.max_norm(0.5)),
}


@pytest.mark.parametrize("name", [*OPTIMIZERS, *SUMMED])
def test_a_matrix_stepped_by_factors_ends_where_its_gradient_would_take_it(name: str, isa: str,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    make = (OPTIMIZERS | SUMMED)[name]
    weights, history = trained(three_dense(), make())
    monkeypatch.setattr(program, "_BY_FACTORS", 1000)
    model = three_dense()
    got, told = trained(model, make())
    assert matrices_by_factors(model) == 2  # (40, 96) and (96, 64); three outputs are no whole vector
    for a, b in zip(weights, got, strict=True):
        if name in OPTIMIZERS:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(told["loss"], history["loss"], rtol=1e-5)
    np.testing.assert_allclose(told["penalty"], history["penalty"], rtol=1e-5)


def test_a_matrix_keeps_its_gradient_where_factors_are_not_all_there_is_to_it(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_BY_FACTORS", 1000)
    model = three_dense(bias=False)  # nothing but the first matrix asks for the gradient of what it makes
    before = model.get_weights()[0]
    after, _ = trained(model, optimizers.SGD(1e-1))
    assert matrices_by_factors(model) == 1
    assert not np.array_equal(before, after[0])
    shared = layers.Dense(40, "tanh")
    x = layers.Input((40,))
    twice = models.Model(x, layers.Dense(3)(shared(shared(x))))
    trained(twice, optimizers.SGD(1e-1))
    assert matrices_by_factors(twice) == 0
    medium = three_dense()
    trained(medium, optimizers.SGD(1e-1), precision="medium")
    assert matrices_by_factors(medium) == 0
    frozen = three_dense()
    next(layer for layer in frozen.layers if layer.parameters).trainable = False
    weights = frozen.get_weights()
    after, _ = trained(frozen, optimizers.SGD(1e-1))
    assert matrices_by_factors(frozen) == 1
    np.testing.assert_array_equal(after[0], weights[0])


def test_a_pullback_makes_the_gradient_of_every_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients() -> list[np.ndarray]:
        model = three_dense()
        y, pullback = model.vjp(np.ones((5, 40), np.float32))
        pullback(np.ones_like(y))
        return [p.grad.copy() for p in model.parameters]

    expected = gradients()
    monkeypatch.setattr(program, "_BY_FACTORS", 1000)
    for got, want in zip(gradients(), expected, strict=True):
        assert want.any()
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("x", "dy", "match"), [
    ((4, 3), None, "arguments 'x' and 'dy': both or none"), ((4, 3), (5, 16), "with as many rows"),
    ((4, 3), (4, 15), "out a multiple of"), ((4, 2), (4, 16), "expected the one matrix"),
])  # fmt: skip
def test_factors_that_are_none_are_refused(x: Any, dy: Any, match: str) -> None:
    table = np.zeros((1, len(TABLE)))
    table[0, TABLE.index("length")] = 48
    arrays = {name: None if shape is None else np.ones(shape, np.float32) for name, shape in {"x": x, "dy": dy}.items()}
    with pytest.raises(ValueError, match=match):
        ops.optimizer_step(np.ones(48, np.float32), None, table, [0.1, 1, 1, 1], **arrays)
