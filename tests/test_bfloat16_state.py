"""State in bfloat16 with stochastic rounding: the same bits as the reference, unbiased, wherever it is computed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from wdfast import _native, ops, optimizers
from wdfast.graph import Parameter
from wdfast.ops._update_rules import SLOTS, from_bfloat16, to_bfloat16
from wdfast.ops.optimizer_step import NO_CLOCK, RATE_CLOCK, TABLE, momentum_products, reference

EPS = 2.0**-24
CONSTANTS = {"momentum": 0.9, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-7, "momentum_decay": 0.5}
KEEPING = [rule for rule, slots in SLOTS.items() if slots]


def row(length: int, at: int = 0, state_at: int | None = None, **values: float) -> list[float]:
    cells = dict.fromkeys(TABLE, 0.0) | {"parameter_at": at, "gradient_at": at, "length": length, "rate_share": 1.0,
                                         "state_at": at if state_at is None else state_at, "l2_clock": NO_CLOCK,
                                         "l1_clock": NO_CLOCK, "shrink_clock": RATE_CLOCK}
    return [(cells | values)[name] for name in TABLE]


def hyper(rule: str, step: int) -> list[float]:
    product = momentum_products(CONSTANTS["beta_1"], CONSTANTS["momentum_decay"], step, 1)[0]
    return [0.05, step, 1.0, product if rule == "nadam" else 1.0]


def nearest(values: np.ndarray) -> np.ndarray:
    """The bfloat16 below in magnitude; any bits will do to start from."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def state_of(rule: str, n: int, rng: np.random.Generator) -> list[np.ndarray]:
    """A state such as training leaves: means of both signs where they may be negative, squares above them."""
    signed = {"momentum": [0], "nesterov": [0], "lion": [0], "adam": [0], "nadam": [0], "amsgrad": [0],
              "rmsprop_momentum": [1], "rmsprop_centered": [1], "rmsprop_centered_momentum": [1, 2]}.get(rule, [])
    return [nearest(rng.uniform(-0.3, 0.3, n) if k in signed else rng.uniform(0.4, 0.6, n)) for k in range(SLOTS[rule])]


AWKWARD = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42, -3e-41, 1.17e-38, 3.4028235e38, -3.4e38, 1.0, -1.0],
                   np.float32)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 31, 127, 128, 129, 1009, 4096, 4097, 20_011])
def test_bits_are_those_of_the_reference(n: int, isa: str) -> None:
    """With all β = 0 the state is g, g² and the larger of g² and what was there: exact, so every bit is told."""
    rng = np.random.default_rng(n)
    g = (rng.standard_normal(n) * np.exp(rng.uniform(-40, 40, n))).astype(np.float32)
    g[: AWKWARD.size] = AWKWARD[: g.size]
    before = rng.integers(0, 0x7F80, n).astype(np.uint16)
    at, total = 5, n + 11
    p, slots = np.zeros(total, np.float32), [np.zeros(total, np.uint16) for _ in range(3)]
    gradient = np.zeros(total, np.float32)
    gradient[at : at + n], slots[2][at : at + n] = g, before
    with np.errstate(over="ignore", invalid="ignore"):
        ops.optimizer_step(p, gradient, [row(n, at)], [0.0, 3, 1, 1], *slots, rule="amsgrad", beta_1=0.0, beta_2=0.0,
                           rounding_seed=9)
        square = g * g
        largest = np.where(square < from_bfloat16(before), from_bfloat16(before), square)
        for k, value in enumerate((np.float32(0) + g, square, largest)):
            expected = to_bfloat16(value, 9, 3, at, k)
            nan = np.isnan(value)
            np.testing.assert_array_equal(slots[k][at : at + n][~nan], expected[~nan])
            assert np.isnan(from_bfloat16(slots[k][at : at + n][nan])).all()
            assert not slots[k][:at].any()
            assert not slots[k][at + n :].any()


@pytest.mark.parametrize("part", [0.001, 0.1, 0.5, 0.77, 0.9999])
@pytest.mark.parametrize("slot", [0, 1, 2])
def test_rounding_is_unbiased(part: float, slot: int) -> None:
    """The mean of 2²⁰ roundings of a value between two bfloat16 is the value, within six standard errors."""
    n, low = 2**20, np.array([0x3F81], np.uint16)
    value = (low.astype(np.uint32)[0] << 16) + round(part * 2**16)
    exact = np.full(n, value, np.uint32).view(np.float32)
    up = to_bfloat16(exact, 1, 1, 0, slot) - low[0]
    assert set(np.unique(up)) <= {0, 1}
    assert abs(up.mean() - round(part * 2**16) / 2**16) <= 6 * np.sqrt(part * (1 - part) / n) + 1e-9


def test_roundings_of_neighbours_steps_seeds_and_slots_are_not_alike() -> None:
    exact = np.full(2**16, 1.00390625 + 2**-9, np.float32)  # half way
    base = to_bfloat16(exact, 1, 1, 0, 0).astype(np.float64)
    for other in (to_bfloat16(exact, 2, 1, 0, 0), to_bfloat16(exact, 1, 2, 0, 0), to_bfloat16(exact, 1, 1, 0, 1),
                  to_bfloat16(exact, 1, 1, 0, 2), np.roll(base, 1), np.roll(base, 8)):
        assert abs(np.corrcoef(base, other.astype(np.float64))[0, 1]) < 6 / 2**8


@pytest.mark.parametrize("rule", KEEPING)
@pytest.mark.parametrize("decay", [{}, {"l2": 0.1, "shrink": 0.1}, {"l1": 0.1}])
def test_every_rule_follows_the_reference(rule: str, decay: dict[str, float], isa: str) -> None:
    """24 steps, each from the native state; the stored bits are those of a value within a few float32 roundings."""
    n, rng, close = 1009, np.random.default_rng(2), 0.0
    p, slots = rng.standard_normal(n).astype(np.float32), state_of(rule, n, rng)
    for t in range(1, 25):
        g = rng.standard_normal(n).astype(np.float32)
        exact, before = p.astype(np.float64), [s.copy() for s in slots]
        wide = [from_bfloat16(s).astype(np.float64) for s in slots]
        reference(exact, g.astype(np.float64), np.array([row(n, **decay)]), np.array(hyper(rule, t)), *wide, rule=rule,
                  **CONSTANTS)
        ops.optimizer_step(p, g, [row(n, **decay)], hyper(rule, t), *slots, rule=rule, rounding_seed=4, **CONSTANTS)
        np.testing.assert_allclose(p, exact, rtol=0, atol=EPS * (8 + 12 * 0.05 * 32))
        for k, (own, value, old) in enumerate(zip(slots, wide, before, strict=True)):
            # the terms of a mean are no larger than twice what it was and is; a centred root cancels a few bits
            slack = 64 * EPS * (np.abs(value) + np.abs(from_bfloat16(old)))
            low, high = (from_bfloat16(to_bfloat16(v, 4, t, 0, k)) for v in (value - slack, value + slack))
            stored = from_bfloat16(own)
            assert ((low <= stored) & (stored <= high)).all(), (k, t)
            close += np.mean(low == high) / (24 * len(slots))
    assert close >= 0.98, "the test could not fail"


@pytest.mark.parametrize("rule", ["momentum", "adam", "rmsprop_centered_momentum"])
def test_same_bits_for_any_number_of_threads_and_split(rule: str, isa: str) -> None:
    """1, 2, 3 threads, and one segment or several: the bits depend on the place in the state alone."""
    n, rng = 100_003, np.random.default_rng(6)
    start, g = rng.standard_normal((2, n)).astype(np.float32)
    state, seen = state_of(rule, n, rng), set()
    cuts = [0, 16, 33, 40_000, n]
    tables = [[row(n, shrink=0.1)], [row(b - a, a, shrink=0.1) for a, b in pairwise(cuts)]]
    for threads in (1, 2, 3):
        for table in tables:
            _native.set_num_threads(threads)
            p, slots = start.copy(), [s.copy() for s in state]
            ops.optimizer_step(p, g, table, hyper(rule, 5), *slots, rule=rule, rounding_seed=0, **CONSTANTS)
            seen.add((p.tobytes(), *(s.tobytes() for s in slots)))
    assert len(seen) == 1


def test_a_held_or_measuring_call_leaves_the_state(isa: str) -> None:
    p, g, total = np.ones(50, np.float32), np.ones(50, np.float32), np.zeros(50, np.float32)
    m, memory = nearest(np.linspace(0.1, 1, 50)), np.zeros((1, 9))
    before = m.copy()
    ops.optimizer_step(p, g, [row(50)], [0.1, 1, 1, 1, 0.0], m, rule="momentum", rounding_seed=0, accumulator=total,
                       accumulation_steps=2, accumulation_clock=4)
    ops.optimizer_step(p, g, [row(50)], [0.1, 1, 1, 1], m, rule="momentum", rounding_seed=0, memory=memory,
                       measure=True)
    assert m.tobytes() == before.tobytes()
    assert (p == 1).all()
    assert memory[0, 2] == 50


@pytest.mark.parametrize(("slots", "seed"), [([np.zeros(4, np.float32)], 0), ([np.zeros(4, np.uint16)], None)])
def test_the_dtype_of_the_state_is_checked(slots: list[Any], seed: int | None) -> None:
    p = np.ones(4, np.float32)
    with pytest.raises(ValueError, match="'slot1': expected dtype"):
        ops.optimizer_step(p, p.copy(), [row(4)], [0.1, 1, 1, 1], *slots, rule="momentum", rounding_seed=seed)
    assert (p == 1).all()


# ---- in the optimizers ----------------------------------------------------------------------------------


def parameters(seed: int = 0) -> list[Parameter]:
    rng = np.random.default_rng(seed)
    made = [Parameter(rng.standard_normal(shape), role=role, name=role) for shape, role in (((61, 7), "kernel"),
                                                                                            ((7,), "bias"))]
    for p in made:
        p.grad = np.zeros(p.shape, np.float32)
    return made


def train(optimizer: Any, made: list[Parameter], first: int, steps: int) -> None:
    for t in range(first, first + steps):
        for i, p in enumerate(made):
            p.grad[...] = np.random.default_rng([t, i]).standard_normal(p.shape)
        optimizer.apply(made)


MAKERS: dict[str, Callable[..., Any]] = {
    "momentum": lambda **k: optimizers.SGD(0.05, momentum=0.9, weight_decay=0.1, **k),
    "adagrad": lambda **k: optimizers.Adagrad(0.05, **k),
    "amsgrad": lambda **k: optimizers.Adam(0.05, amsgrad=True, **k),
    "adamw": lambda **k: optimizers.AdamW(0.05, use_ema=True, gradient_accumulation_steps=2, **k),
    "lion": lambda **k: optimizers.Lion(0.005, **k),
    "rmsprop": lambda **k: optimizers.RMSprop(0.005, momentum=0.5, centered=True, **k),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("built", [True, False])
def test_a_resumed_run_has_the_same_bits(name: str, built: bool, tmp_path: Path) -> None:
    """State taken after 6 of 14 calls, through a file, into a new optimizer; with float32 it is refused."""
    make = MAKERS[name]
    one, optimizer = parameters(), make(state_dtype="bfloat16")
    train(optimizer, one, 0, 6)
    state, weights = optimizer.state_dict(), [p.numpy() for p in one]
    own = [array for key, array in state.items() if isinstance(array, np.ndarray) and array.dtype == np.uint16]
    assert len(own) == len(optimizer.state.initial)
    assert all(array.any() for array in own)
    arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
    save_file(arrays, tmp_path / "state.safetensors")
    state |= load_file(tmp_path / "state.safetensors")
    train(optimizer, one, 6, 8)
    two, other = parameters(seed=5), optimizers.get(optimizer).from_config(optimizer.get_config())
    if built:
        other.build(two)
    other.load_state_dict(state)
    for p, value in zip(two, weights, strict=True):
        p.assign(value)
    train(other, two, 6, 8)
    assert [p.value.tobytes() for p in two] == [p.value.tobytes() for p in one]
    wide = make()
    with pytest.raises(ValueError, match="another state_dtype"):
        wide.load_state_dict(state)
    wide.build(two)
    with pytest.raises(ValueError, match="another state_dtype"):
        optimizer.load_state_dict(wide.state_dict())


@pytest.mark.parametrize("name", MAKERS)
def test_it_trains_as_float32_does(name: str) -> None:
    """200 steps down a bowl: both arrive, and at the same place to bfloat16's 3 digits of each step."""
    ends = []
    for dtype in ("float32", "bfloat16"):
        made, optimizer = parameters(), MAKERS[name](state_dtype=dtype)
        for _ in range(200):
            for p in made:
                p.grad[...] = p.value - 0.25
            optimizer.apply(made)
        ends.append(made[0].numpy())
    start = np.abs(parameters()[0].value - 0.25).mean()
    assert np.abs(ends[0] - 0.25).mean() < start / 2
    assert np.abs(ends[1] - ends[0]).mean() < 0.02 * start


def test_in_a_program_it_is_the_same(isa: str) -> None:
    one, two = parameters(), parameters()
    first, second = (optimizers.AdamW(0.05, state_dtype="bfloat16") for _ in range(2))
    gradient = [np.random.default_rng(3).standard_normal(p.shape).astype(np.float32) for p in one]
    for made in (one, two):
        for p, g in zip(made, gradient, strict=True):
            p.grad[...] = g
    for _ in range(3):
        first.apply(one)
    program = _native.Program(training=True)
    plan = second.plan(two)
    rows, stats = plan.append(program, measured=False)
    assert stats == []  # nothing is penalised, and nobody measures
    program.compile([])
    program.run(3, {rows: plan.hyper(0, 3)}, {})
    assert [p.value.tobytes() for p in one] == [p.value.tobytes() for p in two]
    for key, array in first.state.values().items():
        assert array.tobytes() == second.state.values()[key].tobytes()


def test_a_dtype_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'state_dtype': expected 'float32' or 'bfloat16'"):
        optimizers.Adam(state_dtype="float16")
