"""What a decay does alone; what memory, clips, averages and accumulation do; decays as values."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from decay_reference import (
    DECAYS,
    EPS,
    RATE,
    Reference,
    gradients,
    optimizer_of,
    parameters,
    step,
    train,
)

from wdfast import _native, decay, optimizers, schedules
from wdfast.graph import Parameter


@pytest.mark.parametrize("name", [name for name in DECAYS if name not in (
    "none", "toward coupled", "stable", "stable exact", "constrained warm_start", "constrained inflection")])
def test_zero_gradient_is_the_closed_form(name: str, isa: str) -> None:
    """SGD, g = 0, one step: the decay alone; those left out need a step before."""
    made = parameters()
    refs = [Reference("sgd", p.value) for p in made]
    start = refs[0].p.copy()
    zero = [np.zeros(p.shape, np.float32) for p in made]
    step(refs, zero, name, RATE, RATE, 0)
    optimizer_of("sgd", DECAYS[name]).apply(made)
    np.testing.assert_allclose(made[0].value, refs[0].p, rtol=8 * EPS, atol=8 * EPS * RATE)
    assert np.abs(refs[0].p - start).max() >= 100 * 8 * EPS * 4
    assert made[1].value.tobytes() == parameters()[1].value.tobytes()


def test_proximal_l1_gives_exact_zeros(isa: str) -> None:
    made = parameters()
    optimizer_of("sgd", decay.l1(4.0, proximal=True)).apply(made)
    start = parameters()[0].value
    assert ((made[0].value == 0) == (np.abs(start) <= np.float32(0.2))).all()
    assert (made[0].value == 0).any()


@pytest.mark.parametrize("name", [name for name in DECAYS if name != "none"])
def test_same_bits_for_any_number_of_threads_and_program(name: str) -> None:
    """1, 2, 3, 8 threads, and the native program; frozen and gradient-less parameters stay to the bit."""
    results = set()
    for threads in (1, 2, 3, 8, 0):
        _native.set_num_threads(threads or 2)
        rng = np.random.default_rng(3)
        shape = (61, 7) if name == "toward" else (301, 167)
        made = [Parameter(rng.standard_normal(shape), role="kernel", name=n) for n in ("kernel", "frozen", "idle")]
        made[0].grad, made[1].grad = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
        made[1].trainable = False
        before = [p.numpy() for p in made]
        value = DECAYS[name]
        value = value if name != "toward" else decay.toward(None, 0.3)
        optimizer = optimizer_of("adam", value, schedules.Linear(0.1, 9))
        if threads:
            for _ in range(8):
                optimizer.apply(made)
        else:
            optimizer.build(made)
            program = _native.Program(training=True)
            plan = optimizer.plan(made[:1])
            hyper, stats = plan.append(program, measured=True)
            program.compile(stats)
            program.run(8, {hyper: plan.hyper(0, 8)}, {stats[0]: np.empty((8, 1, 6))})
        assert made[1].value.tobytes() == before[1].tobytes()
        assert made[2].value.tobytes() == before[2].tobytes()
        assert (made[0].value != before[0]).any()
        results.add(made[0].value.tobytes())
    assert len(results) == 1


def test_toward_starts_at_no_pull_and_then_pulls(isa: str) -> None:
    """Coupled to the first weights: one step without a pull, then weights moved by d come back by η λ d."""
    made, optimizer = parameters(), optimizer_of("sgd", decay.toward(None, 0.5, coupled=True))
    optimizer.apply(made)
    assert made[0].value.tobytes() == parameters()[0].value.tobytes()
    made[0].value += 2
    optimizer.apply(made)
    np.testing.assert_allclose(made[0].value, parameters()[0].value + np.float32(2 - RATE * 0.5 * 2), atol=1e-6)


@pytest.mark.parametrize("name", [*(name for name in DECAYS if name.startswith("constrained")), "norm_target",
                                  "stable", "stable exact", "toward coupled", "independent"])
@pytest.mark.parametrize("built", [True, False])
def test_memory_is_part_of_the_state(name: str, built: bool) -> None:
    options = {"use_ema": True, "gradient_accumulation_steps": 2}
    one, optimizer = parameters(), optimizer_of("adam", DECAYS[name], **options)
    train(optimizer, one, 5)
    state = {key: np.array(value) for key, value in optimizer.state_dict().items()}
    weights = [p.numpy() for p in one]
    train(optimizer, one, 15, first=5)
    two, other = parameters(seed=9), optimizer_of("adam", DECAYS[name], **options)
    if built:
        other.build(two)
    other.load_state_dict({key: value.item() if value.ndim == 0 else value for key, value in state.items()})
    for p, value in zip(two, weights, strict=True):
        p.assign(value)
    train(other, two, 15, first=5)
    assert [p.value.tobytes() for p in two] == [p.value.tobytes() for p in one]


# ---- the bound of a constraint --------------------------------------------------------------------------


def squares_of(step: int) -> float:
    """R after a step: from 10 it grows by 1, 2, 3, 4, then by 1 and less."""
    return 10.0 + (step * (step + 1) / 2 if step < 5 else 10 + (step - 4) ** 0.8)


def follow(optimizer: Any, steps: int) -> list[float]:
    """Trains 500 weights whose gradients move them to √(R/500) of each step; their ‖p‖² after each."""
    p, seen = np.full(500, np.sqrt(squares_of(0) / 500), np.float32), []
    for t in range(1, steps + 1):
        optimizer.step([p], [(p - np.sqrt(squares_of(t) / 500)).astype(np.float32)])
        seen.append(float(np.square(p, dtype=np.float64).sum()))
    return seen


@pytest.mark.parametrize(("how", "start", "kappa"), [
    ({"warm_start": 3}, 3, squares_of(3)), ({"inflection": 1}, 5, squares_of(5)), ({"initial": 1.2}, 0, 12.0),
    ({"inflection": 2}, 6, squares_of(6))])
def test_bound_is_set_where_the_paper_says(how: dict[str, Any], start: int, kappa: float, isa: str) -> None:
    """The multiplier is 0 until then; from then on it is the sum of what the norm is above κ."""
    for exact in (False, True):
        seen = follow(optimizers.SGD(1.0, decay=decay.constrained(**how, exact=exact)), 24)
        root, multiplier = np.sqrt(squares_of(0)), 0.0
        for t in range(1, 25):
            if t > start:
                multiplier = max(0.0, multiplier + (root**2 - kappa) / 500)
            root = np.sqrt(squares_of(t)) - 2 * multiplier * root
            assert seen[t - 1] == pytest.approx(root**2, rel=1e-5), t
        assert root**2 < 0.95 * squares_of(24), "the decay's own effect must show"


def test_table_shows_the_bound_of_each_parameter() -> None:
    optimizer = optimizers.Adam(0.01, decay=decay.constrained(initial=0.5))
    made = [Parameter(np.full((20, 30), value), role="kernel", name=f"w{value}") for value in (0.1, 0.2)]
    for p in made:
        p.grad = np.zeros(p.shape, np.float32)
    assert [row[2:4] for row in optimizer.decay_table(made)[1:]] == [("constrained(initial=0.5)", "–")] * 2
    optimizer.apply(made)
    assert [row[2] for row in optimizer.decay_table(made)[1:]] == [
        "constrained(initial=0.5), κ = 3", "constrained(initial=0.5), κ = 12"]


@pytest.mark.parametrize("how", [{}, {"kappa": 1, "initial": 1}, {"warm_start": 2, "inflection": 3}])
def test_a_constraint_has_one_bound(how: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="expected one of kappa, initial, warm_start and inflection"):
        decay.constrained(**how)


@pytest.mark.parametrize("how", [{"kappa": -1}, {"initial": np.nan}, {"warm_start": 0}, {"inflection": 2.5}])
def test_bounds_that_make_no_sense(how: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"decay\.constrained"):
        decay.constrained(**how)


def test_one_pass_and_exact_agree_where_the_norm_is_known() -> None:
    """‖p‖ after a step is ‖p‖ before the next: the one-pass form loses nothing but rounding."""
    one, two = parameters(), parameters()
    train(optimizer_of("adam", decay.norm_target(5.0, k=0.05)), one, 20)
    train(optimizer_of("adam", decay.norm_target(5.0, k=0.05, exact=True)), two, 20)
    np.testing.assert_allclose(one[0].value, two[0].value, rtol=0, atol=1e-5)
    assert np.linalg.norm(one[0].value) < np.linalg.norm(parameters()[0].value)


# ---- clipping, averages, accumulation -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clipvalue", "clipnorm", "global_clipnorm"])
def test_clipping(kind: str, isa: str) -> None:
    made = parameters()
    train(optimizer_of("momentum", decay.l2(0.1), **{kind: 0.5}), made, 20)
    refs = [Reference("momentum", p.value) for p in parameters()]
    for t in range(20):
        grads = [g.astype(np.float64) for g in gradients(t, [r.p.shape for r in refs])]
        norms = np.array([np.sqrt((g**2).sum()) for g in grads])
        whole = np.sqrt((norms**2).sum())
        for r, g, norm in zip(refs, grads, norms, strict=True):
            clipped = np.clip(g, -0.5, 0.5) if kind == "clipvalue" else g * min(
                1, 0.5 / (norm if kind == "clipnorm" else whole))
            r.p = r.p - RATE * r.direction(clipped + (0.1 * r.p if r is refs[0] else 0))
    for p, r in zip(made, refs, strict=True):
        np.testing.assert_allclose(p.value, r.p, rtol=0, atol=20 * EPS * 8)
        assert np.abs(r.p - r.start).max() > 1000 * 20 * EPS * 8


def test_moving_average_of_weights(isa: str) -> None:
    made = parameters()
    optimizer = optimizer_of("adam", decay.max_norm(4.0), use_ema=True, ema_momentum=0.8)
    averages = [np.zeros(p.shape) for p in made]
    for t in range(20):
        train(optimizer, made, 1, first=t)
        averages = [p.value.astype(np.float64) if t == 0 else 0.8 * a + 0.2 * p.value
                    for a, p in zip(averages, made, strict=True)]
    last = made[0].numpy()
    optimizer.finalize_variable_values(made)
    for p, a in zip(made, averages, strict=True):
        np.testing.assert_allclose(p.value, a, rtol=0, atol=20 * EPS * 8)
    assert np.abs(last - averages[0]).max() > 0.01


def test_average_of_weights_that_join_later_begins_with_them() -> None:
    one, two = parameters()
    optimizer = optimizers.SGD(0.0, use_ema=True, ema_momentum=0.99)
    optimizer.apply([one])
    optimizer.apply([one, two])
    before = two.numpy()
    optimizer.finalize_variable_values([one, two])
    np.testing.assert_allclose(two.value, before, rtol=1e-6)


def test_anchors_stay_when_another_parameter_needs_more_state() -> None:
    one, two = parameters()
    one.decay, two.decay = decay.toward(None, 0.5), decay.constrained(1.0)
    optimizer = optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    one.grad[...] = 1.0
    for _ in range(5):
        optimizer.apply([one])
    kept = {name: optimizer.state.of(name, one).copy() for name in ("anchor", "weights_average")}
    optimizer.apply([two])
    for name, value in kept.items():
        np.testing.assert_array_equal(optimizer.state.of(name, one), value)


def test_gradient_accumulation_is_a_step_with_the_mean(isa: str) -> None:
    one, two = parameters(), parameters()
    accumulating, plain = (optimizer_of("adam", decay.decoupled(0.1), schedules.Linear(0.1, 20), **k)
                           for k in ({"gradient_accumulation_steps": 4}, {}))
    train(accumulating, one, 20)
    for t in range(5):
        drawn = [gradients(4 * t + i, [p.shape for p in two]) for i in range(4)]
        for p, g in zip(two, zip(*drawn, strict=True), strict=True):
            p.grad[...] = np.mean(np.array(g, np.float64), axis=0)
        plain.apply(two)
    for p, q, start in zip(one, two, parameters(), strict=True):
        np.testing.assert_allclose(p.value, q.value, rtol=0, atol=2e-5)
        assert np.abs(p.value - start.value).max() > 100 * 2e-5


@pytest.mark.parametrize("options", [{"clipnorm": 0}, {"clipvalue": -1.0}, {"clipnorm": 1.0, "clipvalue": 1.0},
                                     {"ema_momentum": 1.0}, {"gradient_accumulation_steps": 1}])
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="argument"):
        optimizers.Adam(**options)
    with pytest.raises(TypeError, match="clip_norm"):
        optimizers.Adam(clip_norm=1.0)


# ---- values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "per_epoch"), [(1e-3, 100), (0.1, 100), (1e-3, 400)])
def test_epochs_shrink_the_same_for_any_rate_and_batch(rate: float, per_epoch: int) -> None:
    optimizer = optimizers.SGD(rate, decay=decay.epochs(5))
    optimizer.set_run(per_epoch, 10 * per_epoch)
    assert optimizer.shrink(optimizer.decay.terms, 10 * per_epoch) == pytest.approx(1 - np.exp(-2), rel=1e-12)
    made = parameters()
    for _ in range(per_epoch):
        optimizer.apply(made[:1])
    np.testing.assert_allclose(made[0].value, parameters()[0].value * np.exp(-0.2), rtol=1e-5)


def test_epochs_need_the_length_of_the_run() -> None:
    with pytest.raises(ValueError, match="set_run"):
        optimizers.SGD(decay=decay.epochs(5)).apply(parameters())


def test_repr_states_the_shrink() -> None:
    optimizer = optimizers.AdamW(1e-3, weight_decay=0.01)
    assert "per epoch" not in repr(optimizer)
    optimizer.set_run(469, 4690)
    assert "−0.468 % per epoch, −4.58 % over the run" in repr(optimizer)


@pytest.mark.parametrize("name", DECAYS)
def test_values_make_themselves_again(name: str) -> None:
    value = DECAYS[name]
    assert decay.get(json.loads(json.dumps(value.get_config()))) == value
    assert eval(repr(value), vars(decay) | vars(schedules) | {"l1": decay.l1}) == value


def test_conversions() -> None:
    assert decay.from_sklearn(1.0, 200) == decay.l2(0.005)
    assert decay.decoupled(0.1) + decay.none() == decay.decoupled(0.1)
    for a, b in ((decay.decoupled(0.1), decay.cautious(0.1)), (decay.epochs(1), decay.epochs(1)),
                 (decay.toward(None, 0.1), decay.l2(0.1)), (decay.max_norm(1), decay.constrained(1)),
                 (decay.l1(schedules.Linear(1, 2)), decay.l1(0.1))):
        with pytest.raises(ValueError, match="cannot be added"):
            a + b
    with pytest.raises(ValueError, match="√v̂"):
        optimizers.SGD(decay=decay.stable(0.1)).apply(parameters())


def test_per_layer_and_roles() -> None:
    policy = decay.per_layer({"conv*": decay.l2(0.1), "head/kernel": decay.l1(0.2)}, default=decay.decoupled(0.3),
                             roles={"bias": decay.l2(0.4)})
    names = {"conv1/kernel": "l2(0.1)", "head/kernel": "l1(0.2)", "other/kernel": "decoupled(0.3)"}
    for name, expected in names.items():
        p = Parameter(np.ones(2), role="kernel", name=name)
        assert repr(decay.Decay(decay.of(p, policy))) == expected
    assert decay.of(Parameter(np.ones(2), role="bias", name="conv1/bias"), policy) == decay.l2(0.4).terms
    assert decay.of(Parameter(np.ones(2), role="norm_scale", name="conv1/gamma"), policy) == ()
    assert decay.get(json.loads(json.dumps(policy.get_config()))) == policy
    assert optimizers.Adam(decay=policy).decay is policy


def test_a_scheduled_penalty_is_reported() -> None:
    made, optimizer = parameters(), optimizers.SGD(0.1, decay=decay.l2(schedules.Linear(1.0, 4)))
    program = _native.Program(training=True)
    plan = optimizer.plan(made[:1])
    hyper, stats = plan.append(program, measured=False)  # it is asked for because there is a penalty
    program.compile(stats)
    out = np.empty((3, 1, 6))
    program.run(3, {hyper: plan.hyper(0, 3)}, {stats[0]: out})
    expected = out[:, 0, 0] / 2 * np.array([1, 0.75, 0.5])
    np.testing.assert_allclose(plan.penalty([out], plan.hyper(0, 3)), expected, rtol=1e-12)
