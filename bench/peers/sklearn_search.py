"""A search for λ over scikit-learn's MLPClassifier: GridSearchCV, or HalvingGridSearchCV whose resource is epochs."""

from __future__ import annotations

import warnings

import numpy as np
import sklearn
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV
from sklearn.neural_network import MLPClassifier

from ..nets import Dense
from . import SearchCase


class Search:
    """Its own weights, order and coupled L2 (alpha = λ·batch): the same work, not the same numbers."""

    def __init__(self, case: SearchCase, threads: int, variant: str) -> None:
        if any(not isinstance(layer, Dense) and type(layer).__name__ != "Relu" for layer in case.net.layers):
            raise ValueError("has dense layers only")
        hidden = tuple(layer.units for layer in case.net.layers[:-1] if isinstance(layer, Dense))
        self.case, self.threads, self.variant = case, threads, variant
        self.x = case.images.reshape(len(case.x), -1)
        self.model = MLPClassifier(hidden, batch_size=case.batch, max_iter=case.epochs, random_state=0,
                                   n_iter_no_change=10 * case.epochs)

    @staticmethod
    def version() -> str:
        return sklearn.__version__

    def run(self) -> dict[int, list[float]]:
        """The held-out accuracies of the folds, of every λ (by its place) that was trained to the end."""
        case = self.case
        alphas = [value * case.batch for value in case.lambdas]
        if case.halving:
            search = HalvingGridSearchCV(self.model.set_params(max_iter=1), {"alpha": alphas}, cv=case.splits, factor=2,
                                         resource="max_iter", min_resources=case.rungs[0], max_resources=case.epochs,
                                         n_jobs=self.threads, refit=False)
        else:
            search = GridSearchCV(self.model, {"alpha": alphas}, cv=case.splits, n_jobs=self.threads, refit=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            search.fit(self.x, case.y)
        results = search.cv_results_
        last = results.get("iter", np.zeros(len(results["params"])))
        folds = range(len(case.splits))
        return {alphas.index(params["alpha"]): [float(results[f"split{k}_test_score"][row]) for k in folds]
                for row, params in enumerate(results["params"]) if last[row] == max(last)}
