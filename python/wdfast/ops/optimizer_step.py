"""Training steps in place, decay included: one pass over parameters, gradients and state; float32.

Every rule steps p ← p − s·p − η·u with u = direction(scale·g + λ₂p + λ₁ sign(p), state): `l2` and `l1` are
penalties in the gradient (coupled: the loss gains λ₂/2 Σp² + λ₁ Σ|p|), `decay` is the decoupled shrink s =
η·decay of AdamW (arXiv 1711.05101 in the form of PyTorch and Keras). ε is added outside the root, as in
PyTorch; Keras' RMSprop and Adagrad add it inside. Momentum averages gradients, not steps: p ← p − η v, as in
PyTorch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._dispatch import Array, Case, Uniform, as_array, call
from ._update_rules import SLOTS, direction, divisor, from_bfloat16, momentum_products, second_moment, to_bfloat16

__all__ = [
    "adagrad_step",
    "adam_step",
    "lion_step",
    "momentum_step",
    "nadam_step",
    "optimizer_step",
    "rmsprop_step",
    "sgd_step",
]
NOT_DIFFERENTIABLE = __all__

TABLE = ("parameter_at", "gradient_at", "state_at", "length", "rate_share", "l2", "l2_clock", "l1",
         "l1_clock", "shrink", "shrink_clock", "form", "target", "proximal_l1", "proximal_l1_clock", "proximal_l2",
         "proximal_l2_clock", "power", "adaptive", "anchored", "max_norm", "outputs", "memory_row")
"""Columns of a segment table. A strength counts times its clock: a column of HYPER, or −1, the constant 1."""
FORMS = ("plain", "cautious", "stable", "norm_target", "constrained", "constrained_initial",
         "constrained_warm_start", "constrained_inflection")
"""What the shrink is: s, or as `decay.cautious`, `stable`, `norm_target` (target ρ), `constrained` (target κ, or the
factor or the steps by which κ is set)."""
MEMORY = ("multiplier", "squares", "measured_gradient", "elements", "second_even", "second_odd", "bound", "sample",
          "growth")
"""What a step leaves to the next: μ, Σp² now, Σg'² of a measuring call, the size, Σv̂ of even and odd steps; κ,
below 0 until it is set, Σp² when last sampled, its growth since the sample before."""
HYPER = ("rate", "step", "gradient_scale", "momentum_product")
"""The per-step values; an optimizer may append clocks of its own."""
ADDRESSES = ("param", "grad", "slot1", "slot2", "slot3", "anchor", "average", "accumulator")
"""Columns of the table that stands for all arrays of weights when the optimizers step foreign ones."""
STATISTICS = ("squares", "magnitudes", "zeros", "alignment", "gradient_squares", "non_finite")
"""Columns of the result: Σp², Σ|p|, #(p = 0), Σu·p, Σg², #(g not finite), from before the update."""

RATE_CLOCK = float(HYPER.index("rate"))
NO_CLOCK = -1.0


def optimizer_step(param: Array, grad: Array | None, table: Array, hyper: Array, slot1: Array = None,
                   slot2: Array = None, slot3: Array = None, rule: str = "sgd",
                   momentum: float = 0.9, beta_1: float = 0.9, beta_2: float = 0.999,
                   epsilon: float = 1e-7, momentum_decay: float = 1.0, *, anchor: Array = None,
                   average: Array = None, accumulator: Array = None, memory: Array = None,
                   clip_value: float = 0.0, clip_norm: float = 0.0, global_clip_norm: float = 0.0,
                   average_momentum: float = 0.99, accumulation_steps: int = 1,
                   accumulation_clock: int = -1, exact: bool = False, measure: bool = False,
                   rounding_seed: int | None = None, x: Array = None, dy: Array = None) -> Array:
    """One step of many parameters that share arrays: for each segment, p ← p − s·p − η·u.

    param, grad, slot1 … slot3: float32; param and slots are updated in place. table: float64 (segments, 23),
    a row of `TABLE` values per parameter, by rising position; hyper: float64 (≥ 4,), the `HYPER` values of
    this step. rule: sgd, momentum, nesterov, adagrad, rmsprop, rmsprop_centered, rmsprop_momentum,
    rmsprop_centered_momentum (ρ is beta_2), adam, amsgrad, nadam or lion.

    anchor (what anchored segments decay towards), average (a moving average of the weights), accumulator (of
    gradients): float32 with the layout of the slots. memory: float64 (parameters, 9), the `MEMORY` values.
    The clips are off at 0; those of a norm take it from a call before with `measure`, which updates nothing
    but `memory`. accumulation_clock: the column of hyper that is 0 while gradients are only added up. exact:
    shrinks that need a sum take it from the measuring call, not from the step before.

    rounding_seed ≥ 0: the slots are bfloat16, as the uint16 of their bits; each is widened, stepped in float32
    and stochastically rounded (up with the probability that is the part cut off) by 16 bits of Philox that
    depend on the seed, the step, the element's position and the slot. Master weights stay float32.

    x, dy: float32 (…, in), (…, out) with as many rows, out a multiple of 16, given instead of grad: the gradient of
    the only segment, a matrix (in, out), is their product xᵀ·dy. Some rows of it at a time are made and stepped
    while they lie in cache; it never reaches memory.

    Returns float64 (segments, 6), the `STATISTICS` of each segment. Raises ValueError, with nothing written,
    for segments that overlap or leave the arrays.

    >>> import numpy as np
    >>> from wdfast import ops
    >>> p, g = np.array([1, 2, 3], np.float32), np.ones(3, np.float32)
    >>> table = np.zeros((2, 23))
    >>> table[:, :5] = [0, 0, 0, 1, 1], [2, 2, 0, 1, 1]  # at 0 and at 2 one element, with the full rate
    >>> table[1, 9] = 0.1  # shrink, times the learning rate
    >>> stats = ops.optimizer_step(p, g, table, [0.5, 1, 1, 1])
    >>> p
    array([0.5 , 2.  , 2.35], dtype=float32)
    """
    inputs = {"param": param, "grad": grad, "table": table, "hyper": hyper,
              "slot1": slot1, "slot2": slot2, "slot3": slot3, "anchor": anchor, "average": average,
              "accumulator": accumulator, "memory": memory, "addresses": None, "x": x, "dy": dy}
    numbers = {"momentum": momentum, "beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon,
               "momentum_decay": momentum_decay, "clip_value": clip_value, "clip_norm": clip_norm,
               "global_clip_norm": global_clip_norm, "average_momentum": average_momentum,
               "accumulation_steps": accumulation_steps, "accumulation_clock": accumulation_clock,
               "exact": exact, "measure": measure, "bounded_outputs": bounded_outputs(table)}
    return call("optimizer_step", inputs, float64=("table", "hyper", "memory"), rule=rule,
                rounding_seed=rounding_seed, **{name: float(value) for name, value in numbers.items()})


def first_memory(p: np.ndarray) -> list[float]:
    """A row of the memory before the first step of the weights p."""
    squares = float(np.square(p, dtype=np.float64).sum())
    row = {"squares": squares, "sample": squares, "elements": p.size, "bound": -1, "growth": -np.inf}
    return [float(row.get(name, 0)) for name in MEMORY]


def bounded_outputs(table: Array) -> float:
    """How many norms the segments of a table bound: what the native step makes room for."""
    table = np.asarray(table)
    if table.shape[1:] != (len(TABLE),):
        return 0.0
    return float(table[table[:, TABLE.index("max_norm")] > 0, TABLE.index("outputs")].sum())


def _step(op: str, rule: str, arrays: dict[str, Array], lr: float, decays: dict[str, float],
          step: int = 1, **constants: float) -> np.ndarray:
    """Checks the arguments of one parameter's step, then takes it."""
    strengths = {"l2": 0.0, "l1": 0.0, "decay": 0.0, "grad_scale": 1.0}
    for name in decays.keys() - strengths:
        raise TypeError(f"{op}: unexpected argument '{name}'")
    strengths |= decays
    grad_scale = strengths.pop("grad_scale")
    checked = {name: as_array(op, name, value, in_place=name != "g") for name, value in arrays.items()}
    p, g, *slots = checked.values()
    for i, (name, array) in enumerate(checked.items()):
        if array.dtype != np.float32 or array.shape != p.shape:
            raise ValueError(
                f"{op}: argument '{name}': expected {p.shape} float32 as 'p', got {array.shape} {array.dtype}"
            )
        for other in list(checked)[:i]:
            if np.may_share_memory(array, checked[other]):  # exact: both are contiguous
                raise ValueError(f"{op}: argument '{name}' shares memory with argument '{other}'")
    for name, value in {"lr": lr, **strengths}.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{op}: argument '{name}': expected a finite number ≥ 0, got {value!r}")
    if not math.isfinite(grad_scale):
        raise ValueError(f"{op}: argument 'grad_scale': expected a finite number, got {grad_scale!r}")
    if step < 1:
        raise ValueError(f"{op}: argument 'step': steps count from 1, got {step!r}")
    product = 1.0
    if rule == "nadam" and 0 <= constants["beta_1"] < 1:
        product = momentum_products(constants["beta_1"], constants["momentum_decay"], step, 1)[0]
    cell = dict.fromkeys(TABLE, 0.0) | {"length": p.size, "rate_share": 1.0, "l2": strengths["l2"],
                                        "l2_clock": NO_CLOCK, "l1": strengths["l1"], "l1_clock": NO_CLOCK,
                                        "shrink": strengths["decay"], "shrink_clock": RATE_CLOCK}
    table = np.array([[cell[name] for name in TABLE]])
    return optimizer_step(p, g, table, [lr, step, grad_scale, product], *slots, rule=rule, **constants)[0]


def sgd_step(p: Array, g: Array, *, lr: float = 0.01, **decays: float) -> np.ndarray:
    """Stochastic gradient descent, in place: p ← p − η·(decay·p + g'), g' = grad_scale·g + l2·p + l1·sign(p).

    p, g: float32 of one shape; p is updated. decays, as for every rule: l2, l1, decay (0 each) and grad_scale
    (1). Returns float64 (6,): Σp², Σ|p|, zeros, Σu·p, Σg², non-finite gradients, from before the update.
    Raises TypeError or ValueError, with nothing written, for arrays that do not fit, and for a strength that
    is negative or not finite.

    >>> import numpy as np
    >>> from wdfast import ops
    >>> p = np.ones(2, np.float32)
    >>> stats = ops.sgd_step(p, np.ones(2, np.float32), lr=0.5, l2=0.5)
    >>> p
    array([0.25, 0.25], dtype=float32)
    """
    return _step("sgd_step", "sgd", {"p": p, "g": g}, lr, decays)


def momentum_step(p: Array, g: Array, velocity: Array, *, lr: float = 0.01, momentum: float = 0.9,
                  nesterov: bool = False, **decays: float) -> np.ndarray:
    """Heavy-ball momentum, in place: v ← μv + g', u = v; with `nesterov` u = g' + μv.

    p, g, velocity: float32 of one shape; p and velocity are updated. Takes, returns and raises as `sgd_step`.
    Source: Sutskever et al., ICML 2013, in PyTorch's form.

    >>> import numpy as np
    >>> from wdfast import ops
    >>> p, velocity = np.ones(2, np.float32), np.zeros(2, np.float32)
    >>> stats = ops.momentum_step(p, np.ones(2, np.float32), velocity, lr=0.5)
    >>> p, velocity
    (array([0.5, 0.5], dtype=float32), array([1., 1.], dtype=float32))
    """
    rule = "nesterov" if nesterov else "momentum"
    return _step("momentum_step", rule, {"p": p, "g": g, "velocity": velocity}, lr, decays, momentum=momentum)


def rmsprop_step(p: Array, g: Array, v: Array, *, mean: Array | None = None, velocity: Array | None = None,
                 lr: float = 0.001, rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7,
                 **decays: float) -> np.ndarray:
    """RMSprop, in place: v ← ρv + (1−ρ)g'², u = g'/(√v + ε).

    p, g, v: float32 of one shape; all but g are updated. `mean` makes it centred: a running mean of g' whose
    square is taken from v under the root. `velocity` gives it momentum: velocity ← μ·velocity + u is the
    direction then. Takes, returns and raises as `sgd_step`. Source: Hinton's lecture 6; centred: arXiv
    1308.0850.

    >>> import numpy as np
    >>> from wdfast import ops
    >>> p, v = np.ones(2, np.float32), np.zeros(2, np.float32)
    >>> stats = ops.rmsprop_step(p, np.ones(2, np.float32), v, rho=0.75, lr=0.25)
    >>> p.round(4), v
    (array([0.5, 0.5], dtype=float32), array([0.25, 0.25], dtype=float32))
    """
    arrays, rule = {"p": p, "g": g, "v": v}, "rmsprop"
    if mean is not None:
        arrays["mean"] = mean
        rule += "_centered"
    if velocity is not None:
        arrays["velocity"] = velocity
        rule += "_momentum"
    elif momentum:
        raise ValueError("rmsprop_step: argument 'velocity': momentum needs an array to keep it in")
    return _step("rmsprop_step", rule, arrays, lr, decays, beta_2=rho, momentum=momentum, epsilon=epsilon)


def adagrad_step(p: Array, g: Array, accumulator: Array, *, lr: float = 0.001, epsilon: float = 1e-7,
                 **decays: float) -> np.ndarray:
    """Adagrad, in place: a ← a + g'², u = g'/(√a + ε).

    p, g, accumulator: float32 of one shape; all but g are updated. Takes, returns and raises as `sgd_step`.
    Source: Duchi et al., JMLR 12, 2011.

    >>> import numpy as np
    >>> from wdfast import ops
    >>> p, a = np.ones(2, np.float32), np.zeros(2, np.float32)
    >>> stats = ops.adagrad_step(p, np.full(2, 2, np.float32), a, lr=0.25)
    >>> p, a
    (array([0.75, 0.75], dtype=float32), array([4., 4.], dtype=float32))
    """
    arrays = {"p": p, "g": g, "accumulator": accumulator}
    return _step("adagrad_step", "adagrad", arrays, lr, decays, epsilon=epsilon)


def adam_step(p: Array, g: Array, m: Array, v: Array, v_max: Array | None = None, *, lr: float = 0.001,
              beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7, step: int = 1,
              **decays: float) -> np.ndarray:
    """Adam, or AdamW with `decay`, in place: m, v ← means of g' and g'², u = m̂/(√v̂ + ε).

    m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ), t = `step`, from 1. p, g, m, v: float32 of one shape; all but g are
    updated. With `v_max` AMSGrad: the largest v so far is in the root. Takes, returns and raises as
    `sgd_step`. Sources: arXiv 1412.6980, 1711.05101 (decay), 1904.09237 (AMSGrad).

    >>> import numpy as np
    >>> from wdfast import ops
    >>> p, m, v = np.ones(2, np.float32), np.zeros(2, np.float32), np.zeros(2, np.float32)
    >>> stats = ops.adam_step(p, np.ones(2, np.float32), m, v, lr=0.25, decay=1.0)
    >>> p.round(4)
    array([0.5, 0.5], dtype=float32)
    """
    arrays, rule = {"p": p, "g": g, "m": m, "v": v}, "adam"
    if v_max is not None:
        arrays["v_max"], rule = v_max, "amsgrad"
    return _step("adam_step", rule, arrays, lr, decays, step, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)


def nadam_step(p: Array, g: Array, m: Array, v: Array, *, lr: float = 0.001, beta_1: float = 0.9,
               beta_2: float = 0.999, epsilon: float = 1e-7, momentum_decay: float = 1.0, step: int = 1,
               **decays: float) -> np.ndarray:
    """Adam with Nesterov momentum, in place: u = (μₜ₊₁ m/(1−Πμ·μₜ₊₁) + (1−μₜ) g'/(1−Πμ)) / (√v̂ + ε).

    μₜ = β₁(1 − ½·0.96^{tψ}), ψ = `momentum_decay`: 1 in Keras, 0.004 in PyTorch. p, g, m, v: float32 of one
    shape; all but g are updated. Takes, returns and raises as `sgd_step`. Source: Dozat, ICLR workshop 2016.

    >>> import numpy as np
    >>> from wdfast import ops
    >>> p, m, v = np.ones(1, np.float32), np.zeros(1, np.float32), np.zeros(1, np.float32)
    >>> stats = ops.nadam_step(p, np.ones(1, np.float32), m, v, lr=0.1)
    >>> p.round(3)
    array([0.894], dtype=float32)
    """
    arrays = {"p": p, "g": g, "m": m, "v": v}
    return _step("nadam_step", "nadam", arrays, lr, decays, step, beta_1=beta_1, beta_2=beta_2,
                 epsilon=epsilon, momentum_decay=momentum_decay)


def lion_step(p: Array, g: Array, m: Array, *, lr: float = 0.001, beta_1: float = 0.9,
              beta_2: float = 0.99, **decays: float) -> np.ndarray:
    """Lion, in place: u = sign(β₁m + (1−β₁)g'), then m ← β₂m + (1−β₂)g'.

    p, g, m: float32 of one shape; p and m are updated. Takes, returns and raises as `sgd_step`. Source: arXiv
    2302.06675.

    >>> import numpy as np
    >>> from wdfast import ops
    >>> p, m = np.ones(2, np.float32), np.zeros(2, np.float32)
    >>> stats = ops.lion_step(p, np.array([3, -1], np.float32), m, lr=0.25)
    >>> p
    array([0.75, 1.25], dtype=float32)
    """
    return _step("lion_step", "lion", {"p": p, "g": g, "m": m}, lr, decays, beta_1=beta_1, beta_2=beta_2)


# ---- reference ----------------------------------------------------------------------------------------


def reference(param: np.ndarray, grad: np.ndarray | None, table: np.ndarray, hyper: np.ndarray,
              slot1: np.ndarray | None = None, slot2: np.ndarray | None = None,
              slot3: np.ndarray | None = None, rule: str = "sgd", momentum: float = 0.9,
              beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
              momentum_decay: float = 1.0, *, anchor: np.ndarray | None = None,
              average: np.ndarray | None = None, accumulator: np.ndarray | None = None,
              memory: np.ndarray | None = None, clip_value: float = 0.0, clip_norm: float = 0.0,
              global_clip_norm: float = 0.0, average_momentum: float = 0.99, accumulation_steps: float = 1,
              accumulation_clock: float = -1, exact: float = 0, measure: float = 0,
              rounding_seed: int = -1, x: np.ndarray | None = None, dy: np.ndarray | None = None) -> np.ndarray:
    """Updates its arrays in place, in the dtype they have (float64 in tests); returns the statistics."""
    if grad is None:
        grad = x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])
    constants = {"momentum": momentum, "beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon,
                 "momentum_decay": momentum_decay}
    rate, step, scale, product = hyper[:4]
    hold = accumulation_clock >= 0 and hyper[int(accumulation_clock)] == 0
    remembered = None if memory is None else memory.copy()
    stats = np.zeros((len(table), len(STATISTICS)))
    for row, out in zip(np.asarray(table), stats, strict=True):
        cell = dict(zip(TABLE, row.tolist(), strict=True))
        p_at, g_at, s_at, n = (int(value) for value in row[:4])
        l2, l1, shrink, near, power_l2 = (
            cell[name] * (1 if cell[f"{name}_clock"] < 0 else hyper[int(cell[f"{name}_clock"])])
            for name in ("l2", "l1", "shrink", "proximal_l1", "proximal_l2"))
        p, g = param.reshape(-1)[p_at : p_at + n], grad.reshape(-1)[g_at : g_at + n]
        like_state = [None if s is None else s.reshape(-1)[s_at : s_at + n]
                      for s in (slot1, slot2, slot3, anchor, average, accumulator)]
        stored = [s for s in like_state[:3] if s is not None]
        slots = stored if rounding_seed < 0 else [from_bfloat16(s).astype(p.dtype) for s in stored]
        own_anchor, own_average, own_accumulator = like_state[3:]
        if measure:
            slots = [s.copy() for s in slots]
        raw = scale * g
        if own_accumulator is not None:
            raw = raw + own_accumulator
            if not measure:
                own_accumulator[:] = raw if hold else 0
            raw = raw / accumulation_steps
        pull = p - own_anchor if cell["anchored"] else p.copy()
        clipped = np.clip(raw, -clip_value, clip_value) if clip_value else raw
        form, multiplier, own = FORMS[int(cell["form"])], 0.0, None
        if remembered is not None:
            own = dict(zip(MEMORY, remembered[int(cell["memory_row"])], strict=True))
            multiplier = own["multiplier"]
            for limit, squares in ((clip_norm, own["measured_gradient"]),
                                   (global_clip_norm, remembered[:, MEMORY.index("measured_gradient")].sum())):
                if limit and not measure and squares > limit**2:
                    clipped = clipped * (limit / np.sqrt(squares))
        if form == "stable":
            column = "second_odd" if (step % 2 == 1) == bool(exact) else "second_even"
            total = remembered[:, MEMORY.index(column)].sum()
            count = remembered[:, MEMORY.index("elements")].sum()
            shrink = shrink / np.sqrt(total / count) if total else 0.0
        elif form.startswith("constrained"):
            bound = _bound(form, cell["target"], own)
            if bound >= 0:
                multiplier = max(0.0, multiplier + (own["squares"] - bound) / n)
            shrink *= 2 * multiplier
        elif form == "norm_target":
            shrink *= 1 - cell["target"] / np.sqrt(own["squares"]) if own["squares"] else 0.0
        before = p.copy()
        u = np.zeros_like(p)
        if not hold:
            u = direction(rule, clipped + l2 * pull + l1 * np.sign(p), slots, step, product, **constants)
            mask = (u * p >= 0) if form == "cautious" else 1.0
            after = p - (shrink * pull * mask + rate * cell["rate_share"] * u)
            metric = divisor(rule, slots, step, beta_2, epsilon) if cell["adaptive"] else 1.0
            after = np.sign(after) * np.maximum(np.abs(after) - near / metric, 0)
            if power_l2:
                with np.errstate(divide="ignore"):  # 0^(q−2) is infinite for q < 2: a zero stays one
                    after = after / (1 + power_l2 / metric * np.abs(before) ** (cell["power"] - 2))
            if own is not None:
                kept = memory[int(cell["memory_row"])]
                kept[MEMORY.index("second_odd" if step % 2 else "second_even")] = np.sum(
                    np.broadcast_to(second_moment(rule, slots, step, beta_2), p.shape))
                if measure:
                    kept[MEMORY.index("measured_gradient")] = (raw**2).sum()
                    if exact:
                        kept[MEMORY.index("squares")] = (before**2).sum()
                else:
                    kept[MEMORY.index("multiplier")] = multiplier
                    kept[MEMORY.index("squares")] = (after**2).sum()
                    kept[MEMORY.index("bound")] = bound = _bound(form, cell["target"], own)
                    if bound < 0:
                        _await_bound(form, cell["target"], step, kept)
            if not measure:
                for k, (own_slot, slot) in enumerate(zip(stored, slots, strict=True)):
                    if rounding_seed >= 0:
                        own_slot[:] = to_bfloat16(slot, rounding_seed, int(step), s_at, k)
                if cell["max_norm"]:
                    rows = after.reshape(-1, int(cell["outputs"]))
                    norms = np.sqrt((rows**2).sum(axis=0))
                    after = (rows * np.minimum(1, cell["max_norm"] / np.maximum(norms, 1e-300))).reshape(-1)
                p[:] = after
                if own_average is not None:
                    weight = 1 - average_momentum if step > 1 else 1.0
                    own_average[:] = own_average + (after - own_average) * weight
        sums = [before**2, np.abs(before), before == 0, u * before, g**2, ~np.isfinite(g)]
        out[:] = [terms.sum() for terms in sums]
    return stats


def _bound(form: str, target: float, own: dict[str, float]) -> float:
    """κ of a step; below 0 if there is none yet."""
    if form == "constrained_initial" and own["bound"] < 0:
        return target * own["squares"]
    return target if form == "constrained" else own["bound"]


def _await_bound(form: str, target: float, step: float, kept: np.ndarray) -> None:
    """Sets κ in a row of the memory after a step, if this is where."""
    squares, (bound, sample, growth) = kept[MEMORY.index("squares")], map(MEMORY.index, MEMORY[6:])
    if form == "constrained_warm_start" and step >= target:
        kept[bound] = squares
    if form == "constrained_inflection" and step % target == 0:
        if squares - kept[sample] < kept[growth]:
            kept[bound] = squares
        kept[growth], kept[sample] = squares - kept[sample], squares


REFERENCES: dict[str, Any] = {"optimizer_step": reference}

def _case(rule: str, size: int, **strengths: float) -> Case:
    row = dict.fromkeys(TABLE, 0.0) | {"length": size, "rate_share": 1, "l2_clock": -1, "l1_clock": -1} | strengths
    inputs: dict[str, Any] = {"param": (size,), "grad": (size,), "table": np.array([[row[name] for name in TABLE]]),
                              "hyper": np.array([0.001, 10, 1, 0.1])}
    inputs |= {f"slot{i + 1}": Uniform((size,), 0, 1) for i in range(SLOTS[rule])}
    return Case("optimizer_step", inputs, {"rule": rule}, terms=size, gradient=False)



def _by_factors(rule: str, rows: tuple[int, ...], ins: int, outs: int, **strengths: float) -> Case:
    case = _case(rule, ins * outs, **strengths)
    factors = {"grad": None, "x": (*rows, ins), "dy": (*rows, outs)}
    return Case(case.op, case.inputs | factors, case.attrs, terms=case.terms + int(np.prod(rows)), gradient=False)


CASES = [_case(rule, 10_007, shrink=0.01) for rule in SLOTS] + [_case("adam", n, l2=5e-4) for n in (0, 1, 33)] + [
    _by_factors("adam", (32,), 101, 80, shrink=0.01), _by_factors("momentum", (3, 67), 49, 16, l2=5e-4),
    _by_factors("lion", (1,), 1, 16), _by_factors("adam", (7,), 700, 48, l1=1e-3),
    _by_factors("sgd", (5,), 97, 32, max_norm=1.0, outputs=32)]
