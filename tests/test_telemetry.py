"""Telemetry: its numbers against NumPy, where they appear, and the warnings before a run."""

from __future__ import annotations

import csv
import warnings
from typing import Any

import numpy as np
import pytest

from wdfast import (
    _native,
    callbacks,
    decay,
    initializers,
    layers,
    models,
    ops,
    optimizers,
    regularizers,
    schedules,
    telemetry,
)
from wdfast.graph import Parameter

EPS = 2.0**-24
RATE, M = 0.1, 4  # of the first step; steps per epoch
# Per decay the pull in the gradient's unit: the factors of p and of sign(p).
PULLS = {
    "none": (decay.none(), 0, 0), "l2": (decay.l2(0.3), 0.3, 0), "l1": (decay.l1(0.2), 0, 0.2),
    "elastic": (decay.elastic(l1=0.2, l2=0.3), 0.3, 0.2), "decoupled": (decay.decoupled(0.4), 0.4, 0),
    "scheduled": (decay.decoupled(schedules.Linear(0.4, 10)), 0.4, 0), "cautious": (decay.cautious(0.4), 0.4, 0),
    "independent": (decay.independent(0.01), 0.01 / RATE, 0), "corrected": (decay.corrected(0.4), 0.4, 0),
    "epochs": (decay.epochs(5), -np.expm1(-1 / (5 * M)) / RATE, 0),
    "l1 and decoupled": (decay.l1(0.2) + decay.decoupled(0.4), 0.4, 0.2),
    "proximal l1": (decay.l1(0.2, proximal=True), 0, 0.2),
    "proximal elastic": (decay.elastic(l1=0.2, l2=0.3, proximal=True), 0.3, 0.2),
    "p_norm 2": (decay.p_norm(0.3, q=2), 0.3, 0), "max_norm": (decay.max_norm(0.5), 0, 0),
    "max_norm and l2": (decay.max_norm(0.5) + decay.l2(0.3), 0.3, 0),
}
UNTOLD = {
    "toward": decay.toward(None, 0.1), "toward coupled": decay.toward(None, 0.1, coupled=True),
    "constrained": decay.constrained(1), "p_norm 1.5": decay.p_norm(0.3, q=1.5), "stable": decay.stable(0.1),
}


def parameters() -> list[Parameter]:
    rng = np.random.default_rng(0)
    made = []
    for role, shape in (("kernel", (31, 7)), ("bias", (33,)), ("norm_scale", (5,)), ("kernel", (4, 1))):
        p = Parameter(rng.standard_normal(shape), role=role, name=f"{role}{shape}")
        p.value[np.abs(p.value) < 0.3] = 0
        p.grad = rng.standard_normal(shape).astype(np.float32)
        made.append(p)
    return made


def measured(optimizer: Any, given: list[Parameter], steps: int = 1) -> dict[str, np.ndarray]:
    optimizer.set_run(M, 10 * M)
    program = _native.Program(training=True)
    plan = optimizer.plan(given)
    hyper, outputs = plan.append(program, measured=True)
    program.compile(outputs)
    results = {o: np.empty((steps, *program.spec(o)[0])) for o in outputs}
    rows = plan.hyper(0, steps)
    program.run(steps, {hyper: rows}, results, first_step=0, seed=0)
    return telemetry.measure(plan, [results[o] for o in outputs], rows)


@pytest.mark.parametrize("name", PULLS)
@pytest.mark.parametrize("make", [optimizers.SGD, optimizers.Adam], ids=["sgd", "adam"])
def test_numbers_are_those_of_numpy(name: str, make: Any, isa: str) -> None:
    chosen, l2, l1 = PULLS[name]
    given, optimizer = parameters(), make(schedules.Linear(RATE, 10), decay=chosen)
    given[1].regularizer = regularizers.L2(0.05)
    given[0].grad[0, :3] = [0, 1, 2]
    kernels = np.concatenate([p.value.ravel() for p in given if p.role == "kernel"]).astype(np.float64)
    terms = [(0.1 * given[1].value.astype(np.float64)) ** 2, (l2 * kernels + l1 * np.sign(kernels)) ** 2]
    slopes = [p.grad.astype(np.float64) ** 2 for p in given if p.role == "bias" or (p.role == "kernel" and (l2 or l1))]
    expected = {
        "weight_norm": np.sqrt((kernels**2).sum()), "sparsity": (kernels == 0).mean(), "nonfinite": 0.0,
        "decay_to_gradient": np.sqrt(sum(t.sum() for t in terms) / sum(s.sum() for s in slopes)),
    }
    assert expected["sparsity"] > 0.1
    got = measured(optimizer, given)
    assert set(got) == set(expected) == set(telemetry.TELEMETRY)
    for key, value in expected.items():  # sums of at most 221 positive float32 terms, then a root
        np.testing.assert_allclose(got[key], [value], rtol=64 * EPS, err_msg=key)


def test_ratio_of_norm_target_has_its_norm() -> None:
    given = parameters()
    kernels = [p for p in given if p.role == "kernel"]
    norms = [np.linalg.norm(p.value.astype(np.float64)) for p in kernels]
    assert min(norms) < 2 < max(norms)  # one is pulled out, one in
    pulls = [0.01 * (1 - 2 / norm) / RATE * norm for norm in norms]
    slope = sum(np.square(p.grad, dtype=np.float64).sum() for p in kernels)
    got = measured(optimizers.SGD(RATE, decay=decay.norm_target(2, k=0.01)), given)["decay_to_gradient"]
    np.testing.assert_allclose(got, np.sqrt(np.square(pulls).sum() / slope), rtol=64 * EPS)


@pytest.mark.parametrize("name", UNTOLD)
def test_pulls_that_the_sums_do_not_tell_are_left_out(name: str) -> None:
    assert np.isnan(measured(optimizers.Adam(RATE, decay=UNTOLD[name]), parameters())["decay_to_gradient"]).all()
    ratios = []
    for chosen in (UNTOLD[name], None):
        given = parameters()
        given[1].regularizer = regularizers.L2(0.05)  # of this one they tell
        ratios.append(measured(optimizers.Adam(RATE, decay=chosen), given)["decay_to_gradient"])
    np.testing.assert_array_equal(*ratios)
    assert 0 < ratios[0] < np.inf


def test_non_finite_gradients_are_counted() -> None:
    given = parameters()
    given[0].grad[3, :2] = [np.nan, np.inf]
    given[1].grad[0] = -np.inf
    assert measured(optimizers.SGD(0.1), given)["nonfinite"].tolist() == [3.0]


def test_no_kernel_and_no_rate_divide_by_nothing() -> None:
    bias = [p for p in parameters() if p.role == "bias"]
    got = measured(optimizers.SGD(schedules.EarlyOnly(0.1, 1), weight_decay=0.1), bias, steps=3)
    assert got["weight_norm"].tolist() == got["sparsity"].tolist() == got["decay_to_gradient"].tolist() == [0.0] * 3
    got = measured(optimizers.SGD(schedules.EarlyOnly(0.1, 1), weight_decay=0.1), parameters(), steps=3)
    assert got["decay_to_gradient"][0] > 0.01
    assert got["decay_to_gradient"][1:].tolist() == [0.0, 0.0]


# ---- in a run -------------------------------------------------------------------------------------------


def network(optimizer: Any, regularizer: Any = None, norm: bool = False) -> models.Sequential:
    stack = [layers.Input((6,)), layers.Dense(5, kernel_regularizer=regularizer, name="first")]
    stack += [layers.BatchNormalization()] if norm else []
    model = models.Sequential([*stack, layers.Activation("relu"), layers.Dense(3, name="last")])
    model.compile(optimizer, "mse")
    return model


def data(samples: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((samples, 6), np.float32), rng.standard_normal((samples, 3), np.float32)


def test_logs_carry_it_only_when_asked(tmp_path: Any) -> None:
    logger = callbacks.CSVLogger(tmp_path / "log.csv")
    model = network(optimizers.SGD(0.1, weight_decay=0.5))
    plain = model.fit(*data(), epochs=1, verbose=0).history
    assert not set(plain) & set(telemetry.TELEMETRY)
    norms = []

    def note(epoch: int = -1, logs: Any = None) -> None:
        norms.append(np.sqrt(sum((w.astype(np.float64) ** 2).sum() for w in model.get_weights() if w.ndim == 2)))

    note()
    watch = callbacks.LambdaCallback(on_epoch_end=note)
    history = model.fit(*data(), batch_size=40, epochs=3, verbose=0, telemetry=True, callbacks=[logger, watch]).history
    np.testing.assert_allclose(history["weight_norm"], norms[:3], rtol=64 * EPS)  # a step sees what was before it
    assert norms[0] > norms[1] > norms[2]
    assert min(history["decay_to_gradient"]) > 0
    assert history["nonfinite"] == history["sparsity"] == [0.0] * 3
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [float(row["weight_norm"]) for row in rows] == history["weight_norm"]


def test_it_changes_no_bit_of_the_training() -> None:
    weights = []
    for asked in (False, True):
        initializers.set_seed(3)
        model = network(optimizers.Adam(0.01, weight_decay=0.5))
        model.fit(*data(37), batch_size=8, epochs=3, verbose=0, seed=1, telemetry=asked)
        weights.append([w.tobytes() for w in model.get_weights()])
    assert weights[0] == weights[1]


# ---- warnings -------------------------------------------------------------------------------------------


def test_twice() -> None:
    model = network(optimizers.SGD(0.1, weight_decay=0.5), regularizers.L2(0.01))
    with pytest.warns(telemetry.WeightDecayWarning, match=r"acts twice on first.*decoupled\(0\.5\)") as caught:
        model.fit(*data(), epochs=1, verbose=0)
    assert caught[0].filename == __file__
    for chosen, own in ((decay.l1(0.01, proximal=True), regularizers.L1(0.01)),
                        (decay.norm_target(1), regularizers.L2(0.01)),
                        (decay.decoupled(schedules.Linear(0.1, 5)), regularizers.L1L2(0.1, 0.1)),
                        (decay.decoupled(0.1), lambda w: ops.sum(ops.square(w)) * 0.01),
                        (decay.decoupled(0.1), lambda w: ops.sum(ops.abs(w) ** 3)),
                        (decay.l1(0.1), lambda w: ops.sum(ops.abs(w)) + ops.mean(ops.square(w)))):
        with pytest.warns(telemetry.WeightDecayWarning, match="acts twice on first"):
            network(optimizers.SGD(0.1, decay=chosen), own).fit(*data(), epochs=1, verbose=0)
    for quiet in (network(optimizers.SGD(0.1), regularizers.L2(0.01)),
                  network(optimizers.SGD(0.1, decay=decay.max_norm(3)), regularizers.L2(0.01)),
                  network(optimizers.SGD(0.1, weight_decay=0.5), regularizers.L1(0.01)),
                  network(optimizers.SGD(0.1, weight_decay=0.5), regularizers.OrthogonalRegularizer(0.01)),
                  network(optimizers.SGD(0.1, weight_decay=0.0), regularizers.L2(0.01)),
                  network(optimizers.SGD(0.1, weight_decay=0.5), lambda w: ops.sum(ops.abs(w)) * 0.01),
                  network(optimizers.SGD(0.1, weight_decay=0.0), lambda w: ops.sum(ops.square(w)) * 0.01),
                  network(optimizers.SGD(0.1, weight_decay=0.5), regularizers.L2(0.0))):
        quiet.fit(*data(), epochs=1, verbose=0)  # a warning would be an error


def test_almost_no_decay_states_timescale_and_shrink() -> None:
    # The example of the specification: λ = 0.01, η = 1e-3, MNIST at batch 128 for 10 epochs.
    model = network(optimizers.AdamW(1e-3, weight_decay=0.01))
    with pytest.warns(telemetry.WeightDecayWarning, match="469 steps .* by 0.046 in all, .* of 213 epochs"):
        telemetry.warn_about_decay(model, 10, 469, fixed_rate=True)
    with pytest.warns(telemetry.WeightDecayWarning, match=r"decoupled\(0.01\) is almost no decay") as caught:
        model.fit(*data(), batch_size=1, epochs=3, verbose=0)
    assert caught[0].filename == __file__
    for weak in (decay.epochs(100), decay.independent(1e-5), decay.cautious(0.01)):
        with pytest.warns(telemetry.WeightDecayWarning, match="is almost no decay"):
            network(optimizers.Adam(1e-3, decay=weak)).fit(*data(), batch_size=1, epochs=3, verbose=0)


@pytest.mark.parametrize(("optimizer", "kwargs"), [
    (optimizers.AdamW(1e-3, weight_decay=0.0), {}),
    (optimizers.AdamW(1e-3, weight_decay=0.01), {"batch_size": 8}),
    (optimizers.AdamW(1e-3, weight_decay=0.01), {"epochs": 1}),
    (optimizers.AdamW(1e-3, weight_decay=0.01), {"epochs": 5, "initial_epoch": 4}),
    (optimizers.AdamW(1e-3, weight_decay=0.01),
     {"callbacks": [callbacks.LearningRateScheduler(lambda epoch: 0.5)]}),
    (optimizers.AdamW(0.01, weight_decay=0.5), {}),
    (optimizers.Adam(1e-3, decay=decay.l2(1e-5)), {}),
    (optimizers.Adam(0.0, weight_decay=0.01), {}),
    (optimizers.Adam(1e-3, decay=decay.max_norm(3)), {}),
    (optimizers.Adam(1e-3, decay=decay.max_norm(3) + decay.decoupled(0.01)), {}),
    (optimizers.Adam(1e-3, decay=decay.l1(1e-6, proximal=True)), {}),
    (optimizers.Adam(1e-3, decay=decay.toward(None, 0.01)), {}),
    (optimizers.Adam(1e-3, decay=decay.stable(0.01)), {}),
    (optimizers.Adam(1e-3, decay=decay.epochs(3)), {}),
], ids=["λ is 0", "a trial", "one epoch", "one epoch is left", "rate is set elsewhere", "strong", "no closed form",
        "no steps", "a bound", "a bound and weak", "proximal", "anchored", "stable", "epochs"])
def test_no_warning(optimizer: Any, kwargs: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network(optimizer).fit(*data(120), **{"epochs": 3, "batch_size": 1, "verbose": 0, **kwargs})


@pytest.mark.parametrize(("optimizer", "shrinks"), [
    (optimizers.AdamW(0.1, weight_decay=0.02), 0.1 * 0.02),
    (optimizers.SGD(0.1, decay=decay.l2(0.02)), 0.1 * 0.02),
    (optimizers.SGD(0.1, momentum=0.9, decay=decay.l2(0.02)), 0.1 * 0.02 / (1 - 0.9)),
])
def test_total_shrink(optimizer: Any, shrinks: float) -> None:
    kernel, bias = (Parameter(np.ones((2, 2)), role=role, name=role) for role in ("kernel", "bias"))
    np.testing.assert_allclose(telemetry.total_shrink(optimizer, kernel, 50), 1 - (1 - shrinks) ** 50, rtol=1e-12)
    assert telemetry.total_shrink(optimizer, bias, 50) == 0


def test_total_shrink_follows_the_schedule() -> None:
    kernel = Parameter(np.ones(2), role="kernel", name="kernel")
    rate = schedules.CosineDecay(0.1, 100)
    for chosen, factors in ((decay.decoupled(0.2), 0.2 * rate(np.arange(100))),
                            (decay.independent(0.02), 0.02 * rate(np.arange(100)) / 0.1),
                            (decay.epochs(5), -np.expm1(-rate(np.arange(100)) / 0.1 / (5 * M)))):
        optimizer = optimizers.AdamW(rate, decay=chosen)
        optimizer.set_run(M, 100)
        np.testing.assert_allclose(telemetry.total_shrink(optimizer, kernel, 100), 1 - np.prod(1 - factors), rtol=1e-12)


@pytest.mark.parametrize("name", [*UNTOLD, "l1", "l2", "proximal l1", "p_norm 2", "max_norm", "norm_target"])
def test_total_shrink_is_not_guessed(name: str) -> None:
    chosen = UNTOLD.get(name) or (decay.norm_target(1) if name == "norm_target" else PULLS[name][0])
    kernel = Parameter(np.ones((2, 2)), role="kernel", name="kernel")
    assert telemetry.total_shrink(optimizers.Adam(1e-6, decay=chosen), kernel, 50) is None


# ---- kernels before a norm ------------------------------------------------------------------------------


def test_decay_table_and_summary_mark_kernels_before_a_norm() -> None:
    marked = {row[0]: row[2] for row in network(optimizers.AdamW(weight_decay=0.1), norm=True).decay_table()}
    assert [name for name, text in marked.items() if text.endswith("before a norm")] == ["first/kernel"]
    for optimizer, norm, lines in ((optimizers.AdamW(), True, 1), (optimizers.SGD(), True, 0),
                                   (optimizers.AdamW(), False, 0), (optimizers.SGD(decay=decay.max_norm(3)), True, 0)):
        printed: list[str] = []
        network(optimizer, norm=norm).summary(print_fn=printed.append)
        assert sum("effective learning rate" in line for line in printed) == lines


def test_decay_table_by_role_adds_up_to_the_whole() -> None:
    model = network(optimizers.AdamW(weight_decay=0.1), norm=True)
    whole, grouped = model.decay_table(), model.decay_table(by_role=True)
    assert grouped[0] == ("Parameters", *whole[0][1:])
    assert len(grouped) < len(whole)
    for _, *same, _ in whole[1:]:
        alike = [row for row in whole[1:] if list(row[1:-1]) == same]
        row, = (row for row in grouped if list(row[1:-1]) == same)
        assert int(row[0]) == len(alike)
        assert int(row[-1].replace(",", "")) == sum(int(other[-1].replace(",", "")) for other in alike)
    assert sum(int(row[-1].replace(",", "")) for row in grouped[1:]) == model.count_params()


def normed(inputs: Any, outputs: Any) -> list[str]:
    model = models.Model(inputs, outputs)
    model.compile("sgd")
    return [p.name for p in model.parameters if p.normed]


def test_a_kernel_is_normed_only_if_all_its_readers_are_norms() -> None:
    x = layers.Input((5,))
    shared, norm = layers.Dense(5, name="shared"), layers.BatchNormalization
    first, second = shared(x), shared(layers.Activation("tanh")(x))
    assert normed(x, [norm()(first), second]) == []
    both = [norm()(first), norm()(second)]
    assert normed(x, both) == ["shared/kernel"]
    assert normed(x, [*both, first]) == []  # the flag goes where it is not true any more
    frozen = norm()
    frozen.trainable = False
    assert normed(x, [norm()(first), frozen(second)]) == []
    kernel = next(p for p in shared.parameters if p.role == "kernel")
    assert normed(x, [*both, ops.matmul(x, kernel)]) == []


def test_normed_is_what_corrected_decays_by() -> None:
    model = network(optimizers.SGD(schedules.Linear(0.2, 4), decay=decay.corrected(0.5)), norm=True)
    model.optimizer.iterations = 2
    kernels = [p for p in model.parameters if p.role == "kernel"]
    before = [p.value.copy() for p in kernels]
    for p in model.trained:
        p.grad[...] = 0
    model.optimizer.apply(model)
    for p, old, shrink in zip(kernels, before, [0.1**2 / 0.2 * 0.5, 0.1 * 0.5], strict=True):
        np.testing.assert_allclose(p.value, old * (1 - shrink), rtol=4 * EPS)
