"""Schedules: closed forms, Keras' values, and what they refuse."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from wdfast import schedules

STEPS = np.arange(60)


def restarts(t: int, m: float, k: float) -> float:
    """CosineDecayRestarts(0.3, 8, k, m, 0.1), period by period."""
    length, height = 8.0, 0.9
    while t >= length:
        t, length, height = t - length, length * k, height * m
    return 0.3 * (height * 0.5 * (1 + math.cos(math.pi * t / length)) + 0.1)


def one_cycle(t: int) -> float:
    """OneCycle(0.5, 40): the top at step 11, the end at step 39."""
    start, top, end = 0.02, 0.5, 0.02e-4
    a, b, done = (start, top, t / 11) if t <= 11 else (top, end, min((t - 11) / 28, 1))
    return b + (a - b) * (1 + math.cos(math.pi * done)) / 2


CLOSED_FORMS: list[tuple[schedules.LearningRateSchedule, Any]] = [
    (schedules.Constant(0.3), lambda t: 0.3),
    (schedules.Linear(0.3, 40), lambda t: 0.3 * max(0.0, 1 - t / 40)),
    (schedules.Linear(0.1, 40, 0.5), lambda t: 0.1 + 0.4 * min(t / 40, 1)),
    (schedules.Step(0.3, 7, 0.5), lambda t: 0.3 * 0.5 ** (t // 7)),
    (schedules.ExponentialDecay(0.3, 7, 0.5), lambda t: 0.3 * 0.5 ** (t / 7)),
    (schedules.ExponentialDecay(0.3, 7, 0.5, staircase=True), lambda t: 0.3 * 0.5 ** (t // 7)),
    (schedules.InverseTimeDecay(0.3, 7, 0.5), lambda t: 0.3 / (1 + 0.5 * t / 7)),
    (schedules.InverseTimeDecay(0.3, 7, 0.5, staircase=True), lambda t: 0.3 / (1 + 0.5 * (t // 7))),
    (schedules.PiecewiseConstantDecay([10, 20], [1.0, 0.5, 0.1]),
     lambda t: 1.0 if t <= 10 else 0.5 if t <= 20 else 0.1),
    (schedules.PolynomialDecay(0.3, 40, 0.05, 2.0), lambda t: 0.25 * (1 - min(t, 40) / 40) ** 2 + 0.05),
    (schedules.PolynomialDecay(0.3, 20, 0.05, 2.0, cycle=True),
     lambda t: 0.25 * (1 - t / (20 * max(1, math.ceil(t / 20)))) ** 2 + 0.05),
    (schedules.CosineDecay(0.3, 40, 0.1),
     lambda t: 0.3 * (0.9 * 0.5 * (1 + math.cos(math.pi * min(t, 40) / 40)) + 0.1)),
    (schedules.CosineDecay(0.1, 30, 0.1, warmup_target=0.5, warmup_steps=10),
     lambda t: 0.1 + 0.4 * t / 10 if t < 10 else
     0.5 * (0.9 * 0.5 * (1 + math.cos(math.pi * min(t - 10, 30) / 30)) + 0.1)),
    (schedules.CosineDecayRestarts(0.3, 8, 2.0, 0.7, 0.1), lambda t: restarts(t, 0.7, 2)),
    (schedules.CosineDecayRestarts(0.3, 8, 1.0, 0.7, 0.1), lambda t: restarts(t, 0.7, 1)),
    (schedules.CosineDecayRestarts(0.3, 8, 1.5, 1.0, 0.1), lambda t: restarts(t, 1, 1.5)),
    (schedules.OneCycle(0.5, 40), one_cycle),
    (schedules.OneCycle(0.5, 40, 0.0, "linear", 5.0, 10.0), lambda t: 0.5 - 0.49 * min((t + 1) / 40, 1)),
    (schedules.OneCycle(0.5, 40, 1.0, "linear", 5.0, 10.0), lambda t: 0.1 + 0.4 * t / 39 if t <= 39 else 0.01),
    (schedules.Warmup(schedules.Linear(0.3, 30), 10),
     lambda t: 0.03 * t if t < 10 else 0.3 * max(0, 1 - (t - 10) / 30)),
    (schedules.Warmup(0.3, 7.5), lambda t: 0.3 * min(t / 7.5, 1)),
    (schedules.Warmup(schedules.Linear(0.3, 30), 0), lambda t: 0.3 * max(0, 1 - t / 30)),
    (schedules.EarlyOnly(schedules.Linear(0.3, 40), 20), lambda t: 0.3 * (1 - t / 40) if t < 20 else 0),
    (schedules.EarlyOnly(0.3, 0.5), lambda t: 0.3 if t == 0 else 0),
    (0.5 * schedules.Linear(0.3, 40), lambda t: 0.15 * max(0.0, 1 - t / 40)),
    (schedules.Linear(2, 40) * schedules.Step(0.3, 7, 0.5), lambda t: 2 * max(0.0, 1 - t / 40) * 0.3 * 0.5 ** (t // 7)),
    (schedules.Function(lambda step: 1.0 if step < 10 else 0.1 ** (step // 10)),
     lambda t: 1.0 if t < 10 else 0.1 ** (t // 10)),
]


@pytest.mark.parametrize(("schedule", "closed"), CLOSED_FORMS, ids=[repr(s)[:60] for s, _ in CLOSED_FORMS])
def test_closed_form_at_every_step(schedule: schedules.LearningRateSchedule, closed: Any) -> None:
    expected = np.array([closed(int(t)) for t in STEPS])
    rates = schedule(STEPS)
    assert rates.dtype == np.float64
    np.testing.assert_allclose(rates, expected, rtol=1e-14, atol=1e-16)
    assert type(schedule(3)) is float
    assert schedule(3) == rates[3]
    assert schedule(STEPS.reshape(5, 12)).shape == (5, 12)
    if not isinstance(schedule, schedules.Constant):
        assert np.ptp(rates) > 0.01


KERAS = [
    ("ExponentialDecay", (0.3, 7, 0.5), {}), ("ExponentialDecay", (0.3, 7, 0.5, True), {}),
    ("InverseTimeDecay", (0.3, 7, 0.5), {}), ("InverseTimeDecay", (0.3, 7, 0.5, True), {}),
    ("PiecewiseConstantDecay", ([10, 20], [1.0, 0.5, 0.1]), {}),
    ("PolynomialDecay", (0.3, 20), {}), ("PolynomialDecay", (0.3, 20, 0.05, 2.0, True), {}),
    ("CosineDecayRestarts", (0.3, 9), {}), ("CosineDecayRestarts", (0.3, 7, 1.0, 0.7, 0.1), {}),
    ("CosineDecayRestarts", (0.3, 8, 1.5, 0.9, 0.05), {}), ("CosineDecay", (0.3, 40), {}),
    ("CosineDecay", (0.0, 30), {"alpha": 0.1, "warmup_target": 0.5, "warmup_steps": 10}),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), KERAS)
def test_values_are_those_of_keras(name: str, args: Any, kwargs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    keras = pytest.importorskip("keras")
    theirs = getattr(keras.optimizers.schedules, name)(*args, **kwargs)
    # At a restart itself Keras' float32 logarithm may still be in the period before.
    steps = STEPS + 0.25 if name == "CosineDecayRestarts" else STEPS
    expected = [float(theirs(float(t))) for t in steps]
    np.testing.assert_allclose(getattr(schedules, name)(*args, **kwargs)(steps), expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("kwargs", [{}, {"pct_start": 0.25, "anneal_strategy": "linear"},
                                    {"pct_start": 0.6, "div_factor": 5.0, "final_div_factor": 3.0}], ids=repr)
def test_one_cycle_is_that_of_torch(kwargs: Any, torch: Any) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=len(STEPS), **kwargs)
    expected = []
    for t in STEPS:
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        if t < STEPS[-1]:
            theirs.step()
    ours = schedules.OneCycle(0.5, len(STEPS), **kwargs)(STEPS)
    np.testing.assert_allclose(ours, expected, rtol=1e-11)  # theirs cancels at the end


def test_warmup_is_that_of_the_cosine() -> None:
    ours = schedules.Warmup(schedules.CosineDecay(0.5, 30, 0.1), 10)
    theirs = schedules.CosineDecay(0.0, 30, 0.1, warmup_target=0.5, warmup_steps=10)
    np.testing.assert_allclose(ours(STEPS), theirs(STEPS), rtol=1e-14)


def test_a_combined_schedule_survives_a_model_file(tmp_path: Any) -> None:
    from wdfast import layers, models, optimizers

    rate = 0.5 * schedules.Warmup(schedules.OneCycle(0.5, 40), 4)
    model = models.Sequential([layers.Input((3,)), layers.Dense(2)])
    model.compile(optimizers.SGD(rate), "mse")
    model.save(tmp_path / "model.safetensors")
    again = models.load(tmp_path / "model.safetensors").optimizer
    steps = np.arange(60)
    np.testing.assert_array_equal(again.rates(steps), model.optimizer.rates(steps))
    assert np.ptp(again.rates(steps)) > 0.1


def test_a_callable_inside_a_schedule_is_no_data(tmp_path: Any) -> None:
    from wdfast import layers, models, optimizers

    model = models.Sequential([layers.Input((3,)), layers.Dense(2)])
    model.compile(optimizers.SGD(schedules.Warmup(lambda step: 0.1, 4)), "mse")
    with pytest.raises(ValueError, match="callable"):
        model.optimizer.get_config()
    model.save(tmp_path / "model.safetensors")  # without the optimizer
    assert not models.load(tmp_path / "model.safetensors").compiled


@pytest.mark.parametrize("schedule", [s for s, _ in CLOSED_FORMS if not isinstance(s, schedules.Function)], ids=repr)
def test_config_makes_it_again(schedule: schedules.LearningRateSchedule) -> None:
    config = json.loads(json.dumps({"class_name": type(schedule).__name__, "config": schedule.get_config()}))
    again = schedules.get(config)
    assert again == schedule
    assert repr(again) == repr(schedule)


def test_get() -> None:
    assert schedules.get(1) == schedules.Constant(1.0)
    assert schedules.get(np.float32(0.5)) == schedules.Constant(0.5)
    step = schedules.Step(0.1, 10)
    assert schedules.get(step) is step
    assert schedules.get(lambda t: t / 10)(np.array([5, 10])).tolist() == [0.5, 1.0]


def test_a_schedule_in_keras_style() -> None:
    class Mine(schedules.LearningRateSchedule):
        def __init__(self, initial: float) -> None:
            self.initial = initial

        def __call__(self, step: Any) -> Any:
            return self.initial if step < 3 else self.initial / 2  # no array would pass here

    assert schedules.get(Mine(0.5))(np.arange(5)).tolist() == [0.5, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("make", [
    lambda: schedules.Constant(-0.1), lambda: schedules.Constant(math.nan), lambda: schedules.get(math.inf),
    lambda: schedules.Linear(0.1, 0), lambda: schedules.Step(0.1, -1),
    lambda: schedules.ExponentialDecay(0.1, 10, -0.5),
    lambda: schedules.CosineDecay(math.inf, 10), lambda: schedules.PolynomialDecay(0.1, math.nan),
    lambda: schedules.CosineDecayRestarts(0.1, 0), lambda: schedules.CosineDecayRestarts(0.1, 5, t_mul=0.5),
    lambda: schedules.OneCycle(0.1, 1), lambda: schedules.OneCycle(0.1, 10, pct_start=1.5),
    lambda: schedules.OneCycle(0.1, 10, anneal_strategy="sine"), lambda: schedules.OneCycle(0.1, 10, div_factor=0),
    lambda: schedules.Warmup(0.1, -1), lambda: schedules.EarlyOnly(0.1, math.nan), lambda: schedules.Step(0.1, 3) * -1,
    lambda: schedules.PiecewiseConstantDecay([1, 2], [0.1, 0.2]),
    lambda: schedules.PiecewiseConstantDecay([2, 1], [1, 1, 1]),
    lambda: schedules.PiecewiseConstantDecay([1], [0.1, math.nan]),
])
def test_numbers_that_make_no_sense(make: Any) -> None:
    with pytest.raises(ValueError, match="argument '"):
        make()


@pytest.mark.parametrize("wrong", ["fast", "0.1", None, {"class_name": "Unknown"}, [0.1, 0.2]])
def test_what_is_no_schedule(wrong: Any) -> None:
    with pytest.raises(TypeError, match="learning_rate"):
        schedules.get(wrong)
    with pytest.raises(TypeError, match="callable"):
        schedules.Function(wrong)
