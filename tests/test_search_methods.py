"""The methods that make candidates of their own: at which learning rates, and what of a run that fails."""

from __future__ import annotations

from pathlib import Path
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


# ---- runs of the gradient that fail ---------------------------------------------------------------------


def tunes(value: Any) -> bool:
    """Whether it is the decay of a run that tunes λ."""
    return any(callable(term.strength) for term in value.terms)


def failing(error: BaseException, runs: int) -> Any:
    """A `build` that raises the error in the first runs that tune λ."""
    left = [runs]

    def build(decay: Any) -> Any:
        if tunes(decay) and left[0]:
            left[0] -= 1
            raise error
        model = dense()
        model._set_optimizer(model.optimizer.fresh(decay=decay))
        return model

    return build


@pytest.mark.parametrize("error", [MemoryError("no room"), ValueError("no sense"), OverflowError("too large")])
def test_a_run_of_the_gradient_that_fails_is_left_out(error: BaseException, tmp_path: Path) -> None:
    words = f"1 of 2 runs that tune λ failed, and are left out: seed 0 fold 0: {type(error).__name__}: {error}"
    with pytest.warns(RuntimeWarning, match=words):
        result = run(failing(error, 1), method="gradient", output=tmp_path, report=False)
    assert len(result.rows) == 2
    assert result.failures == []
    with pytest.warns(RuntimeWarning, match=words):  # told again by a search that goes on, which runs nothing
        again = run(failing(error, 0), method="gradient", output=tmp_path, report=False)
    assert again.rows[1].candidate == result.rows[1].candidate


def test_the_gradient_that_comes_to_nothing_ends_nothing() -> None:
    with pytest.warns(RuntimeWarning, match="2 of 2 runs that tune λ failed, so that it finds no decay: seed 0 fold 0: "
                                            "MemoryError: no room; seed 0 fold 1: MemoryError: no room"):
        result = run(failing(MemoryError("no room"), 2), method="gradient")
    assert [row.candidate.decay for row in result.rows] == [decay.none()]


def test_a_rate_at_which_the_loss_is_no_number() -> None:
    with pytest.warns(RuntimeWarning, match=r"λ at learning rate 1e\+30 failed, so that .*: the slope .* nan") as told:
        result = run(method="gradient", learning_rates=[0.01, 1e30])
    assert len(told) == 1
    assert [row.candidate.learning_rate for row in result.rows if not row.failures] == [0.01, 0.01]


def test_the_gradient_needs_steps_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="argument 'every': expected at most the 3 steps of a run, got 4"):
        run(method="gradient", batch_size=61, output=tmp_path)
    assert list((tmp_path / "cells").iterdir()) == []
    assert len(run(method=search.Gradient(every=3), batch_size=61).rows) == 2
