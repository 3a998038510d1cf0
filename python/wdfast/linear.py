"""Linear regression with decay where λ costs next to nothing: ridge by one SVD, lasso by one path.

Both fit y ≈ x·w + b; the intercept b is not penalised. Units of λ, beside those of a network that is trained with
the loss `MeanSquaredError` (the mean over n samples):

============  ==================  ===========================  =====================  ================
here          what is least       scikit-learn                 `kernel_regularizer=`  `decay=`
============  ==================  ===========================  =====================  ================
`ridge_path`  ‖e‖² + λ‖w‖²        `alpha=λ` of Ridge, RidgeCV  `L2(λ / n)`            `l2(2 * λ / n)`
`lasso_path`  ‖e‖²/(2n) + λ‖w‖₁   `alpha=λ` of Lasso           `L1(2 * λ)`            `l1(2 * λ)`
============  ==================  ===========================  =====================  ================
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from . import ops
from .ops._dispatch import as_float64

__all__ = ["LassoPath", "RidgePath", "lasso_path", "ridge_path"]


class RidgePath(NamedTuple):
    """What `ridge_path` gives; float64."""

    lambdas: np.ndarray
    """(k,), as given."""
    coefficients: np.ndarray
    """w, (k, p)."""
    intercepts: np.ndarray
    """b, (k,)."""
    errors: np.ndarray
    """(k, n): yᵢ less what a fit without sample i says of it."""
    mean_squared_error: np.ndarray
    """(k,): the mean of the squared errors."""
    standard_error: np.ndarray
    """(k,): of that mean."""
    best: float
    """The λ of the least mean squared error."""
    one_se: float
    """The largest λ whose mean squared error is above the least by no more than one standard error: the less of those
    of the difference over the same samples, and of the least."""


class LassoPath(NamedTuple):
    """What `lasso_path` gives; float64."""

    lambdas: np.ndarray
    """(k,), as given."""
    coefficients: np.ndarray
    """w, (k, p), with exact zeros."""
    intercepts: np.ndarray
    """b, (k,)."""


def ridge_path(x: Any, y: Any, lambdas: Any, sample_weight: Any = None) -> RidgePath:
    """Ridge regression for many λs by one SVD, each with its exact leave-one-out errors.

    w makes Σ(yᵢ − xᵢ·w − b)² + λ‖w‖² least. The error at sample i of a fit without it is eᵢ/(1 − hᵢᵢ), where e are
    the errors of the fit and h the diagonal of its hat matrix: no second fit is needed.

    x (n, p), y (n,), n ≥ 2; lambdas (k,), each > 0, in scikit-learn's unit (see the top of this module).
    sample_weight (n,), each > 0, their sum > 1: a weight of 2 is the same as the sample twice, in the fit, the errors
    (which leave out one of the two: of a weight wᵢ min(1, wᵢ)) and their mean.
    Raises ValueError, naming the argument, for another shape, values that are not finite, or a λ that is not > 0.

    >>> import numpy as np
    >>> from wdfast import linear
    >>> x, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0.0, 1.0, 2.0, 6.0])
    >>> path = linear.ridge_path(x, y, [0.1, 1.0, 10.0])
    >>> path.coefficients.round(3).ravel(), path.errors[1].round(3)
    (array([1.863, 1.583, 0.633]), array([ 0.333, -0.647, -1.471,  3.667]))
    >>> path.best, path.one_se
    (0.1, 1.0)

    Source: Allen, Technometrics 16(1), 1974 (PRESS); Golub, Heath & Wahba, Technometrics 21(2), 1979.
    """
    x, y, lambdas = _checked("ridge_path", x, y, lambdas)
    n = len(x)
    if n < 2:
        raise ValueError(f"ridge_path: argument 'x': expected at least 2 samples, to leave one out, got {n}")
    weights = np.ones(n) if sample_weight is None else as_float64("ridge_path", "sample_weight", sample_weight)
    count = weights.sum()
    if weights.shape != (n,) or not (np.isfinite(weights).all() and (weights > 0).all() and count > 1):
        raise ValueError(f"ridge_path: argument 'sample_weight': expected {(n,)} finite numbers > 0, their sum > 1, "
                         f"got {weights.shape}, the least {weights.min(initial=np.inf)}, their sum {count}")
    roots = np.sqrt(weights)
    x_mean, y_mean = weights @ x / count, weights @ y / count
    u, s, vt = np.linalg.svd(roots[:, None] * (x - x_mean), full_matrices=False)
    rank = int((s > np.finfo(float).eps * max(x.shape) * s.max(initial=0)).sum())
    u, s, vt = u[:, :rank], s[:rank], vt[:rank]
    along = u.T @ (roots * (y - y_mean))
    coefficients = s / (s**2 + lambdas[:, None]) * along @ vt
    # What the fit leaves, of y and of the unit vectors: all of it outside of x, the rest shrunk. 1 − h is summed up
    # from its small parts, as a difference from 1 it would lose them.
    left = lambdas[:, None] / (s**2 + lambdas[:, None])
    outside = roots * (y - y_mean) - u @ along
    free = np.maximum(1 - weights / count - np.square(u).sum(axis=1), 0)
    if rank == n - 1:
        outside, free = np.zeros(n), np.zeros(n)
    out = np.minimum(weights, 1)  # of each weight, what is left out
    errors = roots * (outside + left * along @ u.T) / (weights - out + out * (free + left @ np.square(u).T))
    squares = np.square(errors)
    mean = squares @ weights / count
    least = mean.argmin()
    gaps, gap = squares - squares[least], mean - mean[least]
    standard_error = _standard_error(squares, mean, weights)
    one_se = lambdas[gap <= np.minimum(_standard_error(gaps, gap, weights), standard_error[least])].max()
    return RidgePath(lambdas, coefficients, y_mean - coefficients @ x_mean, errors, mean, standard_error,
                     float(lambdas[least]), float(one_se))


def _standard_error(values: np.ndarray, mean: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of each row's weighted mean."""
    count = weights.sum()
    return np.sqrt(np.square(values - mean[:, None]) @ weights / (count - 1) / count)


def lasso_path(x: Any, y: Any, lambdas: Any, tolerance: float = 1e-12, max_sweeps: int = 100_000) -> LassoPath:
    """The lasso for many λs, from the largest to the smallest, each from the solution of the one before it.

    w makes Σ(yᵢ − xᵢ·w − b)²/(2n) + λ‖w‖₁ least, by native coordinate descent. A λ is done when the duality gap,
    which bounds what is still to be gained, is at most `tolerance` times the variance of y.

    x (n, p), y (n,), n ≥ 1; lambdas (k,), each > 0, in any order, in scikit-learn's unit (see the top of this
    module). Warns (RuntimeWarning) where `max_sweeps` sweeps over w did not suffice.
    Raises ValueError, naming the argument, for another shape, values that are not finite, or a λ that is not > 0.

    >>> import numpy as np
    >>> from wdfast import linear
    >>> x = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> linear.lasso_path(x, 5 + x @ [3.0, 1.0], [2.0, 0.5]).coefficients
    array([[1. , 0. ],
           [2.5, 0.5]])

    Source: Tibshirani, J. R. Stat. Soc. B 58(1), 1996; Friedman, Hastie & Tibshirani, J. Stat. Softw. 33(1), 2010.
    """
    x, y, lambdas = _checked("lasso_path", x, y, lambdas)
    order = np.argsort(-lambdas, kind="stable")
    x_mean, y_mean = x.mean(axis=0), y.mean()
    coefficients = np.empty((len(lambdas), x.shape[1]))
    coefficients[order], converged = ops.lasso_path(x - x_mean, y - y_mean, lambdas[order], tolerance, max_sweeps)
    if not converged.all():
        short = lambdas[order][converged == 0]
        warnings.warn(f"lasso_path: {max_sweeps} sweeps did not bring the duality gap to {tolerance} for "
                      f"{len(short)} of {len(lambdas)} λs, the largest {short[0]:.3g}", RuntimeWarning, stacklevel=2)
    return LassoPath(lambdas, coefficients, y_mean - coefficients @ x_mean)


def _checked(function: str, x: Any, y: Any, lambdas: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three as float64 arrays of the right shapes, all finite."""
    given = {"x": x, "y": y, "lambdas": lambdas}
    arrays = {name: as_float64(function, name, value) for name, value in given.items()}
    n = len(arrays["x"]) if arrays["x"].ndim == 2 else 0
    if n == 0:
        raise ValueError(f"{function}: argument 'x': expected (n, p), n ≥ 1, got {arrays['x'].shape}")
    if arrays["y"].shape != (n,):
        raise ValueError(f"{function}: argument 'y': expected {(n,)}, one per row of x, got {arrays['y'].shape}")
    if arrays["lambdas"].ndim != 1 or not arrays["lambdas"].size:
        raise ValueError(f"{function}: argument 'lambdas': expected (k,), k ≥ 1, got {arrays['lambdas'].shape}")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{function}: argument '{name}': expected finite numbers, got "
                             f"{(~np.isfinite(array)).sum()} that are not")
    if not (arrays["lambdas"] > 0).all():
        raise ValueError(f"{function}: argument 'lambdas': expected numbers > 0, got {arrays['lambdas'].min()}")
    return arrays["x"], arrays["y"], arrays["lambdas"]
