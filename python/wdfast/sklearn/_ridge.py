"""Ridge regression whose λ is chosen by its exact leave-one-out errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ..linear import ridge_path
from ._network import checked_weights, keep


class RidgeCV(RegressorMixin, BaseEstimator):
    """Ridge regression with the λ of the least leave-one-out error, for many λs by one SVD.

    It makes Σ wᵢ(yᵢ − xᵢ·w − b)² + λ‖w‖² least; see `wdfast.linear.ridge_path`. Parameters:

    - `alphas`: the λs, each > 0; None: 33 from 1e-4 to 1e4.
    - `choose`: "best", or "one_se": the largest λ worse by no more than a standard error of the difference.

    Fitted: `alpha_` (the λ chosen), `coef_`, `intercept_`, `best_score_` (less its mean squared error), `path_`
    (the `RidgePath`: coefficients, errors, standard errors of every λ), `n_features_in_`, `feature_names_in_`. float64.

    >>> import numpy as np
    >>> from wdfast.sklearn import RidgeCV
    >>> x = np.random.default_rng(0).normal(size=(30, 5))
    >>> ridge = RidgeCV(np.geomspace(1e-3, 1e3, 7)).fit(x, x[:, 0] + np.random.default_rng(1).normal(size=30))
    >>> ridge.alpha_, ridge.path_.coefficients.shape
    (1.0, (7, 5))
    """

    def __init__(self, alphas: Any = None, *, choose: str = "best") -> None:
        keep(self, locals())

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> RidgeCV:
        """Fits all λs and chooses one. sample_weight (n,): ≥ 0; a weight of 2 is the same as the sample twice.

        Raises ValueError, naming the argument, for a λ that is not > 0 and for data that do not fit.
        """
        if self.choose not in ("best", "one_se"):
            raise ValueError(f"RidgeCV: parameter 'choose': expected 'best' or 'one_se', got {self.choose!r}")
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        weights = checked_weights(self, sample_weight, len(X))
        if weights is not None:
            kept = weights > 0
            X, y, weights = X[kept], y[kept], weights[kept]
        self.path_ = ridge_path(X, y, np.logspace(-4, 4, 33) if self.alphas is None else self.alphas, weights)
        self.alpha_ = self.path_.best if self.choose == "best" else self.path_.one_se
        at = int(np.flatnonzero(self.path_.lambdas == self.alpha_)[0])
        self.coef_, self.intercept_ = self.path_.coefficients[at], float(self.path_.intercepts[at])
        self.best_score_ = -float(self.path_.mean_squared_error[at])
        return self

    def predict(self, X: Any) -> np.ndarray:
        """x·w + b, float64 (n,)."""
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64) @ self.coef_ + self.intercept_
