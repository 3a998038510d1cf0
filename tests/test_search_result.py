"""What follows from the scores: means, standard errors, the choice, the one-standard-error choice, the p-value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from search_cases import VALUES, dense, features

from wdfast import decay, layers, losses, metrics, models, optimizers, schedules, search
from wdfast.search.cell import Outcome
from wdfast.search.result import _two_sided
from wdfast.search.run import _larger
from wdfast.search.space import shortened, strength


def result(scores: dict[Any, list[float]], metric: str = "val_loss", held: int = 0, **settings: Any) -> search.Result:
    """The result of a search whose cells come to these scores, by (decay or Candidate) in the order of the folds."""
    count = len(next(iter(scores.values())))
    x, y = features(60)
    candidates = [c if isinstance(c, search.Candidate) else search.Candidate(c) for c in scores]
    table = dict(zip(candidates, scores.values(), strict=True))

    class Told:
        jobs = 1

        def run(self, tasks: Any) -> Any:
            for cell, _, _ in reversed(tasks):
                value = table[cell.candidate][cell.fold]
                failure = "out of sorts" if math.isnan(value) else ""
                yield cell, Outcome(repr(cell), 0 if failure else 2, {} if failure else {metric: [0.0, value]},
                                    failure=failure)

    class Method:
        def run(self, under_way: Any, _: Any) -> None:
            under_way.executor = Told()
            under_way.measure(candidates)

    folds = {"validation_split": 0.2} if count == 1 else {"folds": count}
    return search.decay(dense, x, y, [decay.none()], epochs=2, metric=metric, method=Method(), verbose=0,
                        **{**folds, **settings})


# ---- means, errors, choices -----------------------------------------------------------------------------


def test_mean_standard_error_and_paired_difference() -> None:
    scores = {decay.decoupled(v): list(np.random.default_rng(k).uniform(1 + k, 2 + k, 5)) for k, v in
              enumerate((0.1, 0.01, 1.0))}
    found = result(scores)
    for row in found.rows:
        own = scores[row.candidate.decay]
        np.testing.assert_array_equal(row.scores, own)
        assert row.mean == pytest.approx(np.mean(own))
        assert row.standard_error == pytest.approx(np.sqrt(np.sum((own - np.mean(own)) ** 2) / 4 / 5))
    gaps = np.subtract(*list(scores.values())[:2])
    difference = found.difference
    assert (difference.first.decay, difference.second.decay) == (decay.decoupled(0.1), decay.decoupled(0.01))
    assert difference.mean == pytest.approx(gaps.mean())
    assert difference.standard_error == pytest.approx(gaps.std(ddof=1) * math.sqrt(1 / 5 + 12 / 48))
    t = abs(gaps.mean()) / difference.standard_error
    assert difference.p_value == pytest.approx(_two_sided(t, 4))


def test_differences_without_spread() -> None:
    same = result({decay.none(): [1, 2, 3], decay.epochs(1): [1, 2, 3]}).difference
    assert (same.mean, same.standard_error, same.p_value) == (0, 0, 1)
    apart = result({decay.none(): [1, 2, 3], decay.epochs(1): [2, 3, 4]}).difference
    assert (apart.mean, apart.standard_error, apart.p_value) == (-1, 0, 0)
    assert result({decay.none(): [1, 2, 3]}).difference is None
    assert result({decay.none(): [1], decay.epochs(1): [2]}).difference is None


@pytest.mark.parametrize(("metric", "sign"), [("val_loss", 1), ("val_accuracy", -1)])
def test_the_strongest_within_one_standard_error_is_chosen(metric: str, sign: int) -> None:
    """Differences from the best have an error of 1, though folds differ by 100; means: 5, 0, 0.9, 0.99, 1.01."""
    folds, spread = np.array([100, 0, -100]), np.array([-1, 0, 1]) * math.sqrt(3)
    values = [decay.none(), *map(decay.decoupled, (0.01, 0.1, 1, 10))]
    means = dict(zip(values, (5, 0, 0.9, 0.99, 1.01), strict=True))
    found = result({v: list(folds + sign * m + (m != 0) * spread) for v, m in means.items()}, metric)
    assert found.best_row.standard_error == pytest.approx(100 / math.sqrt(3))
    assert [r.candidate.decay for r in found.within_one_se] == [values[1], values[2], values[3]]
    assert found.best == decay.decoupled(0.01)
    assert found.one_se == decay.decoupled(1)
    assert [r.candidate.decay for r in found.rows] == values
    worse = {v: list(folds + sign * m) for v, m in means.items() if v != decay.decoupled(0.01)}
    assert result(worse, metric).best == decay.decoupled(0.1)


def test_a_fold_gone_wrong_lets_nothing_in() -> None:
    """One bad fold of n makes a difference of about its own standard error, whatever its size."""
    best = [0.20, 0.21, 0.22, 0.19, 0.20]
    found = result({decay.epochs(9): best, decay.epochs(3): [0.199, 0.209, 0.219, 0.189, 2.2]})
    assert found.best == found.one_se == decay.epochs(9)


def test_stronger_is_a_shorter_timescale() -> None:
    folds, spread = np.array([9.0, 0, -9]), np.array([-1.0, 0, 1])
    found = result({decay.epochs(50): list(folds), decay.epochs(5): list(0.1 + folds + spread),
                    decay.none(): list(0.05 + folds + spread)})
    assert found.best == decay.epochs(50)
    assert found.one_se == decay.epochs(5)
    assert [r.candidate.decay for r in found.rows] == [decay.none(), decay.epochs(50), decay.epochs(5)]


def test_kinds_that_cannot_be_compared() -> None:
    same, spread = [9.0, 0, -9], np.array([8.0, 0, -8])
    one, two = decay.decoupled(0.1), decay.decoupled(1)
    scores = {one: same, two: list(0.2 + spread), decay.constrained(3): list(0.1 + spread)}
    assert result(scores).one_se == two  # a bound of the norm is neither stronger nor weaker
    scores = {decay.none(): same, one: list(0.1 + spread), decay.constrained(3): list(0.1 + spread)}
    assert result(scores).one_se == decay.none()
    both = decay.l1(0.1) + decay.decoupled(0.1)
    assert result({both: same, one: list(0.1 + spread)}).one_se == both
    layered = decay.per_layer({"dense*": decay.l2(0.1)})
    assert result({search.Candidate(layered): same, one: list(0.1 + spread)}).one_se == layered


def test_the_rule_keeps_to_the_rate_of_the_best() -> None:
    folds, spread = np.array([9.0, 0, -9]), np.array([-1.0, 0, 1])
    pairs = {(0.1, 1.0): 0, (0.3, 1.0): 0.1, (5, 0.5): 0.05}
    found = result({search.Candidate(decay.decoupled(v), r): list(m + folds + bool(m) * spread)
                    for (v, r), m in pairs.items()})
    assert found.one_se_row.candidate == search.Candidate(decay.decoupled(0.3), 1.0)


def test_failures_are_never_chosen() -> None:
    found = result({decay.none(): [3, 4, 5], decay.epochs(2): [0, math.nan, 0], decay.epochs(1): [2, 3, 4]})
    assert found.best == decay.epochs(1)
    assert found.difference.second.decay == decay.none()
    assert [len(row.failures) for row in found.rows] == [0, 1, 0]
    assert found.rows[1].failures == ["seed 0 fold 1: out of sorts"]


def test_one_training_has_the_error_of_an_accuracy() -> None:
    found = result({decay.epochs(4): [0.8], decay.epochs(2): [0.75], decay.epochs(1): [0.6]}, "val_accuracy")
    assert found.best_row.standard_error == pytest.approx(math.sqrt(0.8 * 0.2 / 12))
    assert found.one_se == decay.epochs(2)
    loss = result({decay.epochs(4): [0.8], decay.epochs(2): [0.8], decay.epochs(1): [0.81]})
    assert math.isnan(loss.best_row.standard_error)
    assert loss.one_se == decay.epochs(2)  # as good, and stronger


@pytest.mark.parametrize(("freedom", "critical"), [
    (1, {0.5: 1.000, 0.2: 3.078, 0.05: 12.706, 0.01: 63.657}), (2, {0.5: 0.816, 0.05: 4.303, 0.01: 9.925}),
    (4, {0.5: 0.741, 0.05: 2.776, 0.01: 4.604, 0.001: 8.610}), (9, {0.05: 2.262, 0.01: 3.250, 0.001: 4.781}),
    (19, {0.1: 1.729, 0.05: 2.093, 0.01: 2.861}), (100, {0.05: 1.984, 0.001: 3.390}), (10_000, {0.05: 1.9602}),
])
def test_p_value_against_tables(freedom: int, critical: dict[float, float]) -> None:
    """Two-sided critical values of Student's t, as printed in every textbook."""
    for p, t in critical.items():
        assert _two_sided(t, freedom) == pytest.approx(p, rel=2e-3)
    assert _two_sided(0.0, freedom) == pytest.approx(1)
    assert _two_sided(math.inf, freedom) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("t", [0.3, 1.0, 4.0, 30.0])
def test_p_value_in_closed_form(t: float) -> None:
    assert _two_sided(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, rel=1e-9)
    assert _two_sided(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-5)


# ---- metrics --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["val_loss", "loss", "val_mse", "val_mae", "mean_squared_error", "val_dense_1_loss",
                                    "val_head_mae", "val_kl_divergence", "val_huber", "val_false_positives"])
def test_lower_is_better_of_losses(metric: str) -> None:
    assert not _larger(metric)


@pytest.mark.parametrize("metric", ["val_accuracy", "accuracy", "val_auc", "val_recall", "val_mean_io_u",
                                    "val_f1_score", "val_head_accuracy", "val_true_positives"])
def test_larger_is_better_of_others(metric: str) -> None:
    assert _larger(metric)


def test_a_metric_chooses_by_itself() -> None:
    x, y = features(60)

    def build() -> Any:
        model = dense()
        model.compile(optimizers.AdamW(0.02), model.losses[0], ["accuracy", metrics.Recall(name="recall")])
        return model

    assert search.decay(build, x, y, VALUES, folds=2, epochs=1, verbose=0).metric == "val_accuracy"
    assert search.decay(build, x, y, VALUES, folds=2, epochs=1, metric="recall", verbose=0).metric == "recall"
    with pytest.raises(ValueError, match=r"'metric': expected one of loss, accuracy, .*val_recall, got 'val_f1'"):
        search.decay(build, x, y, VALUES, folds=2, epochs=1, metric="val_f1", verbose=0)


def test_metrics_by_class() -> None:
    x, y = features(60)

    def build() -> Any:
        model = dense()
        model.compile("adam", model.losses[0], [metrics.F1Score(name="f1")])
        return model

    found = search.decay(build, x, y, VALUES, folds=2, epochs=1, metric="val_f1_2", verbose=0)
    np.testing.assert_array_equal(found.best_row.scores, found.best_row.curves["val_f1_2"][:, -1])
    for name in ("val_f1", "val_f1_7"):
        with pytest.raises(ValueError, match=r"'metric': expected one of .*val_f1_2.*, got 'val_f1"):
            search.decay(build, x, y, VALUES, folds=2, epochs=1, metric=name, verbose=0)


# ---- timescales, spaces ---------------------------------------------------------------------------------


def test_timescales() -> None:
    x, y = features(60)

    def build() -> Any:
        model = models.Sequential([layers.Input((4,)), layers.Dense(3)])
        model.compile(optimizers.SGD(0.1), losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    values = [decay.none(), decay.epochs(3), decay.decoupled(0.05), decay.l2(0.05), decay.max_norm(2.0),
              decay.decoupled(10.0), decay.per_layer({"*": decay.l2(0.1)})]
    found = search.decay(build, x, y, values, folds=3, epochs=4, batch_size=8, verbose=0)
    tau = {repr(row.candidate.decay): row.timescale for row in found.rows}
    steps = 5  # of 40 samples, the last batch whole
    assert tau["none()"] == math.inf
    assert tau["epochs(3.0)"] == pytest.approx(3)
    assert tau["decoupled(0.05)"] == pytest.approx(-1 / (steps * math.log(1 - 0.005)))
    assert tau["l2(0.05)"] == pytest.approx(tau["decoupled(0.05)"])  # under plain SGD the same
    assert tau["decoupled(10.0)"] == 0  # ηλ = 1: nothing is left after a step
    assert math.isnan(tau["max_norm(2.0)"])
    assert math.isnan(tau[repr(values[-1])])


def test_timescales_follow_the_rate() -> None:
    x, y = features(60)

    def build() -> Any:
        model = dense()
        model.compile(optimizers.SGD(schedules.Linear(0.4, 20)), model.losses[0])
        return model

    found = search.decay(build, x, y, [decay.decoupled(0.01)], learning_rates=[0.1, 0.4], folds=3, epochs=4,
                         batch_size=8, verbose=0)
    for row in found.rows:
        rates = row.candidate.learning_rate * (1 - np.arange(20) / 20)
        assert row.timescale == pytest.approx(-4 / np.log1p(-0.01 * rates).sum(), rel=1e-3)


def test_grid_and_random() -> None:
    values = [d.terms[0].strength for d in search.grid(decay.decoupled, 1e-4, 1e-1, 7)]
    np.testing.assert_allclose(np.diff(np.log10(values)), 0.5, atol=1e-3)
    assert (values[0], values[-1]) == (1e-4, 1e-1)
    assert search.grid(decay.epochs, 3, 3, 1) == [decay.epochs(3)]
    draws = np.log10([d.terms[0].strength for d in search.random(decay.decoupled, 1e-4, 1, 4000)])
    assert -4 <= draws.min() < -3.98
    assert -0.02 < draws.max() <= 0
    np.testing.assert_allclose(np.histogram(draws, 4, (-4, 0))[0], 1000, atol=5 * math.sqrt(750))
    assert search.random(decay.decoupled, 1e-4, 1, 3, seed=1) == search.random(decay.decoupled, 1e-4, 1, 5, seed=1)[:3]
    assert search.random(decay.decoupled, 1e-4, 1, 3) != search.random(decay.decoupled, 1e-4, 1, 3, seed=1)
    for make in (search.grid, search.random):
        for low, high in ((0, 1), (-1, 1), (2, 1), (1, math.inf), (math.nan, 1)):
            with pytest.raises(ValueError, match="expected 0 < low ≤ high"):
                make(decay.decoupled, low, high)
        with pytest.raises(ValueError, match="'count': expected an int ≥ 1, got 0"):
            make(decay.decoupled, 1, 2, 0)


def test_strength() -> None:
    for weak, strong in ((decay.decoupled(1), decay.decoupled(2)), (decay.epochs(2), decay.epochs(1)),
                         (decay.max_norm(3), decay.max_norm(2)), (decay.constrained(3), decay.constrained(2)),
                         (decay.constrained(initial=3), decay.constrained(initial=2)),
                         (decay.constrained(3), decay.constrained(0)), (decay.none(), decay.l2(1e-9))):
        assert strength(weak)[1] < strength(strong)[1]
    assert strength(decay.p_norm(1, q=1.5))[0] != strength(decay.p_norm(1, q=2))[0]
    for value in (decay.l1(1) + decay.decoupled(1), decay.decoupled(schedules.Linear(1, 10)), decay.per_layer({}),
                  decay.constrained(warm_start=10), decay.norm_target(1)):
        with pytest.raises(ValueError, match="has no single strength"):
            strength(value)


def test_shortened_runs_keep_what_is_left() -> None:
    assert shortened(decay.epochs(8), 0.25) == decay.epochs(2)
    assert shortened(decay.l2(0.1) + decay.decoupled(0.2), 0.5) == decay.l2(0.2) + decay.decoupled(0.4)
    assert shortened(decay.none(), 0.5) == decay.none()
    for value in (decay.max_norm(2), decay.constrained(initial=2), decay.normalized(0.1), decay.per_layer({}),
                  decay.decoupled(schedules.Linear(1, 10))):
        with pytest.raises(ValueError, match="cannot be rescaled to a shorter run"):
            shortened(value, 0.5)
