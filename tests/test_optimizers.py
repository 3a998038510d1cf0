"""Optimizers: parity, state, the native program, the policy of decay, foreign arrays."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from wdfast import _native, decay, optimizers, regularizers, schedules
from wdfast.graph import Parameter

EPS = 2.0**-24
MAKERS = {
    "sgd": lambda **k: optimizers.SGD(0.05, **k),
    "momentum": lambda **k: optimizers.SGD(0.05, momentum=0.9, **k),
    "nesterov": lambda **k: optimizers.SGD(0.05, momentum=0.9, nesterov=True, **k),
    "rmsprop": lambda **k: optimizers.RMSprop(0.05, **k),
    "rmsprop centred": lambda **k: optimizers.RMSprop(0.05, centered=True, momentum=0.5, **k),
    "adagrad": lambda **k: optimizers.Adagrad(0.05, **k),
    "adam": lambda **k: optimizers.Adam(0.05, **k),
    "amsgrad": lambda **k: optimizers.Adam(0.05, amsgrad=True, **k),
    "adamw": lambda **k: optimizers.AdamW(0.05, **k),
    "nadam": lambda **k: optimizers.Nadam(0.05, **k),
    "lion": lambda **k: optimizers.Lion(0.05, **k),
}
SHAPES: list[tuple[tuple[int, ...], Any]] = [((3, 3, 2, 5), "kernel"), ((5,), "bias"), ((0, 3), "kernel"),
                                             ((301, 67), "kernel"), ((67,), "norm_scale"), ((1,), "bias")]
FILLED = sum(np.prod(shape) > 0 for shape, _ in SHAPES)


def model(seed: int = 0, arena: bool = True, gap: int = 0) -> list[Parameter]:
    """Parameters of every role, in one arena with its twin of gradients, or each in memory of its own."""
    rng = np.random.default_rng(seed)
    total = sum(int(np.prod(shape)) + gap for shape, _ in SHAPES)
    values, grads = np.full(total, 7, np.float32), np.zeros(total, np.float32)
    parameters, at = [], 0
    for i, (shape, role) in enumerate(SHAPES):
        p = Parameter(rng.standard_normal(shape), role=role, name=f"{role}_{i}")
        p.grad = np.zeros(shape, np.float32)
        if arena:
            value, grad = (a[at : at + p.size].reshape(shape) for a in (values, grads))
            value[...] = p.value
            p.value, p.grad = value, grad
        at += p.size + gap
        parameters.append(p)
    return parameters


def set_gradients(parameters: list[Parameter], step: int) -> None:
    rng = np.random.default_rng([1, step])
    for p in parameters:
        g = rng.standard_normal(p.shape)
        if p.grad is not None:
            p.grad[...] = g


def bits(parameters: list[Parameter]) -> list[bytes]:
    return [p.value.tobytes() for p in parameters]


def train(optimizer: Any, parameters: list[Parameter], steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        set_gradients(parameters, step)
        optimizer.apply(parameters)


def append(optimizer: Any, parameters: list[Parameter]) -> tuple[Any, Any, int, list[int], list[list[Parameter]]]:
    program, plan = _native.Program(training=True), optimizer.plan(parameters)
    hyper, stats = plan.append(program, measured=True)
    program.compile(stats)
    return program, plan, hyper, stats, [run.parameters for run in plan.runs]


# ---- parity ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "rmsprop", "rmsprop centred", "adagrad", "adam",
                                  "amsgrad", "adamw"])
def test_follows_torch_with_keras_defaults(name: str, isa: str, torch: Any) -> None:
    """Kernels decay by λ = 0.1, the rest does not: two parameter groups there, the roles here."""
    wd, coupled = 0.1, name != "adamw"
    optimizer = MAKERS[name](decay=decay.l2(wd) if coupled else decay.decoupled(wd))
    parameters = model()
    theirs = [torch.tensor(p.value.astype(np.float64), requires_grad=True) for p in parameters]
    groups = [{"params": [t for t, p in zip(theirs, parameters, strict=True) if (p.role == "kernel") is kernels],
               "weight_decay": wd * kernels} for kernels in (True, False)]
    make = {
        "sgd": lambda: torch.optim.SGD(groups, 0.05), "momentum": lambda: torch.optim.SGD(groups, 0.05, momentum=0.9),
        "nesterov": lambda: torch.optim.SGD(groups, 0.05, momentum=0.9, nesterov=True),
        "rmsprop": lambda: torch.optim.RMSprop(groups, 0.05, alpha=0.9, eps=1e-7),
        "rmsprop centred": lambda: torch.optim.RMSprop(groups, 0.05, alpha=0.9, eps=1e-7, centered=True, momentum=0.5),
        "adagrad": lambda: torch.optim.Adagrad(groups, 0.05, eps=1e-7, initial_accumulator_value=0.1),
        "adam": lambda: torch.optim.Adam(groups, 0.05, eps=1e-7),
        "amsgrad": lambda: torch.optim.Adam(groups, 0.05, eps=1e-7, amsgrad=True),
        "adamw": lambda: torch.optim.AdamW(groups, 0.05, eps=1e-7),
    }[name]()
    start = [p.numpy() for p in parameters]
    for step in range(25):
        set_gradients(parameters, step)
        for t, p in zip(theirs, parameters, strict=True):
            t.grad = torch.tensor(p.grad.astype(np.float64))
        make.step()
        optimizer.apply(parameters)
    tolerance = 25 * EPS * (8 + 12 * 0.05 * 16)
    for p, t, before in zip(parameters, theirs, start, strict=True):
        if p.size:
            assert np.abs(p.value - t.detach().numpy()).max() <= tolerance, p.name
            assert np.abs(p.value - before).mean() >= 100 * tolerance


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("gap", [0, 3])
def test_memory_and_way_of_stepping_change_no_bit(name: str, gap: int) -> None:
    """One arena (with gaps or none), memory of their own, apply, many steps of a program: the same bits."""
    steps, results = 4, []
    for arena in (True, False):
        parameters = model(arena=arena, gap=gap)
        optimizer = MAKERS[name](decay=decay.elastic(1e-3, 1e-2))
        optimizer.build(parameters)
        assert len(append(optimizer, parameters)[-1]) == (1 if arena else FILLED)
        train(optimizer, parameters, steps)
        results.append(bits(parameters))
        if arena and gap:
            assert (parameters[0].value.base == 7).sum() == gap * len(SHAPES), "gaps are not touched"
    parameters, optimizer = model(gap=gap), MAKERS[name](decay=decay.elastic(1e-3, 1e-2))
    program, plan, hyper, stats, _ = append(optimizer, parameters)
    for step in range(steps):  # gradients differ by step, so one native call each
        set_gradients(parameters, step)
        program.run(1, {hyper: plan.hyper(step, 1)}, {stats[0]: np.empty((1, FILLED, 6))})
    results.append(bits(parameters))
    assert results[0] == results[1] == results[2]
    assert results[0] != bits(model())


def test_many_steps_in_one_native_call() -> None:
    schedule = schedules.Step(0.1, 3, 0.5)
    a, b = model(), model()
    one, many = (optimizers.Nadam(schedule, decay=decay.decoupled(0.1)) for _ in range(2))
    for parameters in (a, b):
        set_gradients(parameters, 0)
    for _ in range(10):
        one.apply(a)
    program, plan, hyper, stats, described = append(many, b)
    assert described == [[p for p in b if p.size]]
    rows, out = plan.hyper(0, 10), np.empty((10, FILLED, 6))
    np.testing.assert_array_equal(rows[:, 0], schedule(np.arange(10)))
    np.testing.assert_array_equal(rows[:, 1], np.arange(1, 11))
    np.testing.assert_array_equal(np.concatenate([plan.hyper(0, 4), plan.hyper(4, 6)]), rows)
    program.run(10, {hyper: rows}, {stats[0]: out})
    assert bits(a) == bits(b)
    assert one.iterations == 10


def test_what_is_fed_ahead_follows_what_changes_meanwhile() -> None:
    """Rows that were made ahead hold until the rate or the run's length is another; a callable is asked each time."""
    parameter = Parameter(np.ones((2, 3), np.float32), role="kernel", name="w")
    parameter.grad = np.zeros((2, 3), np.float32)
    asked: list[int] = []

    def rate(step: int) -> float:
        asked.append(int(step))
        return 0.5

    for optimizer in (optimizers.SGD(0.5, decay=decay.epochs(2)), optimizers.SGD(rate, decay=decay.epochs(2))):
        optimizer.set_run(10)
        plan = optimizer.plan([parameter])
        first = plan.hyper(0, 3)
        optimizer.set_run(20)
        assert not np.array_equal(plan.hyper(3, 2)[:, -1], first[:2, -1])
        optimizer.set_run(10)
        optimizer.learning_rate = 0.25
        rows = plan.hyper(3, 2)
        np.testing.assert_array_equal(rows[:, :2], [[0.25, 4], [0.25, 5]])
        np.testing.assert_array_equal(rows, optimizer.plan([parameter]).hyper(3, 2))
    assert set(asked) == set(range(5))


# ---- who decays -----------------------------------------------------------------------------------------


def test_roles_overrides_and_regularizers() -> None:
    parameters = model()
    kernel, bias, _, other, scale, last = parameters
    kernel.regularizer = regularizers.L2(0.5)
    other.decay = decay.none()
    scale.decay = decay.decoupled(1.0)
    last.trainable = False
    before = [p.value.astype(np.float64) for p in parameters]
    optimizers.SGD(0.1, decay=decay.decoupled(0.5)).apply(parameters)
    factors = [1 - 0.1 * 0.5 - 0.1 * 2 * 0.5, 1, 1 - 0.1 * 0.5, 1, 1 - 0.1, 1]
    for p, start, factor in zip(parameters, before, factors, strict=True):
        np.testing.assert_allclose(p.value, start * factor, rtol=4 * EPS)
    assert bias.value.tobytes() == before[1].astype(np.float32).tobytes()


@pytest.mark.parametrize("name", MAKERS)
def test_frozen_or_without_gradient_is_untouched(name: str) -> None:
    parameters = model(gap=1)
    frozen, bare = parameters[0], parameters[3]
    frozen.trainable, bare.grad = False, None
    before = bits(parameters)
    optimizer = MAKERS[name](decay=decay.elastic(0.1, 0.1))
    train(optimizer, parameters, 3)
    after = bits(parameters)
    changed = [a != b for a, b in zip(before, after, strict=True)]
    assert changed == [p is not frozen and p is not bare and p.size > 0 for p in parameters]


def test_penalty_is_that_of_keras_regularizers() -> None:
    parameters = model()
    parameters[0].regularizer = regularizers.L1L2(l1=0.01, l2=0.02)
    parameters[3].regularizer = regularizers.L2(0.03)
    optimizer = optimizers.SGD(0.1, decay=decay.decoupled(0.1))
    program, plan, hyper, stats, _ = append(optimizer, parameters)
    expected = []
    out = np.empty((3, FILLED, 6))
    for step in range(3):
        expected.append(sum(p.regularizer(p.value) for p in parameters if p.regularizer))
        program.run(1, {hyper: plan.hyper(step, 1)}, {stats[0]: out[step : step + 1]})
    np.testing.assert_allclose(plan.penalty([out], plan.hyper(0, 3)), expected, rtol=1e-6)
    assert expected[0] > 1.01 * expected[2]


def test_penalty_of_coupled_decay() -> None:
    parameters = model(arena=False)
    optimizer = optimizers.Adam(decay=decay.elastic(l1=0.1, l2=0.3))
    program, plan, hyper, stats, described = append(optimizer, parameters)
    assert described == [[p] for p in parameters if p.size]
    kernels = [p.value.astype(np.float64) for p in parameters if p.role == "kernel"]
    out = [np.empty((1, 1, 6)) for _ in stats]
    program.run(1, {hyper: plan.hyper(0, 1)}, dict(zip(stats, out, strict=True)))
    expected = sum(0.1 * np.abs(k).sum() + 0.15 * (k**2).sum() for k in kernels)
    np.testing.assert_allclose(plan.penalty(out, plan.hyper(0, 1)), [expected], rtol=1e-6)


def test_decay_table() -> None:
    parameters = model()
    parameters[0].trainable = False
    parameters.append(Parameter(np.zeros(3), role="state", name="mean"))
    optimizer = optimizers.AdamW(schedules.Linear(0.1, 100), weight_decay=0.5)
    head, *rows = optimizer.decay_table(parameters)
    assert head == ("Parameter", "Role", "Decay", "λ", "Shrink/step", "Size")
    assert rows == [
        ("kernel_0", "kernel", "does not train", "–", "–", "90"), ("bias_1", "bias", "none()", "–", "–", "5"),
        ("kernel_2", "kernel", "decoupled(0.5)", "0.5", "0.05", "0"),
        ("kernel_3", "kernel", "decoupled(0.5)", "0.5", "0.05", "20,167"),
        ("norm_scale_4", "norm_scale", "none()", "–", "–", "67"), ("bias_5", "bias", "none()", "–", "–", "1"),
        ("mean", "state", "does not train", "–", "–", "3")]
    optimizer.iterations = 50
    assert optimizer.decay_table(parameters)[4][4] == "0.025"  # the next step's
    optimizer.set_run(2)
    head, *rows = optimizer.decay_table(parameters)
    assert (head[4], rows[3][4]) == ("Shrink/epoch", f"{1 - 0.95 * 0.9505:.3g}")
    optimizer.set_run(2, 100)  # the epochs differ, and their mean is told, as is the run
    run = 1 - np.prod(1 - 0.05 * (1 - np.arange(100) / 100))
    mean = 1 - (1 - run) ** (1 / 50)
    assert optimizer.decay_table(parameters)[4][4] == f"{mean:.3g}"
    assert f"(−{100 * mean:.3g} % per epoch, −{100 * run:.3g} % over the run)" in repr(optimizer)


@pytest.mark.parametrize("chosen", [decay.decoupled(0.5), decay.epochs(4), decay.normalized(0.5)], ids=repr)
def test_shrink_of_accumulated_steps(chosen: decay.Decay) -> None:
    """What is told of a run is what its steps do; τ epochs stay τ epochs for any number of calls to a step."""
    p = Parameter(np.ones((3, 2)), role="kernel", name="w")
    p.grad = np.zeros(p.shape, np.float32)
    for accumulated, calls in ((None, 10), (5, 50)):
        optimizer = optimizers.Adam(0.1, decay=chosen, gradient_accumulation_steps=accumulated)
        optimizer.set_run(calls, 3 * calls)
        p.value[...] = 1
        for _ in range(calls):
            optimizer.apply([p])
        np.testing.assert_allclose(1 - p.value, optimizer.shrink(chosen.terms, calls), rtol=1e-5)
        if chosen == decay.epochs(4):
            np.testing.assert_allclose(1 - p.value, 1 - np.exp(-1 / 4), rtol=1e-5)


# ---- state ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("built", [True, False])
def test_state_goes_on_to_the_same_bits(name: str, built: bool) -> None:
    parameters, optimizer = model(), MAKERS[name](weight_decay=0.1)
    train(optimizer, parameters, 3)
    state = optimizer.state_dict()
    saved = {key: np.array(value) for key, value in state.items()}  # as a file would hold it
    weights = [p.numpy() for p in parameters]
    train(optimizer, parameters, 3, first=3)

    again, other = model(seed=9, arena=False), MAKERS[name](weight_decay=0.1)
    if built:
        other.build(again)
    other.load_state_dict({key: value.item() if value.ndim == 0 else value for key, value in saved.items()})
    assert other.iterations == 3
    for key, value in other.state_dict().items():
        assert np.asarray(value).tobytes() == saved[key].tobytes()
    for p, value in zip(again, weights, strict=True):
        p.assign(value)
    train(other, again, 3, first=3)
    assert bits(again) == bits(parameters)


def test_loading_writes_into_the_state_of_a_program() -> None:
    parameters, optimizer = model(), optimizers.Adam()
    append(optimizer, parameters)
    arrays = {name: array.ctypes.data for name, array in optimizer.state.arrays.items()}
    optimizer.load_state_dict(optimizer.state_dict())
    assert {name: array.ctypes.data for name, array in optimizer.state.arrays.items()} == arrays


def test_state_that_does_not_fit_changes_nothing() -> None:
    parameters, optimizer = model(), optimizers.Adam()
    train(optimizer, parameters, 2)
    state = optimizer.state_dict()
    for wrong in (state | {"momentum": state["momentum"][:-1]}, {k: v for k, v in state.items() if k != "velocity"},
                  state | {"velocity_hat": state["velocity"]}, state | {"learning_rate": -1.0}):
        with pytest.raises(ValueError, match=r"adam|Constant"):
            optimizer.load_state_dict(wrong)
    for key, value in optimizer.state_dict().items():
        assert np.asarray(value).tobytes() == np.asarray(state[key]).tobytes()
    fresh = optimizers.Adam()
    fresh.load_state_dict(state)
    with pytest.raises(ValueError, match=r"expected .* values"):
        fresh.build(parameters[:3])


def test_build_is_idempotent_and_keeps_what_it_knows() -> None:
    parameters, optimizer = model(), optimizers.SGD(0.1, momentum=0.9)
    train(optimizer, parameters, 2)
    state = optimizer.state.arrays["velocity"]
    optimizer.build(parameters)
    assert optimizer.state.arrays["velocity"] is state
    velocity = optimizer.state_dict()["velocity"]
    parameters[0].trainable = False
    optimizer.build(parameters)
    np.testing.assert_array_equal(optimizer.state_dict()["velocity"], velocity[parameters[0].size :])
    optimizer.plan(parameters[1:3])  # a part of them: nothing is lost
    np.testing.assert_array_equal(optimizer.state_dict()["velocity"], velocity[parameters[0].size :])
    optimizer.apply(parameters[4:5])
    assert optimizer.state_dict()["velocity"].size == velocity.size - parameters[0].size
    with pytest.raises(ValueError, match="twice"):
        optimizer.build([parameters[1], parameters[1]])
    with pytest.raises(ValueError, match="twice"):
        optimizer.apply([parameters[1], parameters[1]])


def test_a_parameter_that_moves_keeps_its_state() -> None:
    a, b = model(arena=False), model()
    one, other = optimizers.Adam(), optimizers.Adam()
    train(one, a, 2)
    train(other, b, 2)
    for p in b:  # into memory of its own
        p.value, p.grad = p.value.copy(), p.grad.copy()
    train(one, a, 2, first=2)
    train(other, b, 2, first=2)
    assert bits(a) == bits(b)


# ---- settings -------------------------------------------------------------------------------------------


def test_learning_rate_between_fits() -> None:
    p = Parameter(np.ones(3, np.float32), role="bias", name="b")
    p.grad = np.ones(3, np.float32)
    optimizer = optimizers.SGD(0.5)
    optimizer.apply([p])
    assert optimizer.lr == 0.5
    optimizer.lr = 0.25
    assert optimizer.learning_rate == 0.25
    optimizer.apply([p])
    np.testing.assert_array_equal(p.value, np.full(3, 0.25, np.float32))
    optimizer.learning_rate = schedules.Step(1.0, 2, 0.5)
    assert (optimizer.iterations, optimizer.lr) == (2, 0.5)
    optimizer.lr = lambda step: step / 8
    assert optimizer.lr == 0.25
    optimizer.apply([p])
    np.testing.assert_array_equal(p.value, np.zeros(3, np.float32))
    with pytest.raises(AttributeError):
        optimizer.decay = decay.none()


@pytest.mark.parametrize("rate", [-1.0, float("nan")])
def test_a_schedule_that_leaves_its_domain_changes_nothing(rate: float) -> None:
    parameters, optimizer = model(), optimizers.SGD(lambda step: 0.1 if step < 2 else rate)
    train(optimizer, parameters, 2)
    before = bits(parameters)
    with pytest.raises(ValueError, match="learning_rate at step 2"):
        optimizer.apply(parameters)
    assert (bits(parameters), optimizer.iterations) == (before, 2)


@pytest.mark.parametrize("name", MAKERS)
def test_config_makes_it_again(name: str) -> None:
    for rate in (0.03, schedules.CosineDecay(0.1, 10)):
        optimizer = MAKERS[name](decay=decay.elastic(1e-4, 1e-3))
        optimizer.learning_rate = rate
        config = json.loads(json.dumps(optimizer.get_config()))
        again = optimizers.get({"class_name": type(optimizer).__name__, "config": config})
        assert type(again) is type(optimizer)
        assert again.get_config() == optimizer.get_config()
        assert (again.attrs, again.state.initial) == (optimizer.attrs, optimizer.state.initial)
        assert repr(again) == repr(optimizer)


def test_get_and_defaults() -> None:
    for name, kind in {"sgd": optimizers.SGD, "Adam": optimizers.Adam, "adamw": optimizers.AdamW, "RMSprop":
                       optimizers.RMSprop, "adagrad": optimizers.Adagrad, "nadam": optimizers.Nadam,
                       "lion": optimizers.Lion}.items():
        assert type(optimizers.get(name)) is kind
    adam = optimizers.Adam()
    assert optimizers.get(adam) is adam
    assert optimizers.AdamW().decay == decay.decoupled(0.004)
    assert optimizers.AdamW(decay=decay.l2(0.1)).decay == decay.l2(0.1)
    assert optimizers.Adam(weight_decay=0.1).decay == decay.decoupled(0.1)
    assert adam.decay == decay.none()
    for wrong in ("adams", 3, None, {"class_name": "FTRL"}):
        with pytest.raises(ValueError, match="optimizer"):
            optimizers.get(wrong)


def test_keras_has_the_same_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    keras = pytest.importorskip("keras")
    for name in ("SGD", "RMSprop", "Adagrad", "Adam", "AdamW", "Nadam", "Lion"):
        ours, theirs = getattr(optimizers, name)().get_config(), getattr(keras.optimizers, name)().get_config()
        for key in set(ours) & set(theirs) - {"name"}:
            expected = theirs[key]
            assert ours[key] == (expected if expected is None else pytest.approx(expected, rel=1e-6)), (name, key)
        assert getattr(optimizers, name)().decay == (decay.decoupled(theirs["weight_decay"]) if name == "AdamW"
                                                     else decay.none())


@pytest.mark.parametrize("make", [
    lambda: optimizers.SGD(-0.1), lambda: optimizers.SGD(float("nan")), lambda: optimizers.SGD(momentum=1.0),
    lambda: optimizers.SGD(momentum=-0.1), lambda: optimizers.Adam(beta_1=1.0),
    lambda: optimizers.Adam(beta_2=float("nan")),
    lambda: optimizers.Adam(epsilon=-1e-9), lambda: optimizers.RMSprop(rho=2.0),
    lambda: optimizers.Adam(weight_decay=-0.1),
    lambda: optimizers.Adagrad(initial_accumulator_value=-1.0), lambda: optimizers.Nadam(momentum_decay=-1.0),
    lambda: optimizers.Adam(weight_decay=0.1, decay=decay.l2(0.1)), lambda: optimizers.Lion(weight_decay=float("inf")),
])
def test_settings_that_make_no_sense(make: Any) -> None:
    with pytest.raises(ValueError, match=r"argument|λ|not both"):
        make()


def test_a_bare_number_is_no_decay() -> None:
    with pytest.raises(TypeError, match=r"decay\.decoupled"):
        optimizers.Adam(decay=0.01)


# ---- foreign arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_numpy_arrays(name: str) -> None:
    parameters = model(arena=False)
    arrays, roles = [p.numpy() for p in parameters], [p.role for p in parameters]
    one, other = MAKERS[name](decay=decay.decoupled(0.1)), MAKERS[name](decay=decay.decoupled(0.1))
    for step in range(3):
        set_gradients(parameters, step)
        one.apply(parameters)
        other.step(arrays, [p.grad for p in parameters], roles)
    assert [a.tobytes() for a in arrays] == bits(parameters)
    assert other.iterations == 3


@pytest.mark.parametrize("size", [5, 37, 20_000])
@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_where_an_array_starts_changes_no_bit(name: str, size: int) -> None:
    rng = np.random.default_rng(3)
    value, gradient = rng.standard_normal((2, size), dtype=np.float32)
    expected = None
    for start in (0, 1, 4, 15):
        w, g = (np.zeros(size + 32, np.float32) for _ in range(2))
        at = -w.ctypes.data // 4 % 16 + start  # floats into a cache line
        w, g = w[at : at + size], g[start : start + size]
        w[:], g[:] = value, gradient
        optimizer = MAKERS[name](decay=decay.p_norm(0.5, 1.3))
        for _ in range(3):
            optimizer.step([w], [g])
        expected = w.copy() if expected is None else expected
        assert w.tobytes() == expected.tobytes()


def test_torch_tensors(torch: Any) -> None:
    """A network of torch's, stepped by ours and by torch's own AdamW."""
    nets = [torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    ours = optimizers.AdamW(0.01, weight_decay=0.1, epsilon=1e-8)
    theirs = torch.optim.AdamW(nets[1].parameters(), lr=0.01, weight_decay=0.1)
    start = [p.detach().clone() for p in nets[0].parameters()]
    for _ in range(20):
        x = torch.randn(16, 7)
        for net in nets:
            net.zero_grad()
            net(x).square().sum().backward()
        ours.step(list(nets[0].parameters()), [p.grad for p in nets[0].parameters()])
        theirs.step()
    for mine, other, before in zip(*(list(net.parameters()) for net in nets), start, strict=True):
        assert (mine - other).abs().max() < 1e-5
        assert (mine - before).abs().max() > 1e-3


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.setflags(write=False)
    return a


@pytest.mark.parametrize("change", [
    lambda p, g: ([p[0], p[1].astype(np.float64)], g), lambda p, g: ([p[0], p[1].T], g),
    lambda p, g: ([p[0], read_only(p[1])], g), lambda p, g: ([p[0], p[1].tolist()], g),
    lambda p, g: (p, [g[0], g[1][:2]]), lambda p, g: (p, [g[0], g[1].astype(np.float64)]), lambda p, g: (p, g[:1]),
    lambda p, g: ([p[0], p[0]], g), lambda p, g: (p, [g[0], p[0]]), lambda p, g: ([p[0], None], g),
    lambda p, g: ([p[0], p[1].astype(np.int32)], g),
])
def test_foreign_arrays_are_checked_before_any_is_written(change: Any) -> None:
    params, grads = ([np.full((3, 4), value, np.float32) for _ in range(2)] for value in (1, 2))
    wrong = change(params, grads)
    optimizer = optimizers.Adam()
    with pytest.raises((TypeError, ValueError), match=r"Adam\.step: argument '(params|grads)"):
        optimizer.step(*wrong)
    assert all((p == 1).all() for p in params)
    assert optimizer.iterations == 0
    optimizer.step(params, grads)  # and goes on to work
    assert all((p < 1).all() for p in params)
    with pytest.raises(ValueError, match="first call"):
        optimizer.step(params[:1], grads[:1])


def test_gradients_may_be_missing() -> None:
    params = [np.ones(3, np.float32), np.ones(3, np.float32)]
    optimizers.AdamW(0.1, weight_decay=0.5).step(params, [np.ones(3, np.float32), None])
    assert (params[0] < 1).all()
    assert (params[1] == 1).all()


@pytest.mark.parametrize("spoil", [
    lambda p: setattr(p, "value", np.asfortranarray(p.value)), lambda p: setattr(p, "value", read_only(p.value)),
    lambda p: setattr(p, "grad", np.zeros(p.shape)), lambda p: setattr(p, "grad", np.zeros(3, np.float32)),
])
def test_weights_that_cannot_be_updated_in_place(spoil: Any) -> None:
    parameters = model(arena=False)
    spoil(parameters[3])
    before = bits(parameters)
    with pytest.raises((TypeError, ValueError), match="weight 'kernel_3'"):
        optimizers.SGD().apply(parameters)
    assert bits(parameters) == before


def test_parameters_that_come_later_join_the_others() -> None:
    parameters, optimizer = model(), optimizers.SGD(0.1, momentum=0.9)
    set_gradients(parameters, 0)
    for part in (parameters[:2], parameters[2:], parameters[:2]):
        optimizer.apply(part)
    once, twice = optimizers.SGD(0.1, momentum=0.9), model()
    set_gradients(twice, 0)
    once.apply(twice)
    once.apply(twice[:2])
    assert bits(parameters) == bits(twice)


def test_what_a_program_captured_trains_though_frozen_since() -> None:
    """As in Keras, `trainable` counts when the model is compiled."""
    parameters, optimizer = model(), optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(parameters)
    set_gradients(parameters, 0)
    parameters[0].trainable = False
    before = bits(parameters)
    program, plan, hyper, stats, _ = append(optimizer, parameters)
    program.run(1, {hyper: plan.hyper(0, 1)}, {stats[0]: np.empty((1, FILLED, 6))})
    assert bits(parameters)[0] != before[0]


def test_the_shrink_of_a_run_without_end() -> None:
    optimizer = optimizers.AdamW(1e-3, weight_decay=1e-9)
    terms = optimizer.decay.terms
    assert optimizer.shrink(terms, 2**38) == pytest.approx(-np.expm1(2**38 * np.log1p(-1e-12)), rel=1e-9)
    assert optimizers.SGD(1.0, decay=decay.decoupled(1.0)).shrink(terms=decay.decoupled(1.0).terms, calls=3) == 1.0


@pytest.mark.parametrize("make", [decay.epochs, decay.independent, decay.corrected])
@pytest.mark.parametrize("rate", [0.1, 0.02, 0.003])
def test_fresh_with_another_rate_decays_as_one_made_with_it(make: Any, rate: float) -> None:
    """Decays that follow the schedule's shape are relative to the highest rate: that of the new run, not of the old."""
    shrinks = []
    for optimizer in (optimizers.AdamW(0.02).fresh(decay=make(0.5), learning_rate=rate),
                      optimizers.AdamW(rate, decay=make(0.5))):
        optimizer.set_run(4, 40)
        shrinks.append(optimizer.shrink(optimizer.decay.terms, 8))
    assert shrinks[0] == shrinks[1]
