"""The native executor by hand: rows per step, parts, gradients of shared values, memory that is reused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_same_bits

from wdfast import _native, ops

SHAPE = (3, 4)


def activation(program: Any, x: int, name: str) -> int:
    return program.op("activation", [x], {"activation": name})[0]


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape or SHAPE).astype(np.float32)


def gradient(x: np.ndarray, dy: np.ndarray, *names: str) -> np.ndarray:
    """d of activations applied one after the other, eagerly."""

    def chain(value: Any) -> Any:
        for name in names:
            value = ops.activation(value, name)
        return value

    return ops.vjp(chain, x)[1](dy)[0]


# ---- feeds, results, steps ------------------------------------------------------------------------------


def test_a_row_of_feed_and_result_per_step() -> None:
    program = _native.Program()
    x = program.feed(SHAPE)
    y = activation(program, x, "tanh")
    program.compile([y])
    rows = normal(0, 5, *SHAPE)
    out = np.full((5, *SHAPE), np.nan, np.float32)
    program.run(5, {x: rows}, {y: out})
    assert_same_bits(out, ops.activation(rows, "tanh"), "five steps")
    program.run(2, {x: rows[3:]}, {y: out})
    assert_same_bits(out[:2], ops.activation(rows[3:], "tanh"), "two more")


def test_one_step_evaluated_into_arrays_of_its_own() -> None:
    program = _native.Program()
    x = program.feed(SHAPE)
    y, total = activation(program, x, "tanh"), program.op("reduce", [x], {"function": "sum"})[0]
    program.compile([y, total])
    first, second = normal(0), normal(1)
    results = [program.evaluate([x], [value], [y, total]) for value in (first, second)]
    for value, (got, summed) in zip((first, second), results, strict=True):
        assert_same_bits(got, ops.activation(value, "tanh"), "tanh")
        assert_same_bits(summed, np.reshape(ops.sum(value), 1), "a scalar has one axis")
    for arrays in ([], [first, second], [first[:2]], [first.astype(np.float64)], [first[:, ::2]]):
        with pytest.raises(ValueError, match=r"one per feed|does not fit|C-contiguous"):
            program.evaluate([x], arrays, [y])


def test_a_feed_without_rows_serves_every_step() -> None:
    program = _native.Program()
    x = program.feed(SHAPE)
    y = activation(program, x, "tanh")
    program.compile([y])
    out = np.empty((3, *SHAPE), np.float32)
    program.run(3, {x: normal(0)}, {y: out})
    for row in out:
        assert_same_bits(row, ops.activation(normal(0), "tanh"), "each step")


def test_a_feed_stays_until_it_is_given_again() -> None:
    program = _native.Program()
    x = program.feed(SHAPE)
    y = activation(program, x, "tanh")
    program.compile([y])
    program.run(1, {x: normal(0)}, {})
    program.run(1, {}, {})  # the array is alive though its only name is gone
    assert_same_bits(program.read(y), ops.activation(normal(0), "tanh"), "second run")


def test_no_steps_touch_nothing() -> None:
    program = _native.Program()
    x = program.feed(SHAPE)
    y = activation(program, x, "tanh")
    program.compile([y])
    given, room = normal(0), np.full((2, *SHAPE), 7, np.float32)
    before = given.copy()
    program.run(0, {x: given}, {y: room[:0]})
    assert (room == 7).all()
    np.testing.assert_array_equal(given, before)


def test_bound_array_is_read_at_every_run() -> None:
    program = _native.Program()
    w = normal(0)
    y = activation(program, program.bind(w), "tanh")
    program.compile([y])
    program.run(1, {}, {})
    w[...] = normal(1)
    program.run(1, {}, {})
    assert_same_bits(program.read(y), ops.activation(normal(1), "tanh"), "after an update")


# ---- gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uses", [1, 2, 3])
def test_value_used_several_times(uses: int) -> None:
    """Each use adds its share; the order is that of the backward pass, so the bits are known."""
    names = ["tanh", "sigmoid", "elu"][:uses]
    program = _native.Program()
    x = program.feed(SHAPE, needs_grad=True)
    seeds = [program.feed(SHAPE) for _ in names]
    ys = [activation(program, x, name) for name in names]
    assert program.differentiate(list(zip(ys, seeds, strict=True))) == [x]
    g = program.grad_of(x)
    program.compile([g, *ys])
    dys = [normal(10 + k) for k in range(uses)]
    program.run(1, {x: normal(0), **dict(zip(seeds, dys, strict=True))}, {})
    expected = None
    for name, dy in reversed(list(zip(names, dys, strict=True))):
        share = gradient(normal(0), dy, name)
        expected = share if expected is None else expected + share
    assert_same_bits(program.read(g), expected, f"{uses} uses")


@pytest.mark.parametrize("read", [False, True])
def test_a_seed_is_the_gradient_unless_more_is_added_to_it(read: bool) -> None:
    program = _native.Program(True)
    value, dy = normal(0), normal(1)
    x = program.feed(SHAPE, needs_grad=True)
    y = activation(program, x, "tanh")
    outputs, given = [y], dy.copy()
    seed = program.bind(given)
    seeds = [(y, seed)]
    if read:
        outputs.append(activation(program, y, "sigmoid"))
        seeds.append((outputs[1], program.bind(dy)))
    program.differentiate(seeds)
    assert (program.grad_of(y) == seed) is not read
    program.compile([*outputs, program.grad_of(x)])
    for _ in range(2):
        program.run(1, {x: value[None]}, {})
        expected = gradient(value, dy, "tanh") + (gradient(value, dy, "tanh", "sigmoid") if read else 0)
        np.testing.assert_allclose(program.read(program.grad_of(x)), expected, rtol=1e-5, atol=1e-6)
        assert_same_bits(given, dy, "the seed")


def test_seed_of_ones_and_a_value_seeded_twice() -> None:
    program = _native.Program()
    x = program.feed(SHAPE, needs_grad=True)
    seed = program.feed(SHAPE)
    y = activation(program, x, "tanh")
    program.differentiate([(y, -1), (y, seed), (y, -1)])
    program.compile([program.grad_of(x)])
    program.run(1, {x: normal(0), seed: normal(1)}, {})
    assert_same_bits(
        program.read(program.grad_of(x)), gradient(normal(0), 1 + normal(1) + 1, "tanh"), "1 + dy + 1"
    )


def test_gradient_at_a_value_inside() -> None:
    """A seed in the middle of a chain adds to what comes from its end."""
    program = _native.Program()
    x = program.feed(SHAPE, needs_grad=True)
    middle = activation(program, x, "tanh")
    end = activation(program, middle, "sigmoid")
    program.differentiate([(middle, -1), (end, -1)])
    program.compile([program.grad_of(x)])
    program.run(1, {x: normal(0)}, {})
    ones = np.ones(SHAPE, np.float32)
    inner = ones + gradient(ops.activation(normal(0), "tanh"), ones, "sigmoid")
    assert_same_bits(program.read(program.grad_of(x)), gradient(normal(0), inner, "tanh"), "middle and end")


def test_input_that_is_the_output() -> None:
    program = _native.Program()
    x = program.feed(SHAPE, needs_grad=True)
    assert program.differentiate([(x, -1)]) == [x]
    program.compile([program.grad_of(x)])
    program.run(1, {x: normal(0)}, {})
    np.testing.assert_array_equal(program.read(program.grad_of(x)), 1)


def test_only_what_wants_a_gradient_gets_one() -> None:
    program = _native.Program()
    x = program.feed(SHAPE)
    w = program.feed(SHAPE, needs_grad=True)
    y, z = activation(program, x, "tanh"), activation(program, w, "tanh")
    before = len(program.describe())
    assert program.differentiate([(y, -1)]) == []
    assert len(program.describe()) == before
    assert program.grad_of(x) == -1
    assert program.grad_of(z) == -1


def test_unused_output_costs_nothing_in_backward() -> None:
    program = _native.Program()
    x = program.feed(SHAPE, needs_grad=True)
    y = activation(program, x, "tanh")
    activation(program, x, "sigmoid")  # nobody asks for it
    program.differentiate([(y, -1)])
    assert [(name, run) for name, run, _, _ in program.describe()].count(("activation", "backward")) == 1
    program.compile([program.grad_of(x)])
    program.run(1, {x: normal(0)}, {})
    assert_same_bits(
        program.read(program.grad_of(x)), gradient(normal(0), np.ones(SHAPE, np.float32), "tanh"), "tanh only"
    )


def test_forward_and_backward_as_two_parts() -> None:
    program = _native.Program(training=True)
    x, seed = program.feed(SHAPE, needs_grad=True), program.feed(SHAPE)
    y = activation(program, activation(program, x, "tanh"), "sigmoid")
    program.differentiate([(y, seed)])
    g = program.grad_of(x)
    program.compile([y, g])
    program.run(1, {x: normal(0)}, {}, part=0)  # the seed is not known yet, and not needed
    assert_same_bits(program.read(y), ops.activation(ops.activation(normal(0), "tanh"), "sigmoid"), "forward")
    program.run(1, {seed: normal(1)}, {}, part=1)
    assert_same_bits(program.read(g), gradient(normal(0), normal(1), "tanh", "sigmoid"), "backward")


def test_the_second_part_may_run_again() -> None:
    """What backward reads of the forward pass must not give its place to a gradient."""
    program = _native.Program(training=True)
    x, seed = program.feed(SHAPE, needs_grad=True), program.feed(SHAPE)
    y = x
    for _ in range(6):
        y = activation(program, y, "tanh")
    program.differentiate([(y, seed)])
    g = program.grad_of(x)
    program.compile([y, g], repeat=True)
    program.run(1, {x: normal(0)}, {}, part=0)
    for k in (1, 2, 1):
        program.run(1, {seed: normal(k)}, {}, part=1)
        assert_same_bits(program.read(g), gradient(normal(0), normal(k), *["tanh"] * 6), "backward again")


@pytest.mark.parametrize("accumulate", [False, True])
def test_bound_parameter(accumulate: bool) -> None:
    w, dw = normal(0), normal(5)
    before = dw.copy()
    program = _native.Program()
    bound = program.bind(w, dw)
    y = activation(program, bound, "tanh")
    assert program.differentiate([(y, -1)], accumulate) == [bound]
    program.compile([])
    share = gradient(w, np.ones(SHAPE, np.float32), "tanh")
    for run in (1, 2):
        program.run(1, {}, {})
        expected = before + share if accumulate else share
        assert_same_bits(dw, expected, f"run {run}")
        before = dw.copy()


@pytest.mark.parametrize("accumulate", [False, True])
def test_parameter_that_no_seed_reaches(accumulate: bool) -> None:
    """It is not named among those that received a gradient, and its array is left alone."""
    used, unused = np.zeros(SHAPE, np.float32), np.full(SHAPE, 3, np.float32)
    program = _native.Program()
    a, b = program.bind(normal(0), used), program.bind(normal(1), unused)
    y = activation(program, a, "tanh")
    activation(program, b, "tanh")
    assert program.differentiate([(y, -1)], accumulate) == [a]
    program.compile([])
    program.run(1, {}, {})
    assert used.any()
    np.testing.assert_array_equal(unused, 3)


# ---- errors ---------------------------------------------------------------------------------------------


def compiled() -> tuple[Any, int, int, int]:
    program = _native.Program()
    x = program.feed(SHAPE)
    middle = activation(program, x, "tanh")
    y = activation(program, middle, "sigmoid")
    program.compile([y])
    return program, x, middle, y


def test_run_and_read_before_compile() -> None:
    program = _native.Program()
    x = program.feed(SHAPE)
    with pytest.raises(RuntimeError, match="not compiled"):
        program.run(1, {x: normal(0)}, {})
    with pytest.raises(RuntimeError, match="not compiled"):
        program.read(x)


def test_nothing_changes_after_compile() -> None:
    program, x, _, _ = compiled()
    with pytest.raises(RuntimeError, match="compiled already"):
        program.compile([])
    with pytest.raises(RuntimeError, match="compiled already"):
        program.feed(SHAPE)
    with pytest.raises(RuntimeError, match="compiled already"):
        program.bind(normal(0))
    with pytest.raises(RuntimeError, match="compiled already"):
        activation(program, x, "tanh")


@pytest.mark.parametrize(
    "wrong",
    [normal(0, 3, 5), normal(0, 12), normal(0, 2, *SHAPE), np.zeros(SHAPE, np.int32), normal(0, 4, 3).T,
     np.zeros(SHAPE), np.zeros(SHAPE, ">f4"), np.zeros((), np.float32)],
    ids=["shape", "rank", "too few rows", "int32", "Fortran", "float64", "byte-swapped", "scalar"],
)  # fmt: skip
def test_feed_that_does_not_fit(wrong: np.ndarray) -> None:
    program, x, _, y = compiled()
    with pytest.raises((TypeError, ValueError)):
        program.run(3, {x: wrong}, {y: np.empty((3, *SHAPE), np.float32)})


def test_result_that_does_not_fit() -> None:
    program, x, _, y = compiled()
    read_only = np.empty(SHAPE, np.float32)
    read_only.setflags(write=False)
    for wrong, steps in ((np.empty((4, 4), np.float32), 1), (np.empty(SHAPE, np.float32), 2), (read_only, 1)):
        with pytest.raises(ValueError, match=r"Program\.run"):
            program.run(steps, {x: normal(0)}, {y: wrong})


def test_feed_that_was_never_given() -> None:
    program, x, _, y = compiled()
    with pytest.raises(ValueError, match=rf"feed {x} was never given"):
        program.run(1, {}, {y: np.empty(SHAPE, np.float32)})


def test_value_that_is_not_a_feed_cannot_be_fed() -> None:
    program, x, _, y = compiled()
    with pytest.raises(ValueError, match="is not a feed"):
        program.run(1, {x: normal(0), y: normal(0)}, {})


def test_value_that_was_not_kept_cannot_be_read() -> None:
    """Its memory may hold another value; garbage must not pass for a result."""
    program, x, middle, _ = compiled()
    program.run(1, {x: normal(0)}, {})
    with pytest.raises(ValueError, match="not kept"):
        program.read(middle)
    with pytest.raises(ValueError, match="not kept"):
        program.run(1, {}, {middle: np.empty(SHAPE, np.float32)})


def test_tensor_that_does_not_exist() -> None:
    program = _native.Program()
    x = program.feed(SHAPE)
    with pytest.raises(IndexError, match="no tensor 7"):
        program.op("activation", [7], {})
    with pytest.raises(IndexError, match="no tensor 7"):
        program.differentiate([(7, -1)])
    with pytest.raises(IndexError, match="no tensor 7"):
        program.grad_of(7)
    with pytest.raises(IndexError, match="no tensor 7"):
        program.compile([x, 7])


def test_op_that_does_not_exist_or_does_not_fit() -> None:
    program = _native.Program()
    x = program.feed(SHAPE)
    with pytest.raises(ValueError, match="unknown op 'activatoin'"):
        program.op("activatoin", [x], {})
    with pytest.raises(ValueError, match="expected 1 to 1 inputs, got 2"):
        program.op("activation", [x, x], {})
    with pytest.raises(ValueError, match=r"'activation'.*got 'relus'"):
        program.op("activation", [x], {"activation": "relus"})


def test_gradient_array_must_be_a_twin() -> None:
    program = _native.Program()
    read_only = np.zeros(SHAPE, np.float32)
    read_only.setflags(write=False)
    for wrong in (np.zeros((4, 3), np.float32), np.zeros(SHAPE, np.int32), read_only):
        with pytest.raises(ValueError, match="'grad'"):
            program.bind(normal(0), wrong)


def test_seconds_per_entry() -> None:
    program, x, _, _ = compiled()
    seconds = np.zeros(len(program.describe()))
    program.run(3, {x: normal(0)}, {}, seconds=seconds)
    assert np.all(seconds > 0)
    with pytest.raises(ValueError, match="'seconds'"):
        program.run(1, {x: normal(0)}, {}, seconds=np.zeros(1))


# ---- memory ---------------------------------------------------------------------------------------------


def test_a_long_chain_needs_two_buffers() -> None:
    program = _native.Program()
    x = program.feed((1024,))
    y = x
    for _ in range(20):
        y = activation(program, y, "tanh")
    program.compile([y])
    assert program.arena_bytes == 2 * 4096


def test_winners_of_a_fused_pool_are_kept_for_a_backward_alone() -> None:
    x, w, attrs = normal(0, 2, 66, 67, 5), normal(1, 3, 3, 5, 24), {"pool": [2, 2], "activation": "relu"}
    values, arenas = [], []
    for backward in (False, True):
        program = _native.Program(training=backward)
        (y,) = program.op("conv2d", [program.bind(x), program.bind(w, np.zeros_like(w)), -1], attrs)
        if backward:
            program.differentiate([(y, -1)])
        program.compile([y])
        program.run(1, {}, {})
        values.append(program.read(y))
        arenas.append(program.arena_bytes)
    assert_same_bits(*values, "the pooled value")
    # A byte for each value; the packed weights are far fewer.
    assert arenas[0] < values[0].nbytes + values[0].size // 2 < values[0].nbytes + values[0].size < arenas[1]


UNARY = ("tanh", "sigmoid", "elu", "gelu", "leaky_relu")
INDEX = st.integers(0, 10**6)  # taken modulo the values there are
NODE = st.tuples(INDEX, INDEX, st.sampled_from([*UNARY, "reshape", "add", "multiply"]))
HAVE_BINARY = {"add", "multiply", "reshape"} <= set(dir(ops))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.sampled_from([1, 5, 33, 300]), min_size=1, max_size=3),
    nodes=st.lists(NODE, min_size=1, max_size=14),
    wanted=st.lists(INDEX, min_size=1, max_size=4),
    steps=st.integers(1, 3),
)
@pytest.mark.skipif(not HAVE_BINARY, reason="needs add, multiply and reshape")
def test_random_graphs(sizes: list[int], nodes: list[Any], wanted: list[int], steps: int) -> None:
    """Arena offsets are planned by lifetime: no value and no gradient is ever overwritten too early."""
    from wdfast.graph import Tensor, subgraph

    def apply(leaves: list[Any]) -> list[Any]:
        values = list(leaves)
        for first, second, name in nodes:
            a, b = values[first % len(values)], values[second % len(values)]
            if name in UNARY:
                values.append(ops.activation(a, name))
            elif name == "reshape":
                values.append(ops.reshape(a, (int(np.prod(a.shape)), 1) if len(a.shape) == 1 else (-1,)))
            elif tuple(a.shape) == tuple(b.shape):
                values.append(getattr(ops, name)(a, b))
            else:
                values.append(ops.activation(b, "tanh"))
        return values

    tensors = [Tensor((n,)) for n in sizes]
    symbolic = apply(tensors)
    chosen = sorted({len(sizes) + w % len(nodes) for w in wanted})
    program = _native.Program()
    ids = {id(t): program.feed(t.shape, needs_grad=True) for t in tensors}
    feeds = [ids[id(t)] for t in tensors]
    for node in subgraph(symbolic):
        given_ids = [ids[id(v)] for v in node.inputs.values()]
        for t, i in zip(node.outputs, program.op(node.op, given_ids, node.attrs), strict=True):
            ids[id(t)] = i
    outputs = [ids[id(symbolic[c])] for c in chosen]
    seeds = [program.feed(symbolic[c].shape) for c in chosen]
    received = program.differentiate(list(zip(outputs, seeds, strict=True)))
    grads = [program.grad_of(f) if f in received else -1 for f in feeds]
    keep = [*outputs, *(g for g in grads if g >= 0)]
    program.compile(keep)

    rng = np.random.default_rng(len(nodes))
    rows = {i: rng.standard_normal((steps, *program.spec(i)[0])).astype(np.float32) for i in (*feeds, *seeds)}
    results = {i: np.full((steps, *program.spec(i)[0]), np.nan, np.float32) for i in keep}
    program.run(steps, rows, results)
    for s in range(steps):
        values, pullback = ops.vjp(lambda *leaves: tuple(apply(list(leaves))[c] for c in chosen),
                                   *(rows[f][s] for f in feeds))  # fmt: skip
        for i, value in zip(outputs, values, strict=True):
            assert_same_bits(results[i][s].reshape(value.shape), value, f"step {s}")
        for g, expected in zip(grads, pullback(tuple(rows[i][s] for i in seeds)), strict=True):
            if g < 0:
                assert expected is None
            else:
                np.testing.assert_allclose(results[g][s], expected, rtol=2e-5, atol=2e-5)


# ---- other memory ---------------------------------------------------------------------------------------


def test_a_program_goes_on_with_other_memory() -> None:
    """What is bound anew is read and written, also through an alias; what was bound before is left alone."""
    program = _native.Program(True)
    w, dw = normal(0), np.zeros(SHAPE, np.float32)
    x = program.bind(w, dw)
    flat = program.op("reshape", [x], {"shape": [12]})[0]
    y = activation(program, flat, "tanh")
    program.differentiate([(y, -1)])
    with pytest.raises(RuntimeError, match="not compiled yet"):
        program.rebind(x, w, dw)
    program.compile([y])
    program.run(1, {}, {})
    first, before = program.read(y), dw.copy()
    other, d_other = normal(1), np.full(SHAPE, np.nan, np.float32)
    program.rebind(x, other, d_other)
    program.run(1, {}, {})
    assert_same_bits(program.read(y), ops.activation(other.reshape(-1), "tanh"), "value")
    assert_same_bits(d_other, gradient(other, np.ones_like(other), "tanh"), "gradient")
    assert_same_bits(dw, before, "what was bound before")
    program.rebind(x, w, dw)
    program.run(1, {}, {})
    assert_same_bits(program.read(y), first, "back again")


def test_what_cannot_be_bound_anew() -> None:
    program = _native.Program(True)
    w = normal(0)
    bound, fed = program.bind(w, np.zeros_like(w)), program.feed(SHAPE)
    y = program.op("binary", [bound, fed], {"function": "add"})[0]
    program.compile([y])
    for tensor, array, grad, told in ((bound, w[:2], None, "expected the shape and dtype of tensor 0"),
                                      (bound, w, None, "not bound, or not in the same way"),
                                      (fed, w, None, "not bound, or not in the same way"),
                                      (y, w, None, "not bound, or not in the same way"),
                                      (bound, w, w[:2].copy(), "expected a writable twin")):
        with pytest.raises(ValueError, match=told):
            program.rebind(tensor, array, grad)
    with pytest.raises(IndexError, match="there is no tensor 99"):
        program.rebind(99, w)
