"""Programs that go from model to model: each model's bits are those it has with a program of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import assert_same_bits

from wdfast import _programs, decay, initializers, layers, losses, models, ops, optimizers, schedules, search, steps
from wdfast._programs import Programs
from wdfast.graph import Parameter
from wdfast.program import signature
from wdfast.steps import Arrays, DataStep, Objective

X = np.random.default_rng(0).standard_normal((24, 6)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 24).astype(np.int32)
DATA = Arrays([X], [Y])
INDEX = np.arange(24, dtype=np.int32).reshape(3, 8)


def made(seed: int = 0, *, units: int = 8, norm: bool = True, frozen: bool = False, regularizer: Any = None,
         optimizer: Any = None, share: float = 1.0, metrics: Any = ("accuracy",),
         precision: str = "highest") -> models.Model:
    with initializers.seeded(seed):
        x = layers.Input((6,))
        h = layers.Dense(units, "relu", kernel_regularizer=regularizer)(x)
        h = layers.BatchNormalization()(h) if norm else h
        model = models.Model(x, layers.Dense(3)(layers.Dropout(0.25)(h)))
    model.layers[0].trainable = not frozen
    model.compile(optimizer or optimizers.AdamW(1e-2, decay=decay.decoupled(0.1)),
                  losses.SparseCategoricalCrossentropy(from_logits=True), list(metrics), loss_weights=[share],
                  precision=precision)
    model.optimizer.set_run(3, 30)
    return model


def taken(programs: Programs, model: models.Model, batch: int = 8, **how: Any) -> DataStep:
    return programs.take(model, Objective(model, DATA), DATA, batch, **{"training": True, "rows": True} | how)


def run(step: DataStep) -> dict[str, np.ndarray]:
    return step.run(3, {step.index: INDEX}, seed=5)


def state(model: models.Model) -> list[np.ndarray]:
    return [*model.get_weights(), *(v for v in model.optimizer.state_dict().values() if isinstance(v, np.ndarray))]


def same(one: list[np.ndarray], two: list[np.ndarray]) -> None:
    for i, (a, b) in enumerate(zip(one, two, strict=True)):
        assert_same_bits(a, b, str(i))


def test_models_that_take_turns_are_independent() -> None:
    """The second model goes on with the first one's program, then the first again: as each does alone."""
    def models_of() -> list[models.Model]:
        return [made(0), made(1, optimizer=optimizers.AdamW(3e-3, decay=decay.decoupled(1.0)))]

    alone, (first, second) = models_of(), models_of()
    expected = []
    for model in alone:
        step = taken(Programs(), model)
        expected.append([run(step), state(model), run(step), state(model)])
    programs, used = Programs(), []
    for turn in range(2):
        for model, wanted in zip((first, second), expected, strict=True):
            step = taken(programs, model)
            used.append(step.native)
            values = run(step)
            assert list(values) == list(wanted[2 * turn])
            same(list(values.values()), list(wanted[2 * turn].values()))
            same(state(model), wanted[2 * turn + 1])
            programs.give(step)
    same(state(first), expected[0][3])  # what the second did since is not its business
    assert all(native is used[0] for native in used)


def test_one_program_serves_one_model_at_a_time() -> None:
    programs = Programs()
    steps_taken = [taken(programs, made(seed)) for seed in range(2)]
    assert steps_taken[0].native is not steps_taken[1].native
    for step in steps_taken:
        programs.give(step)
    again = [taken(programs, made(seed)).native for seed in range(3)]
    assert len({id(native) for native in again}) == 3
    assert {id(step.native) for step in steps_taken} <= set(map(id, again))


SAME = {
    "strength": {"optimizer": lambda: optimizers.AdamW(1e-2, decay=decay.decoupled(7.0))},
    "none": {"optimizer": lambda: optimizers.AdamW(1e-2, decay=decay.none())},
    "rate": {"optimizer": lambda: optimizers.AdamW(schedules.Linear(0.1, 10), decay=decay.decoupled(0.1))},
}
OTHER = {
    "units": {"units": 9}, "network": {"norm": False}, "frozen": {"frozen": True}, "precision": {"precision": "medium"},
    "loss": {"share": 0.5}, "metric": {"metrics": ()},
    "rule": {"optimizer": lambda: optimizers.SGD(1e-2, decay=decay.decoupled(0.1))},
    "constant": {"optimizer": lambda: optimizers.AdamW(1e-2, beta_1=0.5, decay=decay.decoupled(0.1))},
    "penalty": {"optimizer": lambda: optimizers.AdamW(1e-2, decay=decay.l2(0.1))},
    "clock": {"optimizer": lambda: optimizers.AdamW(1e-2, decay=decay.epochs(2))},
    "memory": {"optimizer": lambda: optimizers.AdamW(1e-2, decay=decay.stable(0.1))},
    "anchor": {"optimizer": lambda: optimizers.AdamW(1e-2, decay=decay.toward(None, 0.1))},
    "regularizer": {"regularizer": lambda: lambda w: ops.sum(ops.abs(w))},
}


@pytest.mark.parametrize(("what", "shares"), [*((k, True) for k in SAME), *((k, False) for k in OTHER)])
def test_what_is_computed_decides(what: str, shares: bool) -> None:
    """Where numbers alone differ the program is the same one, else another; the bits are right in both cases."""
    def other(seed: int) -> models.Model:
        return made(seed, **{k: v() if callable(v) else v for k, v in (SAME | OTHER)[what].items()})

    programs = Programs()
    before = taken(programs, made())
    native = before.native
    run(before)
    programs.give(before)
    model, alone = other(1), other(1)
    step = taken(programs, model)
    assert (step.native is native) == shares
    values, wanted = run(step), run(taken(Programs(), alone))
    same(list(values.values()), list(wanted.values()))
    same(state(model), state(alone))


def test_batch_mode_and_data_are_part_of_it() -> None:
    programs = Programs()
    before = taken(programs, made())
    native = before.native
    programs.give(before)
    assert taken(programs, made(), 4).native is not native
    assert taken(programs, made(), training=False).native is not native
    assert taken(programs, made(), telemetry=True).native is not native
    model, data = made(), Arrays([X.copy()], [Y])
    assert programs.take(model, Objective(model, data), data, 8, training=True, rows=True).native is not native
    assert taken(programs, made()).native is native


def test_what_is_not_known_whole_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that is none of the model's, a regularizer of ops, a matrix that is stepped by factors."""
    x, w = layers.Input((3,)), Parameter(np.ones(3, np.float32), role="norm_scale", name="w")
    y = ops.multiply(x, w)
    assert signature([y], [x, w]) == signature([ops.multiply(x, w)], [x, w])
    assert signature([y], [x]) is None
    programs = Programs()
    programs.give(taken(programs, made(regularizer=lambda w: ops.sum(ops.square(w)))))
    monkeypatch.setattr("wdfast.program._BY_FACTORS", 1)
    step = taken(programs, made(units=16, norm=False))
    assert step.plan.appended is None
    programs.give(step)
    assert programs._idle == []


def test_idle_programs_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs()
    held = [taken(programs, made(seed)) for seed in range(3)]
    monkeypatch.setattr(_programs, "_IDLE_BYTES", 2 * held[0].native.arena_bytes)
    for step in held:
        programs.give(step)
    assert [step for _, step in programs._idle] == held[1:]


@pytest.mark.parametrize("method", ["grid", "halving"])
def test_a_search_makes_as_many_programs_as_it_runs_at_a_time(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For full and last batches, and to measure: three for all candidates; where none is kept, the same bits."""
    count = []
    begin = steps.DataStep.__init__
    monkeypatch.setattr(steps.DataStep, "__init__", lambda *a, **k: (count.append(1), begin(*a, **k))[1])

    def build() -> models.Model:
        return made()

    def searched() -> list[Any]:
        values = [decay.none(), *search.grid(decay.decoupled, 0.01, 10, 5)]
        found = search.decay(build, X, Y, values, folds=2, epochs=4, batch_size=8, method=method, jobs=1, verbose=0)
        return [(repr(row.candidate.decay), row.scores.tolist(), {k: v.tolist() for k, v in row.curves.items()})
                for row in found.rows]

    shared = searched()
    assert len(count) == 3
    monkeypatch.setattr(_programs, "_IDLE_BYTES", 0)
    assert searched() == shared
    assert len(count) > 3 * 6
