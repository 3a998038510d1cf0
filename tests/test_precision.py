"""precision="medium" and "high": what is rounded, how far results are from float64, and that training bears it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import EPS32, ROUNDINGS, assert_close, assert_same_bits

from wdfast import _native, datasets, layers, losses, models, ops, optimizers, utils
from wdfast.ops._precision import round_bfloat16

ROUNDS = [isa for isa in _native.supported_isas() if isa in ("avx512_bf16", "amx")]
"""Instruction sets with bfloat16 products; the others take float32, which is always allowed."""


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# Sliding sums and plain products, which round each factor once; odd sizes leave a pair half empty.
DIRECT: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "dense": (ops.dense, (normal(37, 301), normal(301, 129, seed=1), normal(129, seed=2))),
    "dense, long": (ops.dense, (normal(16, 8201), normal(8201, 17, seed=1))),
    "dense, many rows": (ops.dense, (normal(5001, 5), normal(5, 3, seed=1), normal(3, seed=2))),
    "matmul": (ops.matmul, (normal(3, 53, 65), normal(3, 65, 33, seed=1))),
    "matmul, broadcast": (ops.matmul, (normal(4, 17, 9), normal(9, 70, seed=1))),
    "conv2d 3 channels": (ops.conv2d, (normal(2, 9, 11, 3), normal(3, 3, 3, 17, seed=1))),
    "conv2d 16 channels": (lambda *a, **k: ops.conv2d(*a, padding="same", **k),
                           (normal(2, 9, 11, 16), normal(3, 2, 16, 16, seed=1), normal(16, seed=2))),
    "conv2d strided": (lambda *a, **k: ops.conv2d(*a, stride=2, padding="same", **k),
                       (normal(2, 12, 13, 15), normal(3, 3, 15, 33, seed=1))),
    "conv2d 1x1 strided": (lambda *a, **k: ops.conv2d(*a, stride=2, **k),
                           (normal(2, 11, 12, 32), normal(1, 1, 32, 64, seed=1))),
    "conv2d dilated": (lambda *a, **k: ops.conv2d(*a, dilation=(2, 3), **k),
                       (normal(1, 15, 17, 6), normal(3, 2, 6, 80, seed=1))),
}  # fmt: skip
WINOGRAD = (normal(2, 13, 15, 32), normal(3, 3, 32, 48, seed=1))


def results(op: Callable[..., Any], arrays: tuple[np.ndarray, ...], dy: np.ndarray | None = None,
            **attrs: Any) -> list[np.ndarray]:  # fmt: skip
    y, pullback = ops.vjp(lambda *a: op(*a, **attrs), *arrays)
    return [y, *pullback(normal(*y.shape, seed=9) if dy is None else dy)]


@pytest.mark.parametrize("name", DIRECT)
def test_medium_is_float32_arithmetic_on_rounded_factors(name: str, isa: str) -> None:
    """y, dx and dw from x, w and dy rounded to bfloat16; biases, their gradients and all sums are float32."""
    op, arrays = DIRECT[name]
    shape = op(*arrays).shape
    dy = normal(*shape, seed=9)
    medium = results(op, arrays, dy, precision="medium")
    if isa in ROUNDS:
        rounded = (round_bfloat16(arrays[0]), round_bfloat16(arrays[1]), *arrays[2:])
        expected = results(op, rounded, round_bfloat16(dy))
        expected[3:] = results(op, arrays, dy)[3:]
        assert not np.array_equal(medium[0], op(*arrays))
    else:
        expected = results(op, arrays, dy)
    terms = max(*(a.size // a.shape[-1] for a in arrays[:2]), dy.size // shape[-1])
    for what, got, want in zip(("y", "dx", "dw", "db"), medium, expected, strict=False):
        tolerance = EPS32 * ROUNDINGS * np.sqrt(terms) * np.abs(want).max()
        assert_close(got, want.astype(np.float64), tolerance, f"{what} of {name} on {isa}")


def patches(x: np.ndarray) -> np.ndarray:
    """The 3 × 3 surroundings of each pixel, zeros at the edge, as the rows of a matrix."""
    n, height, width, channels = x.shape
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [wide[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.concatenate(parts, axis=-1).reshape(n * height * width, 9 * channels)


@pytest.mark.parametrize("channels", [32, 64, 160])
def test_highest_is_within_twice_the_error_of_a_float32_blas(channels: int, isa: str) -> None:
    x, w = np.maximum(normal(2, 16, 12, channels), 0), normal(3, 3, channels, channels, seed=1)
    dy = normal(*x.shape, seed=9)

    def by_products(*arrays: np.ndarray) -> list[np.ndarray]:
        image, kernel, gradient = arrays
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        flat = gradient.reshape(-1, channels)
        return [(patches(image) @ kernel.reshape(-1, channels)).reshape(image.shape),
                (patches(gradient) @ turned.reshape(-1, channels)).reshape(image.shape),
                (patches(image).T @ flat).reshape(kernel.shape)]

    exact = by_products(*(a.astype(np.float64) for a in (x, w, dy)))
    ours = results(ops.conv2d, (x, w), dy, padding="same")
    for what, want, got, blas in zip(("y", "dx", "dw"), exact, ours, by_products(x, w, dy), strict=True):
        ratio = np.linalg.norm(got - want) / np.linalg.norm(blas - want)
        assert 0.1 < ratio < 2, f"{what} of {channels} channels on {isa}: {ratio:.2f} times the error of a BLAS"


def test_through_winograd_the_error_is_below_twice_that_of_a_sliding_sum(isa: str) -> None:
    exact = results(ops.conv2d, WINOGRAD)
    for got, want in zip(results(ops.conv2d, WINOGRAD, precision="medium"), exact, strict=True):
        error = np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))
        if isa in ROUNDS:
            assert 0.002 < error < 0.0055
        else:
            assert error == 0


def test_rounds_to_nearest_and_ties_to_even(isa: str) -> None:
    """x·1 shows the factor: by the definition of the nearest, on the grid of bfloat16 numbers."""
    bits = np.random.default_rng(1).integers(0, 2**32, 4000, np.uint64).astype(np.uint32)
    bits[:1000] = bits[:1000] & 0xFFFF0000 | 0x8000  # ties
    bits[1000:2000] = bits[1000:2000] & 0xFFFF0000 | np.resize([0x7FFF, 0x8001, 0, 0xFFFF], 1000).astype(np.uint32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3.4028235e38, -3.4028235e38, 1.17549435e-38], np.float32)
    x = np.concatenate([bits.view(np.float32), special])
    x = x[(np.abs(x) >= np.finfo(np.float32).tiny) | (x == 0) | np.isnan(x)]  # denormals may count as zero
    y = ops.dense(x[:, None], np.ones((1, 1), np.float32), precision="medium").ravel()
    if isa not in ROUNDS:
        np.testing.assert_array_equal(y, x)
        return
    finite = np.isfinite(x)
    np.testing.assert_array_equal(y[~finite], x[~finite])
    below = (x[finite].view(np.uint32) & 0xFFFF0000).view(np.float32).astype(np.float64)  # towards zero
    ulp = 2.0 ** (np.frexp(np.where(below == 0, 1, below))[1] - 8)
    above = below + np.copysign(ulp, x[finite])
    value = x[finite].astype(np.float64)
    even = (x[finite].view(np.uint32) >> 16 & 1) == 0
    down, up = np.abs(value - below), np.abs(above - value)
    nearest = np.where(value == 0, value, np.where((down < up) | ((down == up) & even), below, above))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(y[finite], nearest.astype(np.float32))


@pytest.mark.parametrize(("op", "arrays"), [DIRECT["dense"], DIRECT["conv2d 16 channels"], (ops.conv2d, WINOGRAD)])
def test_gradient_behind_relu_is_that_of_the_masked_one(op: Callable[..., Any], arrays: tuple[np.ndarray, ...],
                                                        isa: str) -> None:  # fmt: skip
    linear = op(*arrays, precision="medium")
    dy = normal(*linear.shape, seed=9)
    relu = results(op, arrays, dy, precision="medium", activation="relu")
    masked = results(op, arrays, dy * (linear > 0), precision="medium")
    assert_same_bits(relu[0], np.maximum(linear, 0), "y")
    for a, b in zip(relu[1:], masked[1:], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", DIRECT)
def test_high_is_within_1e_5(name: str, isa: str) -> None:
    op, arrays = DIRECT[name]
    for got, want in zip(results(op, arrays, precision="high"), results(op, arrays), strict=True):
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


@pytest.mark.parametrize("op", [ops.dense, ops.matmul])
def test_an_unknown_precision_is_refused(op: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="argument 'precision': expected 'highest', 'high' or 'medium', got 'low'"):
        op(normal(2, 3), normal(3, 4), precision="low")


# ---- models ---------------------------------------------------------------------------------------------


def network(**compiled: Any) -> models.Model:
    utils.set_random_seed(3)
    model = models.Sequential([
        layers.Input((8, 8, 1)), layers.Conv2D(16, 3, padding="same", activation="relu"),
        layers.Conv2D(32, 3, padding="same", activation="relu"), layers.MaxPooling2D(2), layers.Flatten(),
        layers.Dense(10)])  # fmt: skip
    model.compile(optimizers.Adam(learning_rate=3e-3), losses.SparseCategoricalCrossentropy(from_logits=True),
                  **compiled)  # fmt: skip
    return model


def test_a_model_computes_in_the_precision_it_is_compiled_with(isa: str) -> None:
    x, labels = normal(32, 8, 8, 1), np.arange(32, dtype=np.int32) % 10
    outputs, stepped = {}, {}
    for precision in ("highest", "high", "medium"):
        model = network(precision=precision)
        outputs[precision] = model.predict(x)
        model.train_on_batch(x, labels)
        stepped[precision] = model.get_weights()
        assert all(w.dtype == np.float32 for w in stepped[precision])
    assert_same_bits(outputs["high"], outputs["highest"], "high")
    error = np.linalg.norm(outputs["medium"] - outputs["highest"]) / np.linalg.norm(outputs["highest"])
    assert 1e-4 < error < 2e-2 if isa in ROUNDS else error == 0
    same = [np.array_equal(a, b) for a, b in zip(stepped["medium"], stepped["highest"], strict=True)]
    assert all(same) == (isa not in ROUNDS)


def test_an_op_of_a_model_may_ask_for_less_than_the_model(isa: str) -> None:
    x, w = normal(32, 65), normal(65, 33, seed=1)
    inputs = layers.Input((65,))
    model = models.Model(inputs, ops.dense(inputs, w, precision="medium"))
    assert_same_bits(model.predict(x), ops.dense(x, w, precision="medium"), "medium in a model of highest")


def test_training_in_medium_ends_where_float32_ends() -> None:
    """Three epochs of digits: the accuracy is within what another seed makes of it."""
    (x, y), (xv, yv) = datasets.load_digits()
    x, xv = (np.float32(images) / 255 for images in (x, xv))
    accuracy = {}
    for chosen in ("highest", "medium"):
        model = network(precision=chosen)
        model.fit(x, y, batch_size=32, epochs=3, seed=1, verbose=0)
        accuracy[chosen] = np.mean(model.predict(xv).argmax(-1) == yv)
    assert accuracy["highest"] > 0.9
    assert abs(accuracy["medium"] - accuracy["highest"]) < 0.02
