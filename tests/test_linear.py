"""Ridge and lasso: against the fits they stand for, scikit-learn, and a network trained with the same λ."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from support import EPS32

from wdfast import decay, layers, linear, losses, models, ops, optimizers, regularizers

LAMBDAS = np.geomspace(1e-2, 1e2, 5)
SHAPES = [(2, 1), (3, 7), (20, 19), (20, 20), (31, 33), (47, 5), (13, 0)]


def problem(n: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features, a truth that is mostly zeros, offsets that the intercept must find."""
    rng = np.random.default_rng([n, p])
    x = rng.standard_normal((n, p)) + 0.5 * rng.standard_normal((n, 1)) + 3
    truth = rng.standard_normal(p) * (rng.uniform(size=p) < 0.4)
    return x, x @ truth + 0.3 * rng.standard_normal(n) - 7


def ridge(x: np.ndarray, y: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """One fit, by the normal equations."""
    w = ridge_through_origin(x - x.mean(axis=0), y - y.mean(), strength)
    return w, y.mean() - x.mean(axis=0) @ w


def ridge_through_origin(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    return np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y)


# ---- ridge ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "p"), SHAPES)
def test_ridge_and_its_errors_are_those_of_separate_fits(n: int, p: int) -> None:
    x, y = problem(n, p)
    path = linear.ridge_path(x, y, LAMBDAS)
    for k, strength in enumerate(LAMBDAS):
        w, b = ridge(x, y, strength)
        np.testing.assert_allclose(path.coefficients[k], w, rtol=1e-9, atol=1e-9)
        assert path.intercepts[k] == pytest.approx(b, rel=1e-9)
        for i in range(n):
            others = np.arange(n) != i
            w, b = ridge(x[others], y[others], strength)
            assert path.errors[k, i] == pytest.approx(y[i] - x[i] @ w - b, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize(("n", "p"), [(20, 5), (9, 30), (13, 0)])
def test_ridge_with_weights(n: int, p: int) -> None:
    """A whole weight is so many copies; of a part of a sample, the part is left out."""
    x, y = problem(n, p)
    times = np.arange(n) % 3 + 1
    path = linear.ridge_path(x, y, LAMBDAS, times)
    copies = linear.ridge_path(x.repeat(times, 0), y.repeat(times), LAMBDAS)
    np.testing.assert_allclose(path.errors.repeat(times, 1), copies.errors, rtol=1e-8, atol=1e-9)
    for one, other in zip(path[1:3] + path[4:], copies[1:3] + copies[4:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-9)
    weights = np.random.default_rng(0).uniform(0.2, 1.8, n)
    path = linear.ridge_path(x, y, LAMBDAS, weights)
    for i, (k, strength) in itertools.product(range(n), enumerate(LAMBDAS)):
        left = weights.copy()
        left[i] -= min(left[i], 1)
        roots, xc, yc = np.sqrt(left), x - left @ x / left.sum(), y - left @ y / left.sum()
        w = ridge_through_origin(roots[:, None] * xc, roots * yc, strength)
        assert path.errors[k, i] == pytest.approx(yc[i] - xc[i] @ w, rel=1e-8, abs=1e-9)


def test_ridge_of_repeated_and_constant_features() -> None:
    x, y = problem(12, 4)
    path = linear.ridge_path(np.hstack([x, x[:, :1], np.full((12, 1), 5.0)]), y, [1e-9, 1.0])
    np.testing.assert_allclose(path.coefficients[:, 0], path.coefficients[:, 4], rtol=1e-6)
    np.testing.assert_array_less(np.abs(path.coefficients[:, 5]), 1e-12)
    twice = x.copy()
    twice[:, 0] *= np.sqrt(2)  # two features with half the weight each are one that is √2 times as long
    np.testing.assert_allclose(path.errors[1], linear.ridge_path(twice, y, [1.0]).errors[0], rtol=1e-9)


def test_ridge_with_almost_no_decay_and_more_features_than_samples_has_errors_nevertheless() -> None:
    """e and 1 − h both vanish with λ, their ratio does not."""
    x, y = problem(9, 30)
    path = linear.ridge_path(x, y, [1e-10, 1e-9])
    np.testing.assert_allclose(path.errors[0], path.errors[1], rtol=1e-6)
    others = np.arange(9) != 4
    w = np.linalg.pinv(x[others] - x[others].mean(axis=0)) @ y[others]
    expected = y[4] - y[others].mean() - (x[4] - x[others].mean(axis=0)) @ w
    assert path.errors[0, 4] == pytest.approx(expected, rel=1e-6)


def test_choice_of_lambda() -> None:
    x, y = problem(40, 10)
    lambdas = np.geomspace(1e4, 1e-4, 60)
    path = linear.ridge_path(x, y, lambdas)
    mean = np.square(path.errors).mean(axis=1)
    error = np.square(path.errors).std(axis=1, ddof=1) / np.sqrt(40)
    np.testing.assert_allclose(path.mean_squared_error, mean)
    np.testing.assert_allclose(path.standard_error, error)
    assert path.best == lambdas[mean.argmin()]
    gaps = np.square(path.errors) - np.square(path.errors[mean.argmin()])
    inside = lambdas[gaps.mean(axis=1) <= np.minimum(gaps.std(axis=1, ddof=1) / 40**0.5, error[mean.argmin()])]
    assert path.one_se == inside.max() > path.best


@pytest.mark.parametrize(("n", "p"), [(60, 8), (30, 45)])
def test_ridge_beside_scikit_learn(n: int, p: int) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = problem(n, p)
    lambdas = np.geomspace(1e-3, 1e3, 100)
    path = linear.ridge_path(x, y, lambdas)
    theirs = linear_model.RidgeCV(lambdas, store_cv_results=True).fit(x, y)
    best = int(path.mean_squared_error.argmin())
    assert path.best == theirs.alpha_
    np.testing.assert_allclose(np.square(path.errors), theirs.cv_results_.T, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(path.coefficients[best], theirs.coef_, rtol=1e-6, atol=1e-9)
    assert path.intercepts[best] == pytest.approx(theirs.intercept_, rel=1e-6)


# ---- lasso ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "p"), [*SHAPES, (1, 1), (1, 3), (400, 60), (60, 400)])
def test_lasso_meets_its_optimality_conditions(n: int, p: int) -> None:
    """|x_j·e|/n ≤ λ, with equality and the sign of w_j where w_j ≠ 0."""
    x, y = problem(n, p)
    path = linear.lasso_path(x, y, LAMBDAS[:3])
    for strength, w, b in zip(path.lambdas, path.coefficients, path.intercepts, strict=True):
        error = y - x @ w - b
        slope = (x - x.mean(axis=0)).T @ error / n
        slack = 1e-6 * np.abs(x).max(initial=0) * y.std() + 1e-12  # the root of the duality gap's 1e-12
        assert abs(error.mean()) < 1e-9 * max(1, np.abs(y).max())
        assert (np.abs(slope) <= strength + slack).all()
        np.testing.assert_allclose(slope[w != 0], strength * np.sign(w[w != 0]), atol=slack)


def test_lasso_starts_where_the_first_weight_appears() -> None:
    x, y = problem(50, 20)
    most = np.abs((x - x.mean(axis=0)).T @ (y - y.mean())).max() / 50
    path = linear.lasso_path(x, y, [1.001 * most, 0.999 * most])
    assert [int((w != 0).sum()) for w in path.coefficients] == [0, 1]
    assert path.intercepts[0] == y.mean()


def test_lasso_does_not_depend_on_the_order_of_lambdas() -> None:
    x, y = problem(30, 12)
    falling = linear.lasso_path(x, y, LAMBDAS[::-1])
    shuffled = linear.lasso_path(x, y, LAMBDAS[[3, 0, 4, 2, 1]])
    np.testing.assert_array_equal(shuffled.coefficients, falling.coefficients[::-1][[3, 0, 4, 2, 1]])
    # The op itself takes them as they come, from another start each: equal within the duality gap.
    w, converged = ops.lasso_path(x - x.mean(axis=0), y - y.mean(), LAMBDAS)
    assert converged.all()
    np.testing.assert_allclose(w, falling.coefficients[::-1], atol=1e-6)


def test_lasso_leaves_constant_features_and_constant_targets_at_zero() -> None:
    x, y = problem(30, 4)
    x[:, 2] = 0.1
    assert (linear.lasso_path(x, y, [1e-3]).coefficients[:, 2] == 0).all()
    path = linear.lasso_path(x, np.full(30, 0.1), [1e-3])
    assert (path.coefficients == 0).all()
    assert path.intercepts == pytest.approx(0.1)


def test_lasso_says_when_sweeps_did_not_suffice() -> None:
    x, y = problem(20, 40)
    with pytest.warns(RuntimeWarning, match=r"lasso_path: 3 sweeps .* 1 of 2 λs, the largest 0\.001"):
        linear.lasso_path(x, y, [1e-3, 1e3], max_sweeps=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear.lasso_path(x, y, [1e-3, 1e3])


@pytest.mark.parametrize(("n", "p"), [(60, 8), (30, 45)])
def test_lasso_beside_scikit_learn(n: int, p: int) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = problem(n, p)
    path = linear.lasso_path(x, y, np.geomspace(1.0, 1e-2, 7))
    for strength, w, b in zip(path.lambdas, path.coefficients, path.intercepts, strict=True):
        theirs = linear_model.Lasso(strength, tol=1e-13, max_iter=1_000_000).fit(x, y)
        np.testing.assert_allclose(w, theirs.coef_, rtol=1e-6, atol=1e-6 * np.abs(w).max())
        assert b == pytest.approx(theirs.intercept_, rel=1e-6)


# ---- units and errors -----------------------------------------------------------------------------------

N = 64
STRENGTH = {"ridge": 4.0, "lasso": 0.05}


@pytest.mark.parametrize(("kind", "regularizer", "rule"), [
    ("ridge", regularizers.L2(STRENGTH["ridge"] / N), None),
    ("ridge", None, decay.l2(2 * STRENGTH["ridge"] / N)),
    ("lasso", None, decay.l1(2 * STRENGTH["lasso"], proximal=True)),
])
def test_a_network_with_the_lambda_that_the_table_gives_is_the_same_fit(kind: str, regularizer: Any,
                                                                        rule: Any) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((N, 6)).astype(np.float32)
    y = (x[:, 0] - 2 * x[:, 1] + 1 + 0.5 * rng.standard_normal(N)).astype(np.float32)
    model = models.Sequential([layers.Input((6,)), layers.Dense(1, kernel_regularizer=regularizer)])
    model.compile(optimizers.SGD(0.1, decay=rule), losses.MeanSquaredError())
    model.fit(x, y[:, None], batch_size=N, epochs=1000, verbose=0, seed=0)
    path = {"ridge": linear.ridge_path, "lasso": linear.lasso_path}[kind](x, y, [STRENGTH[kind]])
    kernel, bias = model.get_weights()
    # Steps stop at half an ulp of w: η·gradient < ε|w|/2, and the error is the gradient over its least slope, > 1.
    tolerance = 10 * EPS32 / 0.1 * np.abs(path.coefficients).max()
    np.testing.assert_allclose(kernel[:, 0], path.coefficients[0], atol=tolerance)
    np.testing.assert_allclose(bias, path.intercepts, atol=tolerance)
    np.testing.assert_array_equal(kernel[:, 0] == 0, path.coefficients[0] == 0)
    assert (path.coefficients == 0).any() == (kind == "lasso")


@pytest.mark.parametrize("function", [linear.ridge_path, linear.lasso_path])
@pytest.mark.parametrize(("changed", "message"), [
    ({"x": np.zeros(4)}, r"'x': expected \(n, p\), n ≥ 1, got \(4,\)"),
    ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, r"'x': expected \(n, p\), n ≥ 1, got \(0, 2\)"),
    ({"y": np.zeros(3)}, r"'y': expected \(4,\), one per row of x, got \(3,\)"),
    ({"y": [0, 1, np.nan, np.inf]}, "'y': expected finite numbers, got 2 that are not"),
    ({"lambdas": 1.0}, r"'lambdas': expected \(k,\), k ≥ 1, got \(\)"),
    ({"lambdas": []}, r"'lambdas': expected \(k,\), k ≥ 1, got \(0,\)"),
    ({"lambdas": [1, 0]}, "'lambdas': expected numbers > 0, got 0"),
    ({"lambdas": [np.nan]}, "'lambdas': expected finite numbers"),
])
def test_bad_input_is_named(function: Any, changed: dict[str, Any], message: str) -> None:
    good = {"x": np.eye(4, 2), "y": np.arange(4), "lambdas": [1.0]}
    with pytest.raises(ValueError, match=f"{function.__name__}: argument {message}"):
        function(**good | changed)


def test_bad_input_of_one_alone() -> None:
    for weights in ([1.0] * 3, [1.0, 0.0], [0.5, 0.5], [1.0, np.nan]):
        with pytest.raises(ValueError, match=r"ridge_path: argument 'sample_weight': expected \(2,\) finite"):
            linear.ridge_path([[0.0], [1.0]], [0.0, 1.0], [1.0], weights)
    with pytest.raises(ValueError, match=r"ridge_path: argument 'x': expected at least 2 samples"):
        linear.ridge_path([[1.0]], [1.0], [1.0])
    with pytest.raises(TypeError, match=r"lasso_path: argument 'x': expected float64"):
        linear.lasso_path([["a"]], [1.0], [1.0])
    for attributes in ({"tolerance": 0.0}, {"tolerance": float("nan")}, {"max_sweeps": 0}):
        with pytest.raises(ValueError, match=f"lasso_path: argument '{next(iter(attributes))}'"):
            linear.lasso_path(np.eye(3), np.arange(3), [1.0], **attributes)
    with pytest.raises(ValueError, match=r"lasso_path: argument 'lambdas': expected numbers > 0, got -1"):
        ops.lasso_path(np.eye(3), np.arange(3), [-1.0])
    with pytest.raises(TypeError, match="lasso_path: expected arrays, got a symbolic tensor"):
        ops.lasso_path(layers.Input((3,)), np.zeros(3), np.ones(1))
