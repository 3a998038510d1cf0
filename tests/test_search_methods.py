"""What the methods that make candidates of their own make of learning rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from search_cases import dense, features

from wdfast import decay, search

X, Y = features()
RATES = [0.003, 0.03]


def run(build: Any = dense, values: Any = None, **settings: Any) -> search.Result:
    settings = {"folds": 2, "epochs": 3, "batch_size": 8, "verbose": 0, **settings}
    return search.decay(build, X, Y, values, **settings)


# ---- learning rates -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["constrained", "gradient"])
def test_a_candidate_of_ones_own_for_each_learning_rate(method: str) -> None:
    both = run(method=method, learning_rates=RATES)
    rates = [row.candidate.learning_rate for row in both.rows if row.candidate.decay.terms]
    assert sorted(rates) == RATES
    assert sorted(row.candidate.learning_rate for row in both.rows if not row.candidate.decay.terms) == RATES
    for rate in RATES:  # each is what a search with that rate alone comes to
        own = {row.candidate: row for row in both.rows if row.candidate.learning_rate == rate}
        for row in run(method=method, learning_rates=[rate]).rows:
            np.testing.assert_array_equal(row.scores, own[row.candidate].scores)
    one, other = (row for row in both.rows if row.candidate.decay.terms)
    assert not np.array_equal(one.curves["val_loss"], other.curves["val_loss"])


def test_the_gradient_starts_at_the_length_of_the_run_for_each_learning_rate() -> None:
    result = run(method=search.Gradient(rate=1e-9), learning_rates=RATES)
    for row in result.rows:
        if row.candidate.decay.terms:  # 1/(η M T): 30 or 31 samples are 4 steps, 3 epochs
            assert row.candidate.decay == decay.decoupled(float(f"{1 / (row.candidate.learning_rate * 4 * 3):.4g}"))


def test_optuna_is_asked_for_the_learning_rate_too() -> None:
    optuna = pytest.importorskip("optuna")
    told = []

    class Listening(optuna.samplers.RandomSampler):
        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            told.append((trial.params["decay"], trial.params["learning_rate"], values[0]))

    method = search.Optuna(decay.decoupled, 1e-3, 10, trials=6, sampler=Listening(seed=0))
    result = run(method=method, learning_rates=RATES, jobs=1)
    rows = {(r.candidate.decay.terms[0].strength, r.candidate.learning_rate): r.mean
            for r in result.rows if r.candidate.decay.terms}
    assert rows == {(strength, rate): mean for strength, rate, mean in told}
    assert {rate for _, rate in rows} == set(RATES)
    assert len(rows) == 6


def test_optuna_takes_a_single_learning_rate() -> None:
    pytest.importorskip("optuna")
    result = run(method=search.Optuna(trials=2), learning_rates=[0.01])
    assert [row.candidate.learning_rate for row in result.rows] == [0.01] * 3
