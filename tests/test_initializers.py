"""Initializers: variances and limits in closed form, fans, seeds, names, configs."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wdfast import initializers
from wdfast._config import serialize

SHAPE = (3, 3, 40, 60)  # fan_in 360, fan_out 540, 21,600 values
TRUNCATED = 0.87962566103423978


@pytest.mark.parametrize(("shape", "expected"), [
    ((), (1, 1)), ((7,), (7, 7)), ((5, 6), (5, 6)), ((3, 3, 16, 32), (144, 288)), ((2, 3, 4, 5, 6), (120, 144)),
])
def test_fans(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    assert initializers.fans(shape) == expected


@pytest.mark.parametrize(("name", "variance", "limit"), [
    ("glorot_uniform", 2 / 900, math.sqrt(6 / 900)),
    ("glorot_normal", 2 / 900, 2 * math.sqrt(2 / 900) / TRUNCATED),
    ("he_uniform", 2 / 360, math.sqrt(6 / 360)),
    ("he_normal", 2 / 360, 2 * math.sqrt(2 / 360) / TRUNCATED),
    ("lecun_uniform", 1 / 360, math.sqrt(3 / 360)),
    ("lecun_normal", 1 / 360, 2 * math.sqrt(1 / 360) / TRUNCATED),
    ("random_uniform", 0.05**2 / 3, 0.05),
    ("truncated_normal", (0.05 * TRUNCATED) ** 2, 0.1),
    ("random_normal", 0.05**2, math.inf),
    ("variance_scaling", 1 / 360, 2 * math.sqrt(1 / 360) / TRUNCATED),
])
def test_variance_and_limit(name: str, variance: float, limit: float) -> None:
    initializers.set_seed(3)
    values = initializers.get(name)(SHAPE).astype(np.float64)
    n = values.size
    # The sample variance of n normal values has a relative standard error of sqrt(2/n) ≈ 1 %.
    assert values.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / n))
    assert abs(values.mean()) < 5 * math.sqrt(variance / n)
    assert np.abs(values).max() <= limit * (1 + 1e-6)
    assert np.abs(values).max() >= 0.98 * min(limit, 3 * math.sqrt(variance))  # the range is used


@pytest.mark.parametrize("name", ["GlorotUniform", "HeNormal", "LecunNormal", "RandomNormal", "Orthogonal"])
def test_distribution_is_that_of_keras(keras, name: str) -> None:
    shape = (40, 30) if name == "Orthogonal" else SHAPE
    ours = initializers.get(name)(shape)
    theirs = np.asarray(getattr(keras.initializers, name)(seed=1)(shape))
    assert ours.shape == theirs.shape
    assert ours.std() == pytest.approx(theirs.std(), rel=0.05)
    if name not in ("RandomNormal", "Orthogonal"):
        assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.02)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (3, 3, 4, 20)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    w = initializers.Orthogonal(gain=2.0, seed=0)(shape).reshape(-1, shape[-1]).astype(np.float64)
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-5)


def test_constants() -> None:
    np.testing.assert_array_equal(initializers.get("zeros")((2, 3)), np.zeros((2, 3)))
    np.testing.assert_array_equal(initializers.get("ones")((2,)), np.ones(2))
    np.testing.assert_array_equal(initializers.Constant(2.5)((2,)), [2.5, 2.5])
    np.testing.assert_array_equal(initializers.Constant([1, 2])((2, 2)), [[1, 2], [1, 2]])
    np.testing.assert_array_equal(initializers.Identity(3)((2, 3)), [[3, 0, 0], [0, 3, 0]])
    for name in ("zeros", "ones", "he_normal", "orthogonal", "identity"):
        w = initializers.get(name)((4, 4))
        assert w.dtype == np.float32
        assert w.flags.c_contiguous
        assert w.flags.writeable


def test_seeds() -> None:
    initializers.set_seed(11)
    first = [initializers.get("he_normal")((4, 4)) for _ in range(2)]
    initializers.set_seed(11)
    again = [initializers.get("he_normal")((4, 4)) for _ in range(2)]
    initializers.set_seed(12)
    other = initializers.get("he_normal")((4, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other)
    own = initializers.RandomNormal(seed=5)
    np.testing.assert_array_equal(own((3,)), own((3,)))


@pytest.mark.parametrize("made", [
    initializers.Zeros(), initializers.Constant(3.0), initializers.RandomNormal(1.0, 2.0, seed=3),
    initializers.VarianceScaling(2.0, "fan_out", "uniform", seed=1), initializers.HeNormal(seed=2),
    initializers.Orthogonal(0.5, seed=4), initializers.Identity(2.0),
])
def test_config_round_trip(made: initializers.Initializer) -> None:
    again = initializers.get(serialize(made))
    assert type(again) is type(made)
    assert again.get_config() == made.get_config()
    np.testing.assert_array_equal(again((4, 4)), made((4, 4)))


@pytest.mark.parametrize(("name", "expected"), [
    ("zero", "Zeros"), ("one", "Ones"), ("normal", "RandomNormal"), ("uniform", "RandomUniform"),
    ("OrthogonalInitializer", "Orthogonal"), ("IdentityInitializer", "Identity"),
])
def test_aliases_of_keras(name: str, expected: str) -> None:
    assert type(initializers.get(name)) is getattr(initializers, expected)
    assert type(initializers.get({"class_name": name, "config": {}})) is getattr(initializers, expected)


def test_get() -> None:
    made = initializers.HeNormal(seed=1)
    assert initializers.get(made) is made
    assert isinstance(initializers.get("HeNormal"), initializers.HeNormal)
    assert isinstance(initializers.get(initializers.Ones), initializers.Ones)
    own = initializers.get(lambda shape: np.full(shape, 7.0))
    np.testing.assert_array_equal(own((2,)), [7, 7])


@pytest.mark.parametrize(("call", "message"), [
    (lambda: initializers.get("he_norml"), "expected one of .*he_normal.*got 'he_norml'"),
    (lambda: initializers.get(3), "expected a name, a config or a callable, got 3"),
    (lambda: initializers.VarianceScaling(0), "argument 'scale'"),
    (lambda: initializers.VarianceScaling(mode="fan"), "argument 'mode'.*'fan'"),
    (lambda: initializers.VarianceScaling(distribution="normal"), "argument 'distribution'"),
    (lambda: initializers.Orthogonal()((3,)), "at least 2 axes"),
    (lambda: initializers.Identity()((3, 3, 3)), "expected 2 axes"),
])
def test_errors(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_seeds_of_a_block_are_its_own_and_its_threads_own() -> None:
    initializers.set_seed(1)
    expected = [initializers.next_seed() for _ in range(2)]
    initializers.set_seed(5)
    inside = [initializers.next_seed() for _ in range(2)]
    initializers.set_seed(1)
    first = initializers.next_seed()
    with initializers.seeded(5), ThreadPoolExecutor(1) as other:
        drawn = [initializers.next_seed(), other.submit(initializers.next_seed).result(), initializers.next_seed()]
        initializers.set_seed(5)  # of the block, too
        assert initializers.next_seed() == inside[0]
    assert [first, drawn[1]] == expected
    assert [drawn[0], drawn[2]] == inside
