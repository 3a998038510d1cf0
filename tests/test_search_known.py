"""Searches whose answer is known: ridge regression by its exact leave-one-out errors, and the sign of λ's gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wdfast import callbacks, decay, layers, linear, models, optimizers, search
from wdfast.search import cell


def line(features: int, rate: float) -> Any:
    """A linear network that is trained by gradient descent on half the mean squared error."""
    def build() -> Any:
        model = models.Sequential([layers.Input((features,)), layers.Dense(1)])
        model.compile(optimizers.SGD(rate), "half_mse")
        return model

    return build


def problem(samples: int, features: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, features)).astype(np.float32)
    return x, (x @ rng.standard_normal(features) + noise * rng.standard_normal(samples)).astype(np.float32)


# ---- ridge by gradient descent --------------------------------------------------------------------------


def test_ridge_finds_the_best_by_exact_leave_one_out() -> None:
    """‖e‖²/2(n − 1) + λ'/2‖w‖² has the minimum of ‖e‖² + (n − 1)λ'‖w‖²; the score of a fold is e²/2."""
    n, lambdas, rng = 12, np.geomspace(0.1, 10, 5), np.random.default_rng(2)
    angles = 2 * np.pi * np.outer(np.arange(n), [1, 2]) / n  # no sample counts for more than another: 40 steps suffice
    x = np.sqrt(2) * np.hstack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    y = (x @ rng.standard_normal(4) + 2 * rng.standard_normal(n)).astype(np.float32)
    path = linear.ridge_path(x, y, lambdas)
    values = [decay.l2(float(v) / (n - 1)) for v in lambdas]
    result = search.decay(line(4, 0.6), x, y, values, folds=n, epochs=40, batch_size=n, verbose=0)
    assert result.best == values[int(path.mean_squared_error.argmin())]
    assert result.best not in (values[0], values[-1])
    for k, row in enumerate(result.rows):
        assert row.candidate.decay == values[k]
        errors = np.empty(n)
        for fold, score in zip(row.folds, row.scores, strict=True):
            errors[search.k_fold(n, n)[fold].held_out] = 2 * score
        np.testing.assert_allclose(errors, path.errors[k] ** 2, rtol=1e-4, atol=1e-4)
        assert row.mean == pytest.approx(path.mean_squared_error[k] / 2, rel=1e-4)
        assert row.standard_error == pytest.approx(path.standard_error[k] / 2, rel=1e-4)
    assert result.one_se == values[int(np.flatnonzero(lambdas == path.one_se)[0])]


# ---- λ by its gradient ----------------------------------------------------------------------------------


def tuned(x: np.ndarray, y: np.ndarray, start: float, **settings: Any) -> tuple[float, search.Result]:
    """λ that the gradient comes to, and the search that measured it."""
    method = search.Gradient(start=start, rate=0.2, every=1)
    result = search.decay(line(x.shape[1], 0.02), x, y, [decay.none()], method=method, folds=2, epochs=40,
                          batch_size=10, verbose=0, **settings)
    (row,) = (r for r in result.rows if r.candidate.decay.terms)
    return row.candidate.decay.terms[0].strength, result


def test_decay_grows_where_the_network_overfits() -> None:
    x, y = problem(40, 40, 8.0, seed=0)
    strength, result = tuned(x, y, 1e-4)
    assert strength > 1e-2
    assert result.best == decay.decoupled(strength)  # and what it came to is better than none


def test_decay_does_not_grow_where_nothing_is_wrong() -> None:
    x, y = problem(200, 5, 0.0, seed=1)
    strength, result = tuned(x, 1 + y, 1e-3)
    assert strength < 1e-3
    assert result.rows[0].mean == pytest.approx(result.rows[1].mean, abs=1e-3)


def test_the_gradient_is_the_same_each_time_and_starts_at_the_length_of_the_run() -> None:
    x, y = problem(40, 40, 8.0, seed=0)
    assert tuned(x, y, 1e-4)[0] == tuned(x, y, 1e-4, jobs=1)[0]
    method = search.Gradient(rate=1e-9, every=3)
    result = search.decay(line(40, 0.02), x, y, [decay.none()], method=method, folds=2, epochs=5, batch_size=10,
                          verbose=0, seeds=2)
    assert result.rows[1].candidate.decay == decay.decoupled(5.0)  # 1/(η M T): 0.02, 2 steps, 5 epochs
    assert result.rows[1].timescale == pytest.approx(5, rel=0.06)


def test_the_gradients_runs_are_kept(tmp_path: Path) -> None:
    x, y = problem(20, 6, 1.0, seed=0)
    made = []

    def build() -> Any:
        made.append(line(6, 0.05)())
        return made[-1]

    found = []
    for _ in range(2):
        found.append(search.decay(build, x, y, [decay.none()], method="gradient", folds=2, epochs=3, batch_size=7,
                                  output=tmp_path, verbose=0))
        made.append(None)
    assert made.index(None) == 1 + 2 + 2 + 2  # a probe, no decay, the runs that tune λ, those of what they came to
    assert len(made) == 7 + 1 + 1 + 1
    assert repr(found[0].rows[1].candidate) == repr(found[1].rows[1].candidate)


def test_a_run_of_the_gradient_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in its third epoch, in memory nothing is left: the same λ to the bit, and no epoch twice."""
    monkeypatch.setattr(cell, "_SAVE_EVERY", 0.0)
    x, y = problem(40, 40, 8.0, seed=0)
    epochs: list[int] = []
    stop_at: list[int] = []

    class Log(callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            epochs.append(epoch)
            if len(epochs) in stop_at:
                raise KeyboardInterrupt

    def run(folder: Path) -> search.Result:
        epochs.clear()
        return search.decay(line(40, 0.02), x, y, [decay.none()], folds=2, epochs=5, batch_size=10, verbose=0, jobs=1,
                            method=search.Gradient(start=1e-4, rate=0.2, every=1), callbacks=lambda: [Log()],
                            output=folder, report=False)

    whole = run(tmp_path / "whole")
    assert len(epochs) == 3 * 2 * 5  # no decay, the runs that tune λ, what they came to; two folds
    stop_at.append(2 * 5 + 3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    assert [folder.name for folder in (tmp_path / "stopped" / "running").iterdir()]
    stop_at.clear()
    again = run(tmp_path / "stopped")
    assert epochs == [2, 3, 4, *range(5), *range(5), *range(5)]
    assert again.rows[1].candidate == whole.rows[1].candidate
    np.testing.assert_array_equal(again.rows[1].curves["loss"], whole.rows[1].curves["loss"])
    assert not list((tmp_path / "stopped" / "running").iterdir())


def test_the_gradient_leaves_running_statistics_alone() -> None:
    """A rate of nothing and no decay: the weights are those of a training that was not looked at."""
    x, y = problem(40, 6, 1.0, seed=0)

    def build() -> Any:
        model = models.Sequential([layers.Input((6,)), layers.Dense(4), layers.BatchNormalization(), layers.Dense(1)])
        model.compile(optimizers.SGD(0.05), "mse")
        seen.append(model)
        return model

    seen: list[Any] = []
    search.decay(build, x, y, [decay.decoupled(1e-3)], method=search.Gradient(start=1e-3, rate=1e-30, every=1), folds=2,
                 epochs=3, batch_size=7, jobs=1, verbose=0)
    probe, one, two, looked, other = seen  # the candidate measured first, then each fold's run with the tuner
    for plain, watched in ((one, looked), (two, other)):
        for a, b in zip(plain.get_weights(), watched.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(probe.get_weights()[0], one.get_weights()[0])


def test_constrained_decay_needs_no_search() -> None:
    """CPR: one candidate, whose bound is that of the weights it begins with, beside a grid."""
    x, y = problem(40, 40, 8.0, seed=0)
    values = [decay.none(), decay.constrained(initial=1.0), *search.grid(decay.decoupled, 1e-2, 10, 4)]
    result = search.decay(line(40, 0.02), x, y, values, folds=2, epochs=40, batch_size=10, verbose=0)
    means = {row.candidate.decay: row.mean for row in result.rows}
    assert [row.candidate.decay for row in result.rows] == values
    assert means[values[1]] < means[values[0]]
    assert result.best in values[1:]


def test_the_baseline_without_a_search() -> None:
    """It is bound by the norm after its warm-up: a tenth of 2 batches times 40 epochs."""
    x, y = problem(40, 40, 8.0, seed=0)
    settings = {"folds": 2, "epochs": 40, "batch_size": 10, "verbose": 0}
    result = search.decay(line(40, 0.02), x, y, method="constrained", **settings)
    none, bound = result.rows
    assert bound.candidate.decay == decay.constrained(warm_start=8)
    assert bound.mean < none.mean  # so little a norm is less overfitting
    free, held = none.curves["weight_norm"], bound.curves["weight_norm"]
    np.testing.assert_allclose(held[:, :4], free[:, :4], rtol=1e-6)  # 4 epochs of 2 batches
    assert (held[:, -1] < free[:, -1]).all()
