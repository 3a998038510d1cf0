"""The search: each cell to the bits of a training by itself, halving, samplers, and what is kept on disk."""

from __future__ import annotations

import _thread
import json
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_cases import CASES, VALUES, Outcomes, alone, dense, digest, features

from wdfast import callbacks, decay, layers, losses, metrics, models, optimizers, schedules, search, set_num_threads


def run(name: str = "dense", values: Any = None, **settings: Any) -> tuple[search.Result, Outcomes]:
    """A small search, and its outcomes."""
    case = CASES[name]
    kept = Outcomes(settings.pop("method", None))
    settings = {"folds": 2, "epochs": 3, "batch_size": 8, "verbose": 0, "report": False, **case.settings, **settings}
    return search.decay(settings.pop("build", case.build), case.x, case.y, values or VALUES, method=kept,
                        **settings), kept


def told(result: search.Result) -> Any:
    """All of a result but its seconds."""
    value = result.to_json()
    for row in value["rows"]:
        del row["seconds"]
    return json.dumps(value)


# ---- each cell is a training by itself ------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_each_cell_is_a_training_alone(name: str) -> None:
    case = CASES[name]
    result, kept = run(name, jobs=3, seed=5, seeds=2)
    splits = kept.search.problem.splits
    for row in result.rows:
        value = row.candidate.decay
        for k, (seed, fold) in enumerate(zip(row.seeds, row.folds, strict=True)):
            model, history = alone(case, value, splits[fold], epochs=3, batch_size=8, seed=seed)
            outcome = kept.of(value, seed, fold)
            assert outcome.weights == digest(model)
            assert {k: v for k, v in outcome.history.items() if k not in ("weight_norm", "sparsity")} == history
            kernels = [p.value for p in model.trained if p.role == "kernel"]
            norm = np.sqrt(sum(np.square(w, dtype=np.float64).sum() for w in kernels))
            assert outcome.history["weight_norm"][-1] == pytest.approx(norm, rel=1e-6)
            assert row.scores[k] == history[result.metric][-1]
            np.testing.assert_array_equal(row.curves["loss"][k], history["loss"])
    assert list(zip(result.rows[0].seeds, result.rows[0].folds, strict=True)) == [(5, 0), (5, 1), (6, 0), (6, 1)]
    assert len({o.weights for o in kept.search.outcomes.values()}) == len(kept.search.outcomes)  # each another one


@pytest.mark.parametrize("name", ["images", "two inputs"])
def test_the_result_is_the_same_for_any_number_of_jobs_and_threads(name: str) -> None:
    results = []
    for jobs, threads in ((1, 1), (2, 3), (8, 1), (None, 2)):
        set_num_threads(threads)
        result, kept = run(name, jobs=jobs, epochs=2)
        results.append((told(result), [kept.of(v, 0, f).weights for v in VALUES for f in (0, 1)]))
    assert all(result == results[0] for result in results)


def test_candidates_begin_with_the_same_weights_and_order() -> None:
    """At a learning rate that is 0 in float32 the candidates cannot tell themselves apart, but folds and seeds can."""
    def build(decay: Any) -> Any:
        model = dense()
        model.compile(optimizers.SGD(1e-60, decay=decay), model.losses[0], ["accuracy"])
        return model

    result, kept = run(build=build, values=[decay.none(), decay.decoupled(0.1)], seeds=2, folds=3)
    for seed, fold in ((0, 0), (1, 2)):
        one, two = (kept.of(value, seed, fold) for value in (decay.none(), decay.decoupled(0.1)))
        assert one.weights == two.weights
        assert one.history["val_loss"] == two.history["val_loss"]
    assert kept.of(decay.none(), 0).weights == kept.of(decay.none(), 0, 1).weights != kept.of(decay.none(), 1).weights
    none, other = result.rows
    np.testing.assert_array_equal(none.scores, other.scores)
    assert result.difference.p_value == 1


def test_rows_are_paired_however_soon_each_cell_is_done() -> None:
    """The second job gets the slow cells; what is compared is the same seed and fold all the same."""
    slow, _ = run(jobs=1, folds=4, seeds=2)

    class Backwards:
        jobs = 1

        def __init__(self, problem: Any) -> None:
            self.problem = problem

        def run(self, tasks: Any) -> Any:
            yield from ((cell, self.problem.train(cell, until)) for cell, until, _ in reversed(tasks))

    class Method:
        def run(self, under_way: Any, candidates: Any) -> None:
            under_way.executor = Backwards(under_way.problem)
            under_way.measure(candidates)

    assert told(run(method=Method(), folds=4, seeds=2)[0]) == told(slow)


def test_build_may_take_the_decay_the_rate_and_the_epochs() -> None:
    seen = []

    def build(learning_rate: float = 0.5, *, epochs: int, decay: Any) -> Any:
        seen.append((decay, learning_rate, epochs))
        model = models.Sequential([layers.Input((4,)), layers.Dense(3)])
        model.compile(optimizers.SGD(learning_rate, decay=decay),
                      losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
        return model

    result, _ = run(build=build, values=VALUES[:2], learning_rates=[0.01, 0.1], folds=2)
    assert sorted(seen[1:], key=str) == sorted([(v, r, 3) for r in (0.01, 0.1) for v in VALUES[:2]] * 2, key=str)
    assert {(r.candidate.decay, r.candidate.learning_rate) for r in result.rows} == {
        (v, r) for r in (0.01, 0.1) for v in VALUES[:2]}
    rate = result.best_row.candidate.learning_rate
    assert result.one_se_row.candidate.learning_rate == rate  # the rule compares decays, not rates


def test_rates_scale_the_schedule_of_the_optimizer() -> None:
    def build() -> Any:
        model = dense()
        model.compile(optimizers.SGD(schedules.Linear(0.4, 30)), model.losses[0])
        return model

    _, kept = run(build=build, values=[decay.epochs(2)], learning_rates=[0.1, 0.4], jobs=1)
    problem = kept.search.problem
    for cell in kept.search.outcomes:
        rates = problem.model(cell).optimizer.rates(np.arange(30))
        np.testing.assert_allclose(rates, cell.candidate.learning_rate * (1 - np.arange(30) / 30), rtol=1e-6)


def test_arrays_are_not_copied_for_each_cell() -> None:
    x = np.zeros((4000, 1000), np.uint8).astype(np.float32)  # 16 MB
    x[:, 0] = np.arange(4000) % 2

    def build() -> Any:
        model = models.Sequential([layers.Input((1000,)), layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    tracemalloc.start()
    search.decay(build, x, x[:, 0], VALUES, folds=5, epochs=1, batch_size=500, jobs=4, verbose=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 2


# ---- methods --------------------------------------------------------------------------------------------


def test_halving_goes_on_to_the_same_bits() -> None:
    values = [decay.none(), *search.grid(decay.epochs, 0.05, 50, 4)]
    whole, all_of_it = run(values=values, epochs=8, folds=2, seeds=2)
    halved, kept = run(values=values, epochs=8, folds=2, seeds=2, method=search.Halving((0.25, 0.5)))
    rows = {row.candidate: row for row in halved.rows}
    assert sorted(row.epochs for row in rows.values()) == [2, 2, 4, 8, 8]  # 5 → 3 → 2
    for full in whole.rows:
        row = rows[full.candidate]
        for name, curve in row.curves.items():
            np.testing.assert_array_equal(curve, full.curves[name][:, :row.epochs])
        if row.epochs == 8:
            for seed, fold in zip(row.seeds, row.folds, strict=True):
                cell = full.candidate.decay, seed, fold
                assert kept.of(*cell).weights == all_of_it.of(*cell).weights
    curves = {c: r.curves["val_accuracy"].mean(axis=0) for c, r in ((r.candidate, r) for r in whole.rows)}
    alive = list(curves)
    for until, count in ((2, 3), (4, 2)):  # the better ones of those that were there
        alive = sorted(alive, key=lambda c: -curves[c][until - 1])[:count]
        assert {curves[c][until - 1] for c in alive} == {
            curves[c][until - 1] for c in rows if rows[c].epochs > until}
    assert halved.best_row.epochs == 8


def test_halving_with_restarts_keeps_what_a_run_decays() -> None:
    lengths = []

    def build(epochs: int, decay: Any) -> Any:
        lengths.append((epochs, decay))
        model = dense()
        model.compile(optimizers.SGD(0.1, decay=decay), model.losses[0], ["accuracy"])
        return model

    values = [decay.epochs(4), decay.epochs(16), decay.decoupled(0.01), decay.none()]
    result, kept = run(build=build, values=values, epochs=8, method=search.Halving((0.25,), restart=True))
    assert {epochs for epochs, _ in lengths} == {2, 8}
    for epochs, value in lengths:
        if epochs == 2 and value.terms:
            (term,) = value.terms
            assert term.strength in ([1, 4] if term.kind == "epochs" else [0.04])
            whole = decay.epochs(term.strength * 4) if term.kind == "epochs" else decay.decoupled(0.01)
            shrinks = []
            for length, terms in ((2, value.terms), (8, whole.terms)):
                optimizer = optimizers.SGD(0.1)
                optimizer.set_run(4, length * 4)
                shrinks.append(optimizer.shrink(terms, length * 4))
            assert shrinks[0] == pytest.approx(shrinks[1], rel=0.02)
    assert sorted(row.epochs for row in result.rows) == [2, 2, 8, 8]
    assert all(cell.epochs == 8 for cell in kept.search.outcomes if cell.candidate == result.best_row.candidate
               and kept.search.outcomes[cell].done == 8)
    assert {r.candidate.decay for r in result.rows} == set(values)  # by the names that the user gave


def test_halving_that_cannot_restart_says_so() -> None:
    with pytest.raises(ValueError, match="'restart': 'build' has to take 'epochs'"):
        run(method=search.Halving(restart=True))

    def build(epochs: int) -> Any:
        return dense()

    values = [decay.none(), decay.constrained(10)]
    with pytest.raises(ValueError, match=r"constrained\(10.0\) cannot be rescaled to a shorter run"):
        run(build=build, values=values, method=search.Halving(restart=True))
    run(values=values, method=search.Halving((0.5,)))  # the same runs go on: nothing to rescale


def test_optuna_is_asked_and_told() -> None:
    pytest.importorskip("optuna")
    method = search.Optuna(decay.decoupled, 1e-3, 10, trials=4)
    result, _ = run(values=[decay.none()], method=method, jobs=1)
    strengths = [r.candidate.decay.terms[0].strength for r in result.rows if r.candidate.decay.terms]
    assert len(strengths) == 4
    assert all(1e-3 <= s <= 10 for s in strengths)
    assert result.rows[0].candidate.decay == decay.none()
    again, _ = run(values=[decay.none()], method=search.Optuna(decay.decoupled, 1e-3, 10, trials=4), jobs=1)
    assert told(again) == told(result)


def test_a_method_of_ones_own() -> None:
    class Bisection:
        def run(self, under_way: Any, candidates: Any) -> None:
            low, high = -3.0, 1.0
            for _ in range(3):
                pair = [search.Candidate(decay.decoupled(10**v)) for v in (low, high)]
                worst = under_way.ranked(under_way.measure(pair))[-1]
                low, high = ((low + high) / 2, high) if worst == pair[0] else (low, (low + high) / 2)

    result, kept = run(method=Bisection())
    assert len(result.rows) == 4  # what was measured before is not measured again
    assert len(kept.search.outcomes) == 8


# ---- failures -------------------------------------------------------------------------------------------


def test_a_cell_that_fails_is_told_and_ends_nothing() -> None:
    def build(decay: Any) -> Any:
        if decay == VALUES[2]:
            raise MemoryError("no room for that")
        model = dense()
        model.compile(optimizers.SGD(1e30 if decay == VALUES[1] else 0.1, decay=decay), model.losses[0], ["accuracy"])
        return model

    result, _ = run(build=build, method=search.Halving((0.5,), keep=0.9))
    none, huge, large = result.rows
    assert result.best == result.one_se == VALUES[0]
    assert none.failures == []
    assert len(huge.failures) == len(large.failures) == 2
    assert "nan after epoch" in huge.failures[0] or "inf after epoch" in huge.failures[0]
    assert "MemoryError: no room for that" in repr(result)
    assert "failed" in repr(result.table)
    assert np.isnan(result.to_json()["rows"][1]["mean"])


def test_all_failing_is_an_error_that_tells_the_first() -> None:
    def build() -> Any:
        model = dense()
        model.compile(optimizers.SGD(1e30), model.losses[0])
        return model

    with pytest.raises(ValueError, match=r"every training failed; the first: seed 0 fold 0: (val_)?loss is"):
        run(build=build)


def test_warnings_are_as_they_were(recwarn: pytest.WarningsRecorder) -> None:
    import warnings

    before = list(warnings.filters)
    run(jobs=4)
    assert warnings.filters == before
    assert not [w for w in recwarn if "weight decay" in str(w.message).lower()]


# ---- on disk --------------------------------------------------------------------------------------------


class Counted:
    """A `build` that counts its calls, and may be told to press Ctrl-C at one."""

    def __init__(self, press: int = 0) -> None:
        self.calls, self.press = 0, press

    def __call__(self) -> Any:
        self.calls += 1
        if self.calls == self.press:
            _thread.interrupt_main()
        return dense()


def test_finished_cells_are_not_run_again(tmp_path: Path) -> None:
    first = Counted()
    result, _ = run(build=first, output=tmp_path)
    assert first.calls == 1 + 3 * 2  # a probe, then each cell once
    lost = next((tmp_path / "cells").iterdir())
    again = Counted()
    assert told(run(build=again, output=tmp_path)[0]) == told(result)
    assert again.calls == 1
    more = Counted()
    run(build=more, output=tmp_path, values=[*VALUES, decay.decoupled(1)])
    assert more.calls == 1 + 2
    lost.unlink()
    one = Counted()
    assert told(run(build=one, output=tmp_path)[0]) == told(result)
    assert one.calls == 1 + 1
    assert not list(tmp_path.glob("running/*"))


def test_halving_that_goes_on_drops_the_same(tmp_path: Path) -> None:
    values = [decay.none(), *search.grid(decay.epochs, 0.05, 50, 4)]
    method = search.Halving((0.25, 0.5))
    settings = {"values": values, "epochs": 8, "metric": "val_loss", "output": tmp_path}
    result, _ = run(method=method, **settings)
    assert told(run(method=method, build=(again := Counted()), **settings)[0]) == told(result)
    assert again.calls == 1
    # Now the survivors know more than the others did at the rung; what they know must not decide.
    for path in (tmp_path / "cells").iterdir():
        row = json.loads(path.read_text())
        if row["done"] == 8:
            row["history"]["val_loss"][-1] = 1e3
            path.write_text(json.dumps(row))
    run(method=method, build=(again := Counted()), **settings)
    assert again.calls == 1


@pytest.mark.parametrize("press", [2, 4, 6])
def test_ctrl_c_keeps_what_is_done(press: int, tmp_path: Path) -> None:
    whole, _ = run(epochs=4)
    with pytest.raises(KeyboardInterrupt):
        run(epochs=4, build=Counted(press), output=tmp_path, jobs=1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("wdfast-search")]
    done = len(list((tmp_path / "cells").iterdir()))
    again = Counted()
    assert told(run(epochs=4, build=again, output=tmp_path)[0]) == told(whole)
    assert again.calls == 1 + 6 - done


def test_a_killed_search_goes_on_inside_a_cell(tmp_path: Path) -> None:
    """What `kill -9` leaves: a cell's checkpoint, and no outcome."""
    values = [decay.epochs(2)]
    whole, all_of_it = run(values=values, epochs=6)
    _, kept = run(values=values, epochs=6, output=tmp_path)
    problem = kept.search.problem
    (cell, *_) = kept.search.outcomes
    key = problem.key(cell)
    (tmp_path / "cells" / f"{key}.json").unlink()
    part = problem.train(cell, 4, tmp_path / "running" / key)
    assert part.done == 4
    result, resumed = run(values=values, epochs=6, output=tmp_path)
    assert told(result) == told(whole)
    assert resumed.of(values[0]).weights == all_of_it.of(values[0]).weights
    assert not list((tmp_path / "running").iterdir())


@pytest.mark.parametrize(("what", "change"), [
    ("data", {"x": 1}), ("data", {"y": 1}), ("data", {"sample_weight": np.ones(61)}),
    ("class_weight", {"class_weight": {0: 2.0}}), ("shuffle", {"shuffle": False}),
    ("folds", {"folds": 3}), ("folds", {"seed": 1}), ("epochs", {"epochs": 2}), ("batch_size", {"batch_size": 9}),
    ("network", {"units": 6}), ("network", {"activation": "tanh"}), ("losses", {"loss": losses.Huber(2.0)}),
    ("metrics", {"metrics": ["mae", "mse"]}), ("metric", {"metric": "val_mae", "method": "halving"}),
    ("optimizer", {"rate": 0.01}), ("optimizer", {"default": 0.01}), ("weights", {"initializer": "he_normal"}),
    ("callbacks", {"callbacks": lambda: [callbacks.LearningRateScheduler(lambda epoch: 0.5)]}),
])
def test_another_search_in_the_folder_is_refused(what: str, change: dict[str, Any], tmp_path: Path) -> None:
    x, y = features()
    change = dict(change)

    def searched(x: np.ndarray, y: np.ndarray, *, units: int = 5, activation: str = "relu", loss: Any = "huber",
                 rate: float = 0.02, metrics: Any = ("mae",), default: float = 1.0,
                 initializer: str = "glorot_uniform", **settings: Any) -> search.Result:
        def build(learning_rate: float = default) -> Any:
            first = layers.Dense(units, activation, kernel_initializer=initializer)
            model = models.Sequential([layers.Input((4,)), first, layers.Dense(1)])
            model.compile(optimizers.AdamW(rate * learning_rate), loss, metrics)
            return model

        settings = {"folds": 2, "epochs": 1, "batch_size": 8, "verbose": 0, "output": tmp_path, **settings}
        return search.decay(build, x, y, [decay.none()], **settings)

    searched(x, y, method=change.get("method", "grid"))
    other = {"x": x, "y": y}
    for name in ("x", "y"):
        if change.pop(name, 0):
            other[name] = other[name].copy()
            other[name][-2:] = other[name][[-1, -2]]
    with pytest.raises(ValueError, match=rf"holds another search \(other [\w, ]*\b{what}\b.*give another folder"):
        searched(**other, **change)
    searched(x, y)  # nothing was spoilt


@pytest.mark.parametrize("method", ["grid", "constrained"])
def test_another_metric_of_the_same_trainings(method: str, tmp_path: Path) -> None:
    """Where the metric does not decide what is trained, nothing is; results.json has the new one's scores."""
    values = [decay.none(), decay.epochs(2)]

    def searched(metric: str, folder: Path = tmp_path, method: str = method) -> tuple[search.Result, int]:
        x, y = features()
        result = search.decay(build := Counted(), x, y, values, method=method, folds=2, epochs=4, batch_size=8,
                              metric=metric, output=folder, report=False, verbose=0)
        return result, build.calls

    searched("val_accuracy")
    result, calls = searched("val_loss")
    assert calls == 1
    alone, _ = searched("val_loss", tmp_path / "alone")
    assert told(result) == told(alone) == told(searched("val_loss")[0])
    assert json.loads((tmp_path / "results.json").read_text())["metric"] == "val_loss"
    # A method that chooses by it may go on there, and others after it; from then on, not one that chooses by another.
    searched("val_loss", method="halving")
    searched("val_accuracy")
    with pytest.raises(ValueError, match=r"holds another search \(other metric\)"):
        searched("val_accuracy", method="halving")
    searched("val_loss", method="halving")


def test_a_metric_with_a_value_for_each_class_is_known_of_old_cells(tmp_path: Path) -> None:
    def build() -> Any:
        model = dense()
        model.compile("adam", "categorical_crossentropy", [metrics.F1Score()])
        return model

    x, y = features()
    settings = {"folds": 2, "epochs": 1, "verbose": 0, "output": tmp_path, "report": False}
    search.decay(build, x, np.eye(3, dtype=np.float32)[y], VALUES[:1], **settings)
    with pytest.raises(ValueError, match=r"'metric': expected one of .*val_f1_score_0.*, got 'val_f1_score'"):
        search.decay(build, x, np.eye(3, dtype=np.float32)[y], VALUES[:1], metric="val_f1_score", **settings)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "other"}', "\x00\x00"])
def test_a_damaged_outcome_is_named(content: str, tmp_path: Path) -> None:
    run(output=tmp_path)
    path = next((tmp_path / "cells").iterdir())
    path.write_text(content)
    with pytest.raises(ValueError, match=path.name):
        run(output=tmp_path)
    path.unlink()
    run(output=tmp_path, build=(again := Counted()))
    assert again.calls == 2
